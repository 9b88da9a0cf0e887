"""The plan: every number that the network, the loader or the inferer needs, as JSON a person may read and edit."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from monai_ext.errors import InputError
from monai_ext.planning.plan_file import plan_from_dict, read_plan_file

PLAN_VERSION = 1
CROP_RULES = ("nonzero", "positive", "none")
NORMS = ("instance", "batch", "group")
NORMALIZATIONS = ("ct", "zscore", "zscore_masked", "rescale_to_0_1", "rgb_to_0_1", "none")


@dataclass(frozen=True)
class ChannelIntensity:
    """Foreground intensity of one channel over the training set (`percentile_00_5` = 0.5th percentile)."""

    mean: float
    std: float
    median: float
    minimum: float
    maximum: float
    percentile_00_5: float
    percentile_99_5: float


@dataclass(frozen=True)
class Plan:
    """Everything between raw files and network, decided once and stored beside the weights.

    Raw arrays are `[C, D, H, W]` with spatial axes (z, y, x) in canonical (RAS) orientation. Stored arrays have their
    spatial axes permuted: stored axis `i` is raw axis `axes[i]`, so that the coarsest axis comes first. Every tuple
    below that has one entry per axis is in stored order. A 2D plan has two axes, those within a slice; its cases are
    stored as stacks of slices `[C, slices, h, w]`.

    Attributes:
        dataset: name of the dataset the plan was made for.
        channels: modality of each input channel.
        labels: class name to value, background 0 included.
        ignore_label: value of unannotated voxels in stored labels, or None.
        spatial_dims: 2 or 3.
        axes: permutation of (z, y, x), see above; in 2D of the two axes that `slice_axis` leaves.
        slice_axis: 2D only: raw axis normal to the slices.
        resample: bring cases to `spacing`; False leaves their voxels as they are.
        spacing: target spacing in mm.
        median_shape: median size of a training case at target spacing, in voxels.
        crop: rule of the foreground crop: `nonzero` (any channel != 0), `positive` (> 0) or `none`.
        normalization: per channel `ct`, `zscore`, `zscore_masked`, `rescale_to_0_1`, `rgb_to_0_1` or `none`.
        intensity: per channel, foreground statistics of the training set (used by `ct`).
        patch_size: network input in voxels.
        batch_size: patches per training step.
        strides: per level, per axis; level 0 is all ones.
        kernels: per level, per axis; same length as `strides`.
        features: channels per level.
        batch_dice: sum Dice terms over the batch before dividing.
        mirror_axes: axes (0 .. spatial_dims - 1) that may be flipped in training and test-time augmentation.
        norm: normalisation layer of the network: `instance`, `batch` or `group`.
        negative_slope: of the LeakyReLU; it belongs to the weights, which would load without it and predict wrongly.
        res_block: residual blocks in encoder and bottleneck of the network; it belongs to the weights.
        label_closing: stored labels are closed slice by slice (`preprocessing.label_closing`); raw labels stay.
        why: field name to the reason for its value.
    """

    dataset: str
    channels: tuple[str, ...]
    labels: dict[str, int]
    spatial_dims: int
    axes: tuple[int, ...]
    spacing: tuple[float, ...]
    median_shape: tuple[int, ...]
    crop: str
    normalization: tuple[str, ...]
    intensity: tuple[ChannelIntensity, ...]
    patch_size: tuple[int, ...]
    batch_size: int
    strides: tuple[tuple[int, ...], ...]
    kernels: tuple[tuple[int, ...], ...]
    features: tuple[int, ...]
    batch_dice: bool = False
    ignore_label: int | None = None
    mirror_axes: tuple[int, ...] = ()
    norm: str = "instance"
    negative_slope: float = 0.01
    slice_axis: int = 0
    resample: bool = True
    res_block: bool = False
    label_closing: bool = False
    why: dict[str, str] = field(default_factory=dict)
    version: int = PLAN_VERSION

    @property
    def num_channels(self) -> int:
        return len(self.channels)

    @property
    def num_classes(self) -> int:
        """Network outputs: background and every class, without the ignore label."""
        return len([v for v in self.labels.values() if v != self.ignore_label])

    @property
    def foreground_classes(self) -> dict[str, int]:
        """Class name to value, without background and ignore label."""
        return {n: v for n, v in self.labels.items() if v != 0 and v != self.ignore_label}

    def preprocessing_hash(self) -> str:
        """Digest of the fields that decide what is stored; topology and batch may change without redoing it."""
        fields = ("channels", "labels", "ignore_label", "spatial_dims", "axes", "spacing", "crop", "normalization")
        content = {name: getattr(self, name) for name in fields}
        # fields that came later count only where they change something, so that cases stored before stay valid
        content.update({name: value for name, value in self._later_preprocessing().items() if value is not None})
        content["intensity"] = [asdict(i) for i in self.intensity] if "ct" in self.normalization else []
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]

    def signature(self) -> str:
        """What weights and optimiser state depend on: preprocessing, network and patch."""
        return f"{self.preprocessing_hash()} {self.strides} {self.kernels} {self.features} {self.patch_size}"

    def _later_preprocessing(self) -> dict[str, Any]:
        return {
            "slice_axis": self.slice_axis or None,
            "resample": None if self.resample else False,
            "label_closing": self.label_closing or None,
        }

    @property
    def voxel_size(self) -> tuple[float, float, float]:
        """Spacing of the three stored axes for pictures; between slices of a 2D plan the coarser one within them."""
        if self.spatial_dims == 3:
            return (self.spacing[0], self.spacing[1], self.spacing[2])
        return (max(self.spacing), self.spacing[0], self.spacing[1])

    @property
    def mirror_axes_from_end(self) -> tuple[int, ...]:
        """`mirror_axes` counted from the last axis: right for patches and for blocks of slices `[C, slices, h, w]`."""
        return tuple(axis - self.spatial_dims for axis in self.mirror_axes)

    def with_changes(self, reason: str, **changes: Any) -> Plan:
        """Return a copy with fields replaced and `reason` noted in `why` for each of them."""
        return replace(self, **changes, why={**self.why, **dict.fromkeys(changes, reason)})

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2) + "\n"

    @classmethod
    def from_dict(cls, content: Mapping[str, Any], source: str | Path = "plan") -> Plan:
        """Build a plan from decoded JSON.

        Raises:
            InputError: a field is missing, unknown, of another type, or contradicts another field.
        """
        plan = plan_from_dict(cls, content, source)
        plan.check(source)
        return plan

    @classmethod
    def load(cls, path: str | Path) -> Plan:
        """Read `plan.json`.

        Raises:
            InputError: the file is missing, not JSON, or not a valid plan.
        """
        return cls.from_dict(read_plan_file(path), path)

    def check(self, source: str | Path = "plan") -> None:
        """Raise `InputError` if fields contradict each other."""
        dims, levels = self.spatial_dims, len(self.strides)
        wrong = []
        per_axis = {"axes": self.axes, "spacing": self.spacing, "patch_size": self.patch_size}
        wrong += [f"{n} has {len(v)} entries for {dims} axes" for n, v in per_axis.items() if len(v) != dims]
        if any(len(s) != dims for s in (*self.strides, *self.kernels)):
            wrong.append(f"strides and kernels need {dims} numbers per level")
        if not levels == len(self.kernels) == len(self.features):
            wrong.append(f"strides, kernels, features have {levels}, {len(self.kernels)}, {len(self.features)} levels")
        if self.version != PLAN_VERSION:
            wrong.append(f"version {self.version} is not {PLAN_VERSION}")
        for name, allowed in (("crop", CROP_RULES), ("norm", NORMS)):
            if getattr(self, name) not in allowed:
                wrong.append(f"{name} {getattr(self, name)!r} is not one of {allowed}")
        channels = len(self.channels)
        if len(self.normalization) != channels or not set(self.normalization) <= set(NORMALIZATIONS):
            wrong.append(f"normalization {self.normalization} needs {channels} of {NORMALIZATIONS}")
        if len(self.intensity) != channels:
            wrong.append(f"intensity has {len(self.intensity)} entries for {channels} channels")
        if not set(self.mirror_axes) <= set(range(dims)):
            wrong.append(f"mirror_axes {self.mirror_axes} must be of {tuple(range(dims))}")
        if self.batch_size < 1 or any(n < 1 for n in (*self.patch_size, *self.features)):
            wrong.append("batch_size, patch_size and features must be at least 1")
        if levels and any(s != 1 for s in self.strides[0]):
            wrong.append(f"strides of level 0 are {self.strides[0]}, must be ones")
        if any(s < 1 for stride in self.strides for s in stride) or any(k % 2 == 0 for n in self.kernels for k in n):
            wrong.append("strides must be at least 1 and kernels odd")
        if sorted(self.axes) != list(range(dims)):
            wrong.append(f"axes {self.axes} is no permutation of {tuple(range(dims))}")
        if self.slice_axis not in ((0,) if dims == 3 else (0, 1, 2)):
            wrong.append(f"slice_axis {self.slice_axis} must be {'0 in 3D' if dims == 3 else '0, 1 or 2'}")
        if any(s <= 0 for s in self.spacing):
            wrong.append(f"spacing {self.spacing} must be positive")
        if not wrong:
            for axis, size in enumerate(self.patch_size):
                divisor = 1
                for stride in self.strides:
                    divisor *= stride[axis]
                if size % divisor:
                    wrong.append(f"patch_size[{axis}] = {size} is not a multiple of its total stride {divisor}")
        if wrong:
            raise InputError(f"{source}: {'; '.join(wrong)}. Cure: mend the plan or delete it to plan again")

    def describe(self) -> str:
        """Each field with its value and the reason, one line a field, for the log."""
        rows = []
        for name, value in asdict(self).items():
            if name in ("why", "intensity", "version"):
                continue
            reason = f"   <- {self.why[name]}" if name in self.why else ""
            rows.append(f"{name}: {value}{reason}")
        return "\n".join(rows)
