"""One case from raw arrays to what the network sees, and predictions all the way back.

Forward: crop -> axes in the plan's order -> normalise -> resample -> close the labels. Backward: resample -> most
probable class -> axes in raw order -> paste into the raw grid. A plan for 2D slices puts the axis across them first and
never resamples it. The module needs no torch: what resamples is loaded where a case is resampled.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from monai_ext.errors import InputError
from monai_ext.planning.plan import Plan
from monai_ext.preprocessing.crop import Box, crop, foreground_box, paste
from monai_ext.preprocessing.intensity import normalize
from monai_ext.preprocessing.label_closing import close_labels
from monai_ext.preprocessing.resample import needs_separate_axis

if TYPE_CHECKING:
    import torch

    from monai_ext.datasets.image_files import Geometry

Resample = Callable[[np.ndarray, tuple[int, ...], "int | None"], np.ndarray]


@dataclass(frozen=True)
class Placement:
    """Where a stored case lies in its raw volume.

    Attributes:
        raw_shape: `(z, y, x)` of the raw canonical volume.
        box: `(start, stop)` of the crop per raw axis.
        stored_shape: spatial shape of the stored case, axes in the plan's order.
    """

    raw_shape: tuple[int, ...]
    box: Box
    stored_shape: tuple[int, ...]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_dict(content: Mapping[str, Any]) -> Placement:
        return Placement(
            raw_shape=tuple(int(n) for n in content["raw_shape"]),
            box=tuple((int(start), int(stop)) for start, stop in content["box"]),
            stored_shape=tuple(int(n) for n in content["stored_shape"]),
        )


def preprocess(
    image: np.ndarray,
    geometry: Geometry,
    plan: Plan,
    label: np.ndarray | None = None,
    resample: Resample | None = None,
) -> tuple[np.ndarray, np.ndarray | None, Placement]:
    """Prepare one case for the network.

    Args:
        image: `[C, D, H, W]` float32, canonical; not changed.
        geometry: gives the spacing `(z, y, x)` in mm.
        plan: axes, spacing, crop, normalization and label_closing are used.
        label: `[D, H, W]` integers; values outside the crop are lost.
        resample: of images, called as `monai_ext.ops.spline_resample.resample_image`, which is the default.

    Returns:
        Image `[C, d, h, w]` float32, label `[d, h, w]` (uint8, or int16 from value 256 on) or None, and the placement.

    Raises:
        InputError: number of channels or intensities do not fit the plan; label of another shape or negative.
    """
    if label is not None:
        _check_label(label, image)
    axes = stored_axes(plan)
    box = foreground_box(image, plan.crop)
    part = np.array(crop(image, box).transpose(0, *(1 + a for a in axes)), dtype=np.float32, order="C")
    normalize(part, plan.normalization, plan.intensity)
    spacing, target = _spacings(geometry, plan)
    shape = tuple(
        max(1, round(old / new * size)) for old, new, size in zip(spacing, target, part.shape[1:], strict=True)
    )
    separate = needs_separate_axis(spacing, target)
    stored_label = None
    if label is not None:
        dtype = np.uint8 if label.max(initial=0) < 256 else np.int16
        from monai_ext.ops.spline_resample import resample_labels

        cut = np.ascontiguousarray(crop(label, box).transpose(axes), dtype=dtype)
        stored_label = resample_labels(cut, shape, separate)
        if plan.label_closing:
            slices = axes.index(0) if plan.spatial_dims == 3 else 0
            stored_label = close_labels(stored_label, slices, plan.ignore_label)
    if part.shape[1:] != shape:
        part = (resample or _fused_resampling())(part, shape, separate)
    return part, stored_label, Placement(tuple(image.shape[1:]), box, shape)


def needs_resampling(placement: Placement, geometry: Geometry, plan: Plan) -> bool:
    """Whether the stored grid differs from the raw one within the crop."""
    return _cropped_shape(placement, plan) != placement.stored_shape


def raw_grid(placement: Placement, geometry: Geometry, plan: Plan) -> tuple[tuple[int, ...], int | None]:
    """Shape of the crop in the raw grid, axes in stored order, and the axis of order 0 on the way back to it."""
    return _cropped_shape(placement, plan), needs_separate_axis(*reversed(_spacings(geometry, plan)))


def restore_labels(logits: torch.Tensor, placement: Placement, geometry: Geometry, plan: Plan) -> np.ndarray:
    """Most probable class of every raw voxel; background outside the crop.

    Args:
        logits: `[K, d, h, w]` in stored space, any float dtype, any device.

    Returns:
        `[D, H, W]` uint8 (uint16 from class value 256 on) in the raw canonical grid.
    """
    from monai_ext.ops.spline_resample import resample_logits_argmax

    _check_stored(logits.shape[1:], placement)
    separate = needs_separate_axis(*reversed(_spacings(geometry, plan)))
    labels = resample_logits_argmax(logits, _cropped_shape(placement, plan), separate)
    values = class_values(plan)
    if len(values) == len(logits) and values != list(range(len(values))):
        labels = np.array(values, dtype=np.uint8 if max(values) < 256 else np.uint16)[labels]
    return _paste_labels(labels, placement, plan)


def restore_stored_labels(labels: np.ndarray, placement: Placement, geometry: Geometry, plan: Plan) -> np.ndarray:
    """Class values `[d, h, w]` to `[D, H, W]` raw: in stored space of cases that were not resampled, or on `raw_grid`.

    Raises:
        ValueError: another shape, or in stored space of a resampled case.
    """
    if labels.shape != _cropped_shape(placement, plan):
        _check_stored(labels.shape, placement)
        raise ValueError("this case was resampled: labels alone cannot be restored, use restore_labels on the logits")
    dtype = np.uint8 if labels.max(initial=0) < 256 else np.uint16
    return _paste_labels(labels.astype(dtype, copy=False), placement, plan)


def restore_probabilities(logits: torch.Tensor, placement: Placement, geometry: Geometry, plan: Plan) -> np.ndarray:
    """Softmax of the resampled logits: `[K, D, H, W]` float32 in the raw grid, background 1 outside the crop."""
    from monai_ext.ops.spline_resample import use_logit_tiles

    _check_stored(logits.shape[1:], placement)
    separate = needs_separate_axis(*reversed(_spacings(geometry, plan)))
    result = np.zeros((logits.shape[0], *placement.raw_shape), dtype=np.float32)
    result[0] = 1
    inside = crop(result, placement.box).transpose(0, *(1 + a for a in stored_axes(plan)))

    def fill(region: tuple[slice, ...], tile: torch.Tensor) -> None:
        inside[(slice(None), *region)] = tile.softmax(0).cpu().numpy()

    use_logit_tiles(logits, _cropped_shape(placement, plan), separate, fill)
    return result


def stored_axes(plan: Plan) -> tuple[int, ...]:
    """Raw axis (of z, y, x) at each of the three stored axes; those of a 2D plan begin with the axis across slices."""
    if plan.spatial_dims == 3:
        return plan.axes
    within = [axis for axis in range(3) if axis != plan.slice_axis]
    return (plan.slice_axis, *(within[axis] for axis in plan.axes))


def class_values(plan: Plan) -> list[int]:
    """Label value of each network output."""
    return sorted(value for value in plan.labels.values() if value != plan.ignore_label)


def _fused_resampling() -> Resample:
    from monai_ext.ops.spline_resample import resample_image

    return resample_image


def _spacings(geometry: Geometry, plan: Plan) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Raw and target spacing in stored order."""
    raw = tuple(float(geometry.spacing[axis]) for axis in stored_axes(plan))
    if not plan.resample:
        return raw, raw
    return raw, (plan.spacing if plan.spatial_dims == 3 else (raw[0], *plan.spacing))


def _cropped_shape(placement: Placement, plan: Plan) -> tuple[int, ...]:
    sizes = [stop - start for start, stop in placement.box]
    return tuple(sizes[axis] for axis in stored_axes(plan))


def _paste_labels(labels: np.ndarray, placement: Placement, plan: Plan) -> np.ndarray:
    return paste(labels.transpose(np.argsort(stored_axes(plan))), placement.box, placement.raw_shape)


def _check_stored(shape: tuple[int, ...], placement: Placement) -> None:
    if tuple(shape) != placement.stored_shape:
        raise ValueError(f"prediction of shape {tuple(shape)} does not fit the stored case {placement.stored_shape}")


def _check_label(label: np.ndarray, image: np.ndarray) -> None:
    if label.shape != image.shape[1:]:
        raise InputError(
            f"label has shape {label.shape}, image {image.shape[1:]} (z, y, x). Cure: resample the label onto the image"
        )
    low = int(label.min(initial=0))
    if low < 0:
        raise InputError(f"label has the value {low}. Cure: number the classes from 0, without negative values")
