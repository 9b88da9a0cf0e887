"""RoIAlign from one map or from the levels of a pyramid, and its gradient."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from monai_ext.ops import forms

NAME = "roi_align"


def roi_align(
    features: torch.Tensor,
    rois: torch.Tensor,
    output_size: tuple[int, int],
    scale: float,
    sampling: int = 2,
    aligned: bool = True,
) -> torch.Tensor:
    """Means of bilinear samples in the bins of regions (He et al. 2017, Mask R-CNN).

    Every region is cut into P x Q bins, and every bin takes the mean of `sampling` x `sampling` samples at the centres
    of equal cells. Samples more than one pixel off the map count as zero, those nearer take the value at its edge.
    A region of which a coordinate is NaN gives zeros. The gradient goes to the features only; it adds in a fixed
    order, so that the same call has the same bits every time, with any number of threads.

    Args:
        features: `[N, C, H, W]` float32, bfloat16, float16 or float64; channels last is read as it is, others copied.
        rois: `[R, 5]` float32 or float64: image (0 to N - 1), then x0, y0, x1, y1 in pixels of the image, measured
            at pixel edges (columns 3 to 7 are x0 = 3, x1 = 8).
        output_size: P and Q, bins along y and x.
        scale: pixels of the map per pixel of the image, 1 / stride.
        sampling: samples along each axis of a bin; 0 is adaptive: one per pixel of the map that the bin is wide,
            rounded up, at most 1024.
        aligned: pixel centres of the map lie at half numbers. False leaves that half pixel out and makes regions at
            least one pixel wide and high, as older weights expect.

    Returns:
        `[R, C, P, Q]` in the type of the features, channels last in memory. Sums are float32 (float64 for float64),
        coordinates float64.

    Raises:
        ValueError: shapes or types do not fit, or (on processors only, elsewhere such a region gives zeros) a region
            names an image that is not there.
    """
    levels = torch.zeros(rois.shape[:1], dtype=torch.int64, device=rois.device)
    return _call([features], rois, levels, output_size, [float(scale)], sampling, aligned)


def multiscale_roi_align(
    features: Sequence[torch.Tensor],
    rois: torch.Tensor,
    output_size: tuple[int, int],
    strides: Sequence[float],
    sampling: int = 2,
    aligned: bool = True,
    canonical_size: float = 224.0,
    canonical_level: int = 4,
    first_level: int = 2,
) -> torch.Tensor:
    """`roi_align` of every region from the level of a pyramid that fits its size (Lin et al. 2017, eq. 1).

    Level `floor(canonical_level + log2(sqrt(width * height) / canonical_size + 1e-8))`, limited to those given.

    Args:
        features: maps `[N, C, H_l, W_l]` of levels `first_level`, `first_level + 1`, ..., finest first.
        rois: see `roi_align`.
        output_size: see `roi_align`.
        strides: pixels of the image per pixel of the map, one a level.
        sampling: see `roi_align`.
        aligned: see `roi_align`.
        canonical_size: side in pixels of a square region that belongs to `canonical_level`.
        canonical_level: see above.
        first_level: number of the first map.

    Returns:
        `[R, C, P, Q]`, see `roi_align`; regions keep their order.

    Raises:
        ValueError: as `roi_align`, or levels and strides differ in number.
    """
    if not len(features):
        raise ValueError("no features: one map a level is needed")
    if len(strides) != len(features):
        raise ValueError(f"{len(features)} levels of features need as many strides, got {len(strides)}")
    levels = region_levels(rois[:, 1:], len(features), canonical_size, canonical_level - first_level)
    return _call(list(features), rois, levels, output_size, [1.0 / s for s in strides], sampling, aligned)


def region_levels(boxes: torch.Tensor, count: int, canonical_size: float = 224.0, canonical: int = 2) -> torch.Tensor:
    """Index `[R]` int64 of the map that each region is pooled from (Lin et al. 2017, feature pyramids, equation 1).

    Args:
        boxes: `[R, 4]` floating (x0, y0, x1, y1) in pixels of the image.
        count: of maps; 0 is the finest, also for regions without an area or with a coordinate that is NaN.
        canonical_size: side in pixels of a square region that belongs to map `canonical`; half of it is one finer.
        canonical: see above.
    """
    sides = (boxes[:, 2:] - boxes[:, :2]).double().clamp_min(0)
    side = sides.prod(1).nan_to_num(nan=0.0).sqrt()
    level = torch.floor(canonical + torch.log2(side / canonical_size + 1e-8))
    return level.clamp(0, count - 1).to(torch.int64)


def _call(
    features: list[torch.Tensor],
    rois: torch.Tensor,
    levels: torch.Tensor,
    output_size: tuple[int, int],
    scales: list[float],
    sampling: int,
    aligned: bool,
) -> torch.Tensor:
    first = features[0]
    for value in features:
        if value.ndim != 4 or value.shape[:2] != first.shape[:2] or value.dtype != first.dtype:
            raise ValueError(
                f"features must be [N, C, H, W], alike in N, C and type: found {tuple(value.shape)} {value.dtype} "
                f"and {tuple(first.shape)} {first.dtype}"
            )
        if value.shape[2] < 1 or value.shape[3] < 1:
            raise ValueError(f"features {tuple(value.shape)} have no pixels")
    if not first.is_floating_point():
        raise ValueError(f"features must be floating, not {first.dtype}")
    if rois.ndim != 2 or rois.shape[1] != 5:
        raise ValueError(f"rois {tuple(rois.shape)} must be [R, 5]: image, x0, y0, x1, y1")
    if rois.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"rois must be float32 or float64, not {rois.dtype}: half types cannot hold coordinates")
    rows, columns = output_size
    if rows < 1 or columns < 1:
        raise ValueError(f"output_size {tuple(output_size)} must be positive")
    if sampling < 0:
        raise ValueError(f"sampling {sampling} must be positive, or 0 for adaptive")
    return _forward(features, rois.detach(), levels, rows, columns, scales, sampling, aligned)


@torch.library.custom_op("monai_ext::roi_align", mutates_args=())
def _forward(
    features: Sequence[torch.Tensor],
    rois: torch.Tensor,
    levels: torch.Tensor,
    rows: int,
    columns: int,
    scales: Sequence[float],
    sampling: int,
    aligned: bool,
) -> torch.Tensor:
    first = features[0]
    if rois.device.type == "cpu" and rois.numel():
        image = rois[:, 0]
        if not bool(((image >= 0) & (image < first.shape[0])).all()):
            raise ValueError(f"rois name images {image.min():g} to {image.max():g}, there are {first.shape[0]}")
    if rois.shape[0] == 0 or first.shape[1] == 0:
        return _empty(first, rois.shape[0], rows, columns)
    with forms.on_device_of(first):
        return _form(first).forward(features, rois, levels, rows, columns, scales, sampling, aligned)


def _form(value: torch.Tensor) -> Any:
    """Only the reference computes in float64."""
    if value.dtype == torch.float64:
        from monai_ext.ops.roi_align import reference

        return reference
    return forms.implementation(NAME, value.device)


def _empty(like: torch.Tensor, count: int, rows: int, columns: int) -> torch.Tensor:
    return like.new_empty((count, rows, columns, like.shape[1])).permute(0, 3, 1, 2)


@_forward.register_fake
def _(features: Any, rois: torch.Tensor, levels: Any, rows: int, columns: int, *_: Any) -> torch.Tensor:
    return _empty(features[0], rois.shape[0], rows, columns)


@torch.library.custom_op("monai_ext::roi_align_backward", mutates_args=())
def _backward(
    dy: torch.Tensor,
    rois: torch.Tensor,
    levels: torch.Tensor,
    batch: int,
    sizes: Sequence[int],
    scales: Sequence[float],
    sampling: int,
    aligned: bool,
) -> list[torch.Tensor]:
    """Gradients of the features, channels last in memory; `sizes` are height and width of level after level."""
    pairs = list(zip(sizes[::2], sizes[1::2], strict=True))
    if dy.numel() == 0:
        return [_gradient_of(dy, batch, *pair).zero_() for pair in pairs]
    with forms.on_device_of(dy):
        return list(_form(dy).backward(dy, rois, levels, batch, pairs, scales, sampling, aligned))


def _gradient_of(dy: torch.Tensor, batch: int, height: int, width: int) -> torch.Tensor:
    return dy.new_empty((batch, height, width, dy.shape[1])).permute(0, 3, 1, 2)


@_backward.register_fake
def _(dy: torch.Tensor, rois: Any, levels: Any, batch: int, sizes: Sequence[int], *_: Any) -> list[torch.Tensor]:
    return [_gradient_of(dy, batch, *pair) for pair in zip(sizes[::2], sizes[1::2], strict=True)]


def _keep(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    features, rois, levels, _, _, scales, sampling, aligned = inputs
    ctx.save_for_backward(rois, levels)
    ctx.batch, ctx.sizes = features[0].shape[0], [size for value in features for size in value.shape[2:]]
    ctx.scales, ctx.sampling, ctx.aligned = scales, sampling, aligned


def _gradient(ctx: Any, dy: torch.Tensor) -> tuple[Any, ...]:
    rois, levels = ctx.saved_tensors
    found = _backward(dy, rois, levels, ctx.batch, ctx.sizes, ctx.scales, ctx.sampling, ctx.aligned)
    return found, None, None, None, None, None, None, None


_forward.register_autograd(_gradient, setup_context=_keep)
