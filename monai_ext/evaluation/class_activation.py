"""Where in an image the evidence for a class lies: Grad-CAM (Selvaraju et al. 2017), and its picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.functional import interpolate

from monai_ext.errors import InputError
from monai_ext.evaluation.image_grid import compose_image_grid, displayed
from monai_ext.evaluation.overlay_picture import save_picture

LAYER = "layer4"
PANEL = 320
# from no evidence to most: dark violet, magenta, orange, light yellow; lightness grows, so that grey prints show it too
RAMP = np.array([(30, 10, 60), (140, 40, 130), (240, 120, 60), (255, 250, 170)], dtype=np.float64)
LINEAR = {1: "linear", 2: "bilinear", 3: "trilinear"}


def class_activation(
    network: nn.Module,
    images: torch.Tensor,
    classes: Sequence[int] | torch.Tensor,
    layer: str = LAYER,
    first_cell: float | None = 0.0,
) -> torch.Tensor:
    """Grad-CAM of one class per image.

    The features of a layer, weighted by the spatial mean of the logit's gradient, summed over channels and rectified.
    The gradient is taken from the logit back to that layer only, so that weights need no gradients (frozen and
    inference networks do), none are left behind, and earlier layers keep nothing.

    Args:
        network: gives logits `[B, K]`; run in evaluation mode, its mode is restored. Of several networks in one (an
            ensemble) the maps are averaged.
        images: `[B, C, *size]` as the network takes them, on its device.
        classes: `[B]` indices.
        layer: name of the module whose output is looked at, `[B, F, *smaller]`, in the network or in its parts.
        first_cell: pixel on which the layer's first cell is centred. 0 for convolutions of odd size with padding on
            both sides, as in residual networks: cell i looks at pixel i * stride, the stride being a power of two.
            None: cells tile the image, as Grad-CAM is mostly drawn, which moves the map of such a network by half a
            stride (16 pixels for a stride of 32).

    Returns:
        `[B, *size]` float32, 0 to 1; the most of each image is 1, or all is 0 if nothing speaks for the class.

    Raises:
        InputError: the network has no such layer.
    """
    module = getattr(network, "_orig_mod", network)  # of a compiled network, hooks of whose parts are not called
    layers = [part for name, part in module.named_modules() if f".{name}".endswith(f".{layer}")]
    if not layers:
        listed = ", ".join(name for name, _ in module.named_children())
        raise InputError(f"layer {layer!r}: is not in the network. Cure: one of {listed}")
    kept: list[torch.Tensor] = []

    def keep(_: nn.Module, __: Any, output: torch.Tensor) -> torch.Tensor:
        kept.append(output.detach().requires_grad_())
        return kept[-1]

    hooks = [part.register_forward_hook(keep) for part in layers]
    training = module.training
    module.eval()
    try:
        with torch.inference_mode(False), torch.enable_grad():
            logits = module(images.detach().clone())
            chosen = torch.as_tensor(classes, device=logits.device).reshape(-1, 1)
            # images of a batch do not influence each other in evaluation mode, so that one sum serves all
            gradients = torch.autograd.grad(logits.float().gather(1, chosen).sum(), kept)
    finally:
        for hook in hooks:
            hook.remove()
        module.train(training)
    pairs = zip(kept, gradients, strict=True)
    maps = [_heat(f.detach().float(), g.float(), images.shape[2:], first_cell) for f, g in pairs]
    return torch.stack(maps).mean(0)


def _heat(
    features: torch.Tensor, gradient: torch.Tensor, size: Sequence[int], first_cell: float | None
) -> torch.Tensor:
    axes = tuple(range(2, features.ndim))
    heat = (features * gradient.mean(axes, keepdim=True)).sum(1, keepdim=True).relu()
    if first_cell is None:
        heat = interpolate(heat, tuple(size), mode=LINEAR[len(axes)], align_corners=False)
    else:
        for axis, length in zip(axes, size, strict=True):
            weights = _cell_weights(length, heat.shape[axis], first_cell).to(heat)
            heat = torch.tensordot(heat, weights, ([axis], [1])).movedim(-1, axis)
    highest = heat.amax(tuple(range(1, heat.ndim)), keepdim=True)
    return (heat / highest.clamp(min=torch.finfo(torch.float32).tiny))[:, 0]


def _cell_weights(length: int, cells: int, first_cell: float) -> torch.Tensor:
    """Linear interpolation `[length, cells]` from cells, a stride apart, to pixels; constant outside."""
    stride = 2 ** math.ceil(math.log2(length / cells))
    places = ((torch.arange(length) - first_cell) / stride).clamp(0, cells - 1)
    return (1 - (places[:, None] - torch.arange(cells)).abs()).clamp(min=0)


class ActivationPicture:
    """Draws an image beside itself with the Grad-CAM of a class over it; for `TopKPrediction`.

    Args:
        network: see `class_activation`; in full precision.
        mean, std: per channel, what the images were normalised by.
        layer: see `class_activation`.
    """

    def __init__(self, network: nn.Module, mean: Sequence[float], std: Sequence[float], layer: str = LAYER) -> None:
        self.network = network
        self.mean, self.std = tuple(mean), tuple(std)
        self.layer = layer

    def __call__(self, image: torch.Tensor, index: int, caption: str, path: Path) -> None:
        """Write a PNG file.

        Args:
            image: `[C, *size]`, normalised.
            index: of the class.
            caption: line under the image.
            path: of the file.
        """
        heat = class_activation(self.network, image[None].float(), [index], self.layer)[0]
        values = image.detach().float().cpu().numpy()
        save_picture(path, compose_activation(values, heat.cpu().numpy(), caption, self.mean, self.std))


def compose_activation(
    image: np.ndarray, heat: np.ndarray, caption: str, mean: Sequence[float], std: Sequence[float]
) -> np.ndarray:
    """Image and heat map side by side.

    Args:
        image: `[C, *size]`, normalised; of a volume the slice with the most heat is drawn.
        heat: `[*size]`, 0 to 1.
        caption: line under the image.
        mean, std: see `displayed`.

    Returns:
        `[height, width, 3]` uint8 RGB.

    Raises:
        ValueError: the sizes differ.
    """
    if image.shape[1:] != heat.shape:
        raise ValueError(f"image {image.shape} and heat {heat.shape} must be [C, *size] and [*size]")
    if heat.ndim == 3:
        position = int(heat.max((1, 2)).argmax())
        image, heat = image[:, position], heat[position]
        caption = f"{caption}, slice {position}"
    shown = displayed(image, mean, std)
    rows = np.broadcast_to(heat, shown.shape[:2])[..., None]  # of one dimension: a strip
    grey = shown.mean(-1, keepdims=True)
    mixed = (1 - 0.65 * rows) * grey + 0.65 * rows * ramp(rows[..., 0])
    overlay = mixed.round().astype(np.uint8)
    return compose_image_grid([shown, overlay], [[caption], ["evidence (Grad-CAM)"]], columns=2, panel=PANEL)


def ramp(values: np.ndarray) -> np.ndarray:
    """Colours `[..., 3]` float64, 0 to 255, of values 0 to 1."""
    places = np.linspace(0, 1, len(RAMP))
    return np.stack([np.interp(values, places, RAMP[:, channel]) for channel in range(3)], -1)
