"""From the fingerprint of a dataset to a plan, each number with its reason."""

from __future__ import annotations

import math
from collections.abc import Sequence

from monai_ext.errors import InputError, Problems
from monai_ext.planning.fingerprint import CROP_RULES, Fingerprint
from monai_ext.planning.low_resolution import plan_low_resolution
from monai_ext.planning.patch_size import (
    MAX_FEATURES,
    REFERENCES,
    BatchChoice,
    MemoryTarget,
    PatchChoice,
    choose_batch,
    choose_patch,
)
from monai_ext.planning.plan import Plan
from monai_ext.planning.spacing import axis_order, median_shape, target_spacing

MASK_THRESHOLD = 0.75
NAMED_SCHEMES = {
    "ct": "ct",
    "nonorm": "none",
    "none": "none",
    "rescale_to_0_1": "rescale_to_0_1",
    "rgb_to_0_1": "rgb_to_0_1",
}


def make_plan(
    fingerprint: Fingerprint,
    *,
    spatial_dims: int = 3,
    memory_gb: float = 8.0,
    base_features: int = 32,
    spacing: Sequence[float] = (),
    patch_size: Sequence[int] = (),
    batch_size: int = 0,
    crop: str = "nonzero",
    reference: str = "plain",
    dataset_share: float = 0.05,
    batch_limit: int = 64,
    num_training_cases: int = 0,
    slice_axis: int = 0,
    resample: bool = True,
) -> Plan:
    """Plan the 3D full resolution (or 2D) configuration by nnU-Net's rules (Isensee et al. 2021; nnunetv2 2.8.1).

    Empty or 0 means "plan it"; a given value wins and is noted in `why`. On purpose it differs from the peer in:

    - The batch never exceeds `batch_limit`, and `dataset_share` is 5 % for the residual presets too. The peer lifts
      that share to 100 %, which on small images plans 178 hippocampus patches or thousands of slices a step, hours
      of computing for no gain in Dice. With `batch_limit=0` and the preset's own share the peer's batch comes out.
    - Images too small to be halved get a patch of 8 (or 16) voxels and two levels, see `patch_size.start_patch`.
    - An axis is never shrunk below 4 voxels, however small `memory_gb` is.
    - 2D slices are normal to z unless `slice_axis` says otherwise; the peer takes the coarsest axis (-1).

    Args:
        fingerprint: of the training set.
        spatial_dims: 2 or 3.
        memory_gb: GPU memory that a training step may fill.
        base_features: channels of level 0.
        spacing: target spacing in mm, raw order (z, y, x); for 2D also (y, x).
        patch_size: voxels at target spacing, raw order (z, y, x), for 2D (y, x); rounded up to a legal size.
        batch_size: patches per step.
        crop: foreground rule, the same as the fingerprint's.
        reference: planner preset, a key of `patch_size.REFERENCES`.
        dataset_share: most of the training set's voxels in one batch, 0 to 1.
        batch_limit: largest planned batch, 0 for none.
        num_training_cases: cases that share counts, 0 for those of the fingerprint.
        slice_axis: 2D only: raw axis normal to the slices; -1 for the coarsest, or an axis of one voxel (images).
        resample: False stores cases at their own spacing; the target then serves topology and patch only.

    Raises:
        InputError: an option is out of range, or volumes of one slice are to be planned in 3D.
    """
    _check_options(
        fingerprint, spatial_dims, memory_gb, base_features, spacing, patch_size, batch_size, crop, reference,
        dataset_share, batch_limit, slice_axis,
    )  # fmt: skip
    why: dict[str, str] = {}
    target = target_spacing(fingerprint.cases)
    millimetres, why["spacing"] = target.spacing, target.why
    if spacing:
        given = (float(s) for s in spacing)
        millimetres = tuple(given) if len(spacing) == 3 else (target.spacing[0], *given)
        why["spacing"] = f"given; planned would be {_short(target.spacing)} ({target.why})"
    raw_shape = median_shape(fingerprint.cases, millimetres)
    order = _order(millimetres, raw_shape, spatial_dims, slice_axis, fingerprint.dataset)
    stored_spacing = tuple(millimetres[a] for a in order)
    stored_shape = tuple(raw_shape[a] for a in order)
    normal = 0 if spatial_dims == 3 else next(a for a in range(3) if a not in order)
    axes = tuple(order) if spatial_dims == 3 else (0, 1)
    why["axes"] = _why_axes(millimetres, order, spatial_dims)
    why["slice_axis"] = "of 2D plans only" if spatial_dims == 3 else _why_axes(millimetres, order, 2)
    why["resample"] = "cases are brought to the target spacing" if resample else "given: cases keep their own spacing"
    why["median_shape"] = f"median of {len(fingerprint.cases)} cases after the {crop} crop, at target spacing"

    memory = MemoryTarget(spatial_dims, fingerprint.num_classes, base_features, memory_gb, reference)
    planned = choose_patch(stored_spacing, stored_shape, memory)
    why["patch_size"] = _why_patch(planned, memory)
    chosen = planned
    if patch_size:
        wanted = [patch_size[a] for a in order] if spatial_dims == 3 else list(patch_size)
        chosen = PatchChoice(*memory.evaluate(stored_spacing, wanted), start=tuple(wanted), reductions=0)
        why["patch_size"] = _why_given_patch(wanted, chosen, planned, memory)
    num_cases = num_training_cases or len(fingerprint.cases)
    voxels = math.prod(raw_shape) * num_cases
    batch = choose_batch(chosen.cost, chosen.topology.patch_size, voxels, memory, dataset_share, batch_limit)
    why["batch_size"] = _why_batch(batch, dataset_share, num_cases)
    if batch_size:
        why["batch_size"] = f"given; planned would be {batch.size} ({why['batch_size']})"

    levels = len(chosen.topology.strides)
    why["strides"] = f"axes within twice the finest spacing are halved while an edge of 4 remains: {levels} levels"
    why["kernels"] = "1 along an axis until its spacing is below twice the finest, then 3"
    why["features"] = f"{base_features} doubled per level, at most {MAX_FEATURES[spatial_dims]}"
    batch_dice, why["batch_dice"] = _batch_dice(chosen, stored_spacing, stored_shape, memory)
    schemes, why["normalization"] = choose_normalization(fingerprint.channels, fingerprint.median_relative_size)
    why["mirror_axes"] = "all axes, as nothing is known against it"
    why["crop"] = f"given; a median case keeps {fingerprint.median_relative_size:.0%} of its voxels"
    return Plan(
        dataset=fingerprint.dataset,
        channels=fingerprint.channels,
        labels=dict(fingerprint.labels),
        ignore_label=fingerprint.ignore_label,
        spatial_dims=spatial_dims,
        axes=axes,
        spacing=stored_spacing,
        median_shape=tuple(round(n) for n in stored_shape),
        crop=crop,
        normalization=schemes,
        intensity=fingerprint.intensity,
        patch_size=chosen.topology.patch_size,
        batch_size=batch_size or batch.size,
        strides=chosen.topology.strides,
        kernels=chosen.topology.kernels,
        features=chosen.features,
        batch_dice=batch_dice,
        mirror_axes=tuple(range(spatial_dims)),
        slice_axis=normal,
        resample=resample,
        why=why,
    )


