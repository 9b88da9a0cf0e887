"""Published plans of the ten Medical Segmentation Decathlon tasks (nnU-Net in NVIDIA DeepLearningExamples, 2021)."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from monai_ext.errors import InputError, Problems
from monai_ext.planning.fingerprint import Fingerprint
from monai_ext.planning.patch_size import level_features
from monai_ext.planning.plan import ChannelIntensity, Plan
from monai_ext.planning.spacing import median_shape
from monai_ext.planning.topology import msd_topology

BATCH_SIZE = {2: 64, 3: 2}
SOURCE = "published plan of the task"


@dataclass(frozen=True)
class CTWindow:
    """Clipping limits, mean and standard deviation in HU."""

    minimum: float
    maximum: float
    mean: float
    std: float


@dataclass(frozen=True)
class MSDTask:
    """One task; sizes in voxels, spacings in mm, axes (z, y, x) or (y, x). `ct` is None for MR."""

    name: str
    channels: tuple[str, ...]
    classes: tuple[str, ...]
    patch_3d: tuple[int, int, int]
    spacing_3d: tuple[float, float, float]
    patch_2d: tuple[int, int]
    spacing_2d: tuple[float, float]
    ct: CTWindow | None = None


MSD_TASKS = {
    "01": MSDTask(
        "Task01_BrainTumour",
        ("FLAIR", "T1w", "t1gd", "T2w"),
        ("edema", "non-enhancing tumor", "enhancing tumour"),
        (128, 128, 128), (1.0, 1.0, 1.0), (192, 160), (1.0, 1.0),
    ),
    "02": MSDTask(
        "Task02_Heart", ("MRI",), ("left atrium",),
        (80, 192, 160), (1.37, 1.25, 1.25), (320, 256), (1.25, 1.25),
    ),
    "03": MSDTask(
        "Task03_Liver", ("CT",), ("liver", "cancer"),
        (128, 128, 128), (1.0, 0.7676, 0.7676), (512, 512), (0.7676, 0.7676),
        CTWindow(-17, 201, 99.4, 39.36),
    ),
    "04": MSDTask(
        "Task04_Hippocampus", ("MRI",), ("Anterior", "Posterior"),
        (40, 56, 40), (1.0, 1.0, 1.0), (56, 40), (1.0, 1.0),
    ),
    "05": MSDTask(
        "Task05_Prostate", ("T2", "ADC"), ("PZ", "TZ"),
        (20, 320, 256), (3.6, 0.62, 0.62), (320, 320), (0.62, 0.62),
    ),
    "06": MSDTask(
        "Task06_Lung", ("CT",), ("cancer",),
        (80, 192, 160), (1.24, 0.79, 0.79), (512, 512), (0.79, 0.79),
        CTWindow(-1024, 325, -158.58, 324.7),
    ),
    "07": MSDTask(
        "Task07_Pancreas", ("CT",), ("pancreas", "cancer"),
        (40, 224, 224), (2.5, 0.8, 0.8), (512, 512), (0.8, 0.8),
        CTWindow(-96, 215, 77.9, 75.4),
    ),
    "08": MSDTask(
        "Task08_HepaticVessel", ("CT",), ("Vessel", "Tumour"),
        (64, 192, 192), (1.5, 0.8, 0.8), (512, 512), (0.8, 0.8),
        CTWindow(-3, 243, 104.37, 52.62),
    ),
    "09": MSDTask(
        "Task09_Spleen", ("CT",), ("spleen",),
        (64, 192, 160), (1.6, 0.79, 0.79), (512, 512), (0.79, 0.79),
        CTWindow(-41, 176, 99.29, 39.47),
    ),
    "10": MSDTask(
        "Task10_Colon", ("CT",), ("colon cancer primaries",),
        (56, 192, 160), (3.0, 0.78, 0.78), (512, 512), (0.78, 0.78),
        CTWindow(-30, 165.82, 62.18, 32.65),
    ),
}  # fmt: skip


def find_task(task: str | int) -> MSDTask:
    """Look up `4`, `"04"`, `"Task04"`, `"Task04_Hippocampus"` or `"hippocampus"`.

    Raises:
        InputError: no such task; the message lists all.
    """
    text = str(task).strip().lower()
    number = re.fullmatch(r"(?:task)?_?0*(\d+)(?:_\w+)?", text)
    if number and (found := MSD_TASKS.get(number[1].zfill(2))):
        return found
    for known in MSD_TASKS.values():
        if text == known.name.split("_")[1].lower():
            return known
    names = ", ".join(t.name for t in MSD_TASKS.values())
    raise InputError(f"task {task!r} has no published plan. Cure: use one of {names} or their numbers 01 to 10")


def named_plan(task: str | int, fingerprint: Fingerprint | None = None, spatial_dims: int = 3) -> Plan:
    """Plan of an MSD task with its published patch, spacing and CT constants, levels by `msd_topology`.

    Raw axes keep their order. MR channels are z-scored over the whole crop. The crop keeps voxels > 0.

    Args:
        task: number or name, see `find_task`.
        fingerprint: of the dataset at hand: names, labels and MR intensities are taken from it. Without it those of
            the published dataset are, and `median_shape` is the patch size.
        spatial_dims: 2 (slices along z) or 3.

    Raises:
        InputError: unknown task, or the fingerprint has other channel or class counts than the task.
    """
    known = find_task(task)
    if spatial_dims not in (2, 3):
        raise InputError(f"spatial_dims is {spatial_dims}. Cure: use 2 or 3")
    patch: tuple[int, ...] = known.patch_3d if spatial_dims == 3 else known.patch_2d
    spacing: tuple[float, ...] = known.spacing_3d if spatial_dims == 3 else known.spacing_2d
    topology = msd_topology(spacing, patch)
    levels = len(topology.strides)
    labels = {"background": 0, **{name: value for value, name in enumerate(known.classes, start=1)}}
    plan = Plan(
        dataset=known.name,
        channels=known.channels,
        labels=labels,
        spatial_dims=spatial_dims,
        axes=tuple(range(spatial_dims)),
        spacing=spacing,
        median_shape=patch,
        crop="positive",
        normalization=("ct" if known.ct else "zscore",) * len(known.channels),
        intensity=tuple(_intensity(known.ct) for _ in known.channels),
        patch_size=topology.patch_size,
        batch_size=BATCH_SIZE[spatial_dims],
        strides=topology.strides,
        kernels=topology.kernels,
        features=level_features(levels, 32, spatial_dims),
        batch_dice=True,
        mirror_axes=tuple(range(spatial_dims)),
        resample=spatial_dims == 3,
        why={
            "spacing": f"{SOURCE}, mm (z, y, x)",
            "patch_size": SOURCE,
            "median_shape": "unknown without a fingerprint; the patch size stands in",
            "crop": f"{SOURCE}: voxels > 0",
            "batch_size": f"{SOURCE}: default in {spatial_dims}D",
            "strides": f"halved within twice the finest spacing while an edge is at least 8: {levels} levels",
            "normalization": f"{SOURCE}: {'CT window and constants' if known.ct else 'MR, z-score of the crop'}",
            "batch_dice": f"{SOURCE}: Dice sums over the batch",
            "resample": f"{SOURCE}: volumes are resampled, slices are not",
        },
    )
    return plan if fingerprint is None else _fitted(plan, known, fingerprint)


def _fitted(plan: Plan, known: MSDTask, fingerprint: Fingerprint) -> Plan:
    """Take names, labels, shapes and MR intensities from the dataset at hand."""
    problems = Problems(f"dataset {fingerprint.dataset} with the plan of {known.name}")
    cure = "choose the plan of this dataset's task, or none to plan it"
    if len(fingerprint.channels) != len(known.channels):
        problems.add("channels", f"{len(fingerprint.channels)} found, the task has {len(known.channels)}", cure)
    if fingerprint.num_classes != len(known.classes) + 1:
        problems.add("labels", f"{fingerprint.num_classes} classes, the task has {len(known.classes) + 1}", cure)
    problems.raise_if_any()
    in_plane = slice(3 - plan.spatial_dims, 3)
    cases = [
        replace(c, cropped_shape=c.cropped_shape[in_plane], spacing=c.spacing[in_plane]) for c in fingerprint.cases
    ]
    shape = median_shape(cases, plan.spacing)
    reason = "taken from the dataset at hand"
    fitted = plan.with_changes(
        reason,
        dataset=fingerprint.dataset,
        channels=fingerprint.channels,
        labels=dict(fingerprint.labels),
        ignore_label=fingerprint.ignore_label,
        intensity=plan.intensity if known.ct else fingerprint.intensity,
    )
    return fitted.with_changes(
        f"median over {len(fingerprint.cases)} cases of the size after the {fingerprint.crop} crop at target spacing",
        median_shape=tuple(round(n) for n in shape),
    )


def _intensity(ct: CTWindow | None) -> ChannelIntensity:
    """CT constants as statistics; the unknown median is given as the mean. Zeros and ones for MR, which needs none."""
    if ct is None:
        return ChannelIntensity(0.0, 1.0, 0.0, 0.0, 1.0, 0.0, 1.0)
    return ChannelIntensity(ct.mean, ct.std, ct.mean, ct.minimum, ct.maximum, ct.minimum, ct.maximum)
