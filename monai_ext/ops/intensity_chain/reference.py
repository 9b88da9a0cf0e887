"""What the steps mean, in plain torch; statistics always in float64."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from monai_ext.ops.intensity_chain.axis_maps import (
    TINY,
    coarse_size,
    gaussian_matrix,
    linear_places,
    nearest_voxels,
)
from monai_ext.ops.intensity_chain.counter_noise import standard_normals

Step = Mapping[str, Any]


def intensity_chain(images: torch.Tensor, chains: Sequence[Sequence[Step]]) -> torch.Tensor:
    """As the public function, for float32 and float64."""
    out = torch.empty_like(images, memory_format=torch.contiguous_format)
    for target, image, chain in zip(out, images, chains, strict=True):
        for step in chain:
            image = _STEPS[step["name"]](image, step)
        target.copy_(image)
    return out


def _noise(image: torch.Tensor, step: Step) -> torch.Tensor:
    voxels = image[0].numel()
    noise = standard_normals(step["seed"], image.shape[0], voxels, image.dtype, image.device)
    return noise.reshape(image.shape).mul(step["std"]).add_(image)


def _blur(image: torch.Tensor, step: Step) -> torch.Tensor:
    return torch.stack([_blur_channel(x, sigmas) for x, sigmas in zip(image, step["sigma"], strict=True)])


def _blur_channel(channel: torch.Tensor, sigmas: Sequence[float]) -> torch.Tensor:
    for axis, sigma in enumerate(sigmas):
        if sigma > 0:
            # a product with a small dense matrix runs near a processor's peak, borders included
            matrix = gaussian_matrix(channel.shape[axis], sigma).to(channel)
            channel = (channel.movedim(axis, -1) @ matrix.T).movedim(-1, axis)
    return channel


def _brightness(image: torch.Tensor, step: Step) -> torch.Tensor:
    return torch.stack([x * factor for x, factor in zip(image, step["factor"], strict=True)])


def _contrast(image: torch.Tensor, step: Step) -> torch.Tensor:
    if step["about"] == "zero":
        return _brightness(image, step).clamp_(image.amin(), image.amax())
    out = []
    for x, factor in zip(image, step["factor"], strict=True):
        offset = x.mean(dtype=torch.float64) * (1 - factor)
        out.append((x * factor).add_(offset.to(x.dtype)).clamp_(x.amin(), x.amax()))
    return torch.stack(out)


def _low_resolution(image: torch.Tensor, step: Step) -> torch.Tensor:
    return torch.stack([_coarsen(x, zooms) for x, zooms in zip(image, step["zoom"], strict=True)])


def _coarsen(channel: torch.Tensor, zooms: Sequence[float]) -> torch.Tensor:
    sizes = channel.shape
    coarse = [coarse_size(size, zoom) for size, zoom in zip(sizes, zooms, strict=True)]
    axes = [axis for axis, size in enumerate(sizes) if coarse[axis] != size]
    for axis in axes:
        channel = channel.index_select(axis, nearest_voxels(sizes[axis], coarse[axis]).to(channel.device))
    for axis in axes:
        left, right, weight = (t.to(channel.device) for t in linear_places(sizes[axis], coarse[axis]))
        weight = weight.to(channel.dtype).view([-1 if a == axis else 1 for a in range(len(sizes))])
        channel = torch.lerp(channel.index_select(axis, left), channel.index_select(axis, right), weight)
    return channel


def _gamma(image: torch.Tensor, step: Step) -> torch.Tensor:
    invert, keep = step["invert"], step["keep_stats"]
    return torch.stack([_gamma_curve(x, e, invert, keep) for x, e in zip(image, step["exponent"], strict=True)])


def _gamma_curve(channel: torch.Tensor, exponent: float, invert: bool, keep_stats: bool) -> torch.Tensor:
    low, high = channel.amin(), channel.amax()
    start, sign = (high, -1.0) if invert else (low, 1.0)
    # rounding may give a t of -1e-8, whose power is NaN
    t = (channel - start).mul_(sign / (high - low).clamp_min(TINY)).clamp_(0, 1)
    curve = t.pow_(exponent)
    if not keep_stats:
        return curve.mul_(sign * (high - low)).add_(start)
    mean, deviation = _moments(channel)
    new_mean, new_deviation = _moments(curve)
    ratio = sign * deviation / new_deviation.clamp_min(TINY)
    return curve.mul_(ratio.to(curve.dtype)).add_((mean - ratio * new_mean).to(curve.dtype))


def _moments(channel: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean, and norm of the deviations from it; 0-dim float64."""
    exact = channel.double()
    mean = exact.mean()
    return mean, torch.linalg.vector_norm(exact - mean)


_STEPS: dict[str, Callable[[torch.Tensor, Step], torch.Tensor]] = {
    "noise": _noise,
    "blur": _blur,
    "brightness": _brightness,
    "contrast": _contrast,
    "low_resolution": _low_resolution,
    "gamma": _gamma,
}