def choose_normalization(channels: Sequence[str], median_relative_size: float) -> tuple[tuple[str, ...], str]:
    """Scheme per channel by its name (case-insensitive), and the reason.

    `CT`, `noNorm` or `none`, `rescale_to_0_1`, `rgb_to_0_1` name their scheme; any other channel is z-scored, within
    the foreground mask if the crop leaves less than 3/4 of a median case.
    """
    masked = median_relative_size < MASK_THRESHOLD
    other = "zscore_masked" if masked else "zscore"
    schemes = tuple(NAMED_SCHEMES.get(name.lower(), other) for name in channels)
    why = "by channel name"
    if other in schemes:
        sign = "<" if masked else ">="
        why += f"; {other} because the crop keeps {median_relative_size:.3g} {sign} {MASK_THRESHOLD} of a median case"
    return schemes, why


def _check_options(
    fingerprint: Fingerprint,
    spatial_dims: int,
    memory_gb: float,
    base_features: int,
    spacing: Sequence[float],
    patch_size: Sequence[int],
    batch_size: int,
    crop: str,
    reference: str,
    dataset_share: float,
    batch_limit: int,
    slice_axis: int,
) -> None:
    problems = Problems(f"planning options for {fingerprint.dataset}")
    if not fingerprint.cases:
        problems.add("fingerprint", "has no cases", "compute it from a dataset with training cases")
    if spatial_dims not in (2, 3):
        problems.add("spatial_dims", f"is {spatial_dims}", "use 2 or 3")
    if not memory_gb > 0:
        problems.add("memory_gb", f"is {memory_gb}", "give the GPU memory to fill, e.g. 8")
    if base_features < 1:
        problems.add("base_features", f"is {base_features}", "give the channels of the first level, e.g. 32")
    if crop not in CROP_RULES:
        problems.add("crop", f"is {crop!r}", f"use one of {', '.join(CROP_RULES)}")
    elif crop != fingerprint.crop:
        problems.add("crop", f"is {crop!r}, the fingerprint was made with {fingerprint.crop!r}", "make it again")
    if reference not in REFERENCES:
        problems.add("reference", f"is {reference!r}", f"use one of {', '.join(REFERENCES)}")
    if slice_axis not in (-1, 0, 1, 2):
        problems.add("slice_axis", f"is {slice_axis}", "use 0, 1, 2 or -1")
    in_plane = spatial_dims == 2 and slice_axis == 0
    if len(spacing) not in ((0, 2, 3) if in_plane else (0, 3)) or not all(0 < s < math.inf for s in spacing):
        problems.add("spacing", f"is {list(spacing)}", "give positive mm as z,y,x (in 2D also y,x), or nothing")
    if len(patch_size) not in (0, spatial_dims) or any(p < 1 or p != int(p) for p in patch_size):
        problems.add("patch_size", f"is {list(patch_size)}", f"give {spatial_dims} positive whole numbers, or nothing")
    if batch_size < 0 or batch_limit < 0:
        problems.add("batch_size", f"is {batch_size}, batch_limit {batch_limit}", "give numbers >= 1, or 0 to plan it")
    if not 0 < dataset_share <= 1:
        problems.add("dataset_share", f"is {dataset_share}", "give a share above 0, at most 1")
    problems.raise_if_any()


def _order(
    spacing: Sequence[float], shape: tuple[float, ...], spatial_dims: int, slice_axis: int, dataset: str
) -> tuple[int, ...]:
    """Raw axes in stored order: all three, or the two within a slice."""
    order = axis_order(spacing)
    if spatial_dims == 2:
        if slice_axis == -1:
            slice_axis = shape.index(1) if 1 in shape else order[0]
        return tuple(a for a in range(3) if a != slice_axis)
    if min(shape) == 1:
        size = "x".join(f"{n:g}" for n in shape)
        raise InputError(f"dataset {dataset}: a median case is one slice ({size} voxels). Cure: use spatial_dims 2")
    return order


def _batch_dice(
    chosen: PatchChoice, spacing: Sequence[float], shape: Sequence[float], memory: MemoryTarget
) -> tuple[bool, str]:
    if memory.spatial_dims == 2:
        return True, "2D: a slice often lacks a class, a batch seldom"
    seen = math.prod(chosen.topology.patch_size) / math.prod(shape)
    if plan_low_resolution(chosen.topology.patch_size, spacing, shape, memory) is None:
        return False, f"a patch holds {seen:.0%} of the voxels of a median case"
    return True, f"a patch holds only {seen:.0%} of the voxels of a median case and may lack a class"


def _why_axes(spacing: Sequence[float], order: Sequence[int], spatial_dims: int) -> str:
    if spatial_dims == 3:
        return f"raw axis {order[0]} has the coarsest spacing ({spacing[order[0]]:.4g} mm) and comes first"
    (normal,) = set(range(3)) - set(order)
    return f"slices normal to raw axis {normal} of (z, y, x); stored axes are raw axes {_short(order)}"


def _why_patch(choice: PatchChoice, memory: MemoryTarget) -> str:
    fits = "<=" if choice.cost <= memory.patch_budget else "still >"
    return (
        f"start {_short(choice.start)} (aspect 1/spacing, at most the median shape), {choice.reductions} reductions: "
        f"{choice.cost / 1e6:.0f} M activations {fits} {memory.patch_budget / 1e6:.0f} M for {memory.memory_gb:g} GB"
    )


def _why_given_patch(wanted: Sequence[int], chosen: PatchChoice, planned: PatchChoice, memory: MemoryTarget) -> str:
    legal = chosen.topology.patch_size
    rounded = "" if legal == tuple(wanted) else f", rounded up from {_short(wanted)} to multiples of the total stride"
    over = f" > {memory.patch_budget / 1e6:.0f} M" if chosen.cost > memory.patch_budget else ""
    return (
        f"given{rounded}: {chosen.cost / 1e6:.0f} M activations{over}; "
        f"planned would be {_short(planned.topology.patch_size)}"
    )


def _why_batch(batch: BatchChoice, share: float, num_cases: int) -> str:
    text = f"memory allows {batch.by_memory}, {share:.0%} of the voxels of {num_cases} cases {batch.by_data}"
    if batch.limit:
        text += f", limit {batch.limit}"
    return text + "; the least of these, at least 2"


def _short(values: Sequence[float]) -> str:
    return "x".join(f"{v:.4g}" for v in values)
