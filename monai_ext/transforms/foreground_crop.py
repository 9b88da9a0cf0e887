"""The training patch: where it lies, how it is turned, and reading just the voxels it needs."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.transforms import MapTransform

from monai_ext.errors import InputError
from monai_ext.ops.patch_affine import IMAGE_TYPES, LABEL_TYPES, patch_affine
from monai_ext.ops.patch_affine.affine_matrix import affine_matrix
from monai_ext.ops.patch_affine.stored import stored_tensor
from monai_ext.transforms.drawn_transform import OwnState, Params, check_probability
from monai_ext.transforms.spatial import SpatialDraw, source_box

Stored = np.ndarray | torch.Tensor
MODES = ("per_sample", "batch_share")
NUMPY_TYPES = {torch.float32: np.float32, torch.uint8: np.uint8, torch.int64: np.int64}


def read_box(
    array: np.ndarray | torch.Tensor, first: Sequence[int], size: Sequence[int], fill: float, dtype: torch.dtype
) -> torch.Tensor:
    """Read a box of `array` (`[C, *spatial]`), voxels outside it being `fill`; only the box is read from disk.

    Args:
        array: array, memory map or tensor.
        first: first voxel per spatial axis, may be negative.
        size: edges of the box, which may reach beyond the array or miss it.
        fill: value of voxels outside.
        dtype: type of the result: float32, uint8 or int64.

    Returns:
        `[C, *size]`, a copy of its own.
    """
    starts = [max(f, 0) for f in first]
    stops = [max(min(f + s, n), b) for f, s, n, b in zip(first, size, array.shape[1:], starts, strict=True)]
    part = array[(slice(None), *(slice(b, e) for b, e in zip(starts, stops, strict=True)))]
    if isinstance(part, torch.Tensor):
        part = part.numpy(force=True)
    # numpy backs large arrays with huge pages: filling 40 MB takes a tenth of the time of a torch allocation
    kind = NUMPY_TYPES[dtype]
    if list(part.shape[1:]) == list(size):
        return torch.from_numpy(np.array(part, kind, order="C"))
    shape = (array.shape[0], *size)
    box = np.zeros(shape, kind) if fill == 0 else np.full(shape, fill, kind)
    inside = (slice(b - f, e - f) for b, e, f in zip(starts, stops, first, strict=True))
    box[(slice(None), *inside)] = part
    return torch.from_numpy(box)


class RandForegroundCropd(OwnState, MapTransform):
    """Cut the training patch, foreground more often than chance would, and optionally turn and scale it.

    The sample holds the image `[C, *spatial]` and the label `[*spatial]` or `[1, *spatial]` (arrays or memory maps),
    and may hold `locations` (class to `[n, 3]` voxel coordinates, possibly a sample of them), `class_counts` (class to
    the number of its voxels) and `slot` (place of the sample in the whole batch, over all processes). It leaves with
    image float32 `[C, *patch]`, label `[1, *patch]` (uint8 if stored so, else int64); the three others are removed.

    `per_sample`: with chance `oversampling` the patch is centred on a voxel drawn among all foreground voxels, so that
    large classes come more often; otherwise, or without foreground, on any voxel. The patch is moved inside the volume.
    Where `locations` hold only a sample, a class is drawn by `class_counts` (by the number of locations if absent),
    then one of its locations.

    `batch_share` (nnU-Net v2): the last `oversampling` part of every batch, `slot >= round(batch_size * (1 -
    oversampling))`, is centred on foreground: a class present is drawn uniformly, then one of its voxels; the patch
    may hang over the far side of the volume. The others lie anywhere inside.

    On an axis where the volume is smaller than the patch, it lies in the middle (`per_sample`) or reaches beyond by
    at most half of the padding, more on the far side of foreground patches (`batch_share`). A patch centred on a voxel
    contains it; if it was moved inside *and* rotated, the voxel may leave through an edge.

    With fewer numbers in `patch_size` than the image has axes (a 2D network on volumes) the patch is a slice across
    the first axis, and that axis is dropped; or a block of `slices` neighbouring ones, `[C, slices, *patch]`.

    Args:
        keys: image and label key; the label may be absent from a sample.
        patch_size: edges of the patch in voxels.
        mode: `per_sample` or `batch_share`.
        oversampling: chance or share of foreground patches.
        batch_size: size of the whole batch, needed by `batch_share`.
        spatial: rotation and scaling; None for a plain cut. For 3D patches and slices of volumes.
        pad_label: label of voxels outside the volume (the ignore label to keep them out of the loss).
        ignore_label: class that never counts as foreground.
        slices: slices per sample of a 2D patch; those beyond the volume are empty.

    Raises:
        InputError: an argument is out of bounds, or a sample lacks what the mode needs.
    """

    def __init__(
        self,
        keys: Sequence[str] = ("image", "label"),
        patch_size: Sequence[int] = (128, 128, 128),
        mode: str = "per_sample",
        oversampling: float = 0.33,
        batch_size: int | None = None,
        spatial: SpatialDraw | None = None,
        pad_label: int = 0,
        ignore_label: int | None = None,
        slices: int = 1,
    ) -> None:
        super().__init__(keys)
        if len(self.keys) != 2:
            raise InputError(
                f"RandForegroundCropd: keys must be two, image and label, found {list(self.keys)}. Cure: name both"
            )
        if len(patch_size) not in (2, 3) or any(int(p) < 1 for p in patch_size):
            raise InputError(
                f"RandForegroundCropd: patch_size must be 2 or 3 edges, found {list(patch_size)}. Cure: e.g. the plan's"
            )
        if slices < 1 or (slices > 1 and len(patch_size) != 2):
            raise InputError(
                f"RandForegroundCropd: slices is {slices} with patch_size {list(patch_size)}. "
                "Cure: 1, or more with a patch of 2 edges"
            )
        if mode not in MODES:
            raise InputError(f"RandForegroundCropd: mode must be of {list(MODES)}, found {mode!r}. Cure: choose one")
        if mode == "batch_share" and (batch_size is None or batch_size < 1):
            raise InputError(
                f"RandForegroundCropd: batch_share needs batch_size >= 1, found {batch_size}. Cure: set batch_size"
            )
        self.patch_size = tuple(int(p) for p in patch_size)
        self.mode = mode
        self.oversampling = check_probability("RandForegroundCropd", "oversampling", oversampling)
        self.batch_size = batch_size
        self.spatial = spatial
        self.pad_label = int(pad_label)
        self.ignore_label = ignore_label
        self.slices = int(slices)
        self.params: Params = {}

    def randomize(self, data: Mapping[Hashable, Any]) -> None:
        """Draw `self.params`: `start` (first voxel per axis), `forced`, and `angles` and `scale` if drawn."""
        shape = data[self.keys[0]].shape[1:]
        patch = self._full_patch(len(shape))
        voxel = self._draw_voxel(data) if self._is_forced(data) else None
        if self.mode == "per_sample":
            start = self._start_inside(shape, patch, voxel)
        else:
            start = self._start_beyond(shape, patch, voxel)
        self.params = {"start": start, "forced": voxel is not None}
        if self.spatial is not None:
            if len(shape) != 3:
                raise InputError(
                    f"RandForegroundCropd: spatial needs images with three axes, found shape {tuple(shape)}. "
                    "Cure: store 2D images as [C, 1, H, W]"
                )
            self.params.update(self.spatial.draw(self.R, patch, flat=len(self.patch_size) == 2))

    def apply(self, image: Stored, label: Stored | None, params: Params) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Read the patch that `params` describe.

        Args:
            image: `[C, *spatial]`.
            label: `[1, *spatial]` or None.
            params: as `randomize` draws them.

        Returns:
            image `[C, *patch]` float32 and label `[1, *patch]` uint8 or int64, blocks of slices with their axis.
        """
        patch = self._full_patch(image.ndim - 1)
        if "angles" in params:
            out, target = self._turned(image, label, params, patch)
        else:
            out, target = self._boxes(image, label, params["start"], patch)
        if len(patch) > len(self.patch_size) and self.slices == 1:
            out, target = out[:, 0], None if target is None else target[:, 0]
        return out, target

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        sample, image, label = self._drawn(data)
        sample[self.keys[0]], target = self.apply(image, label, self.params)
        if target is not None:
            sample[self.keys[1]] = target
        return sample

    def read(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Draw, and read the voxels that `apply` would look at, but leave turning and scaling to others.

        Returns:
            The sample with image `[C, *box]` and label `[1, *box]`, and `matrix` `[3, 3]` and `centre` `[3]`, float64:
            the patch voxel at offset `o` from the centre of the patch is at `centre + matrix @ o` of the box.
        """
        sample, image, label = self._drawn(data)
        patch = self._full_patch(image.ndim - 1)
        matrix, first, size = np.eye(3), list(self.params["start"]), list(patch)
        if "angles" in self.params:
            matrix = affine_matrix(self.params["angles"], self.params["scale"])
            first, size = source_box(matrix, self.params["start"], patch)
        sample[self.keys[0]], target = self._boxes(image, label, first, size)
        if target is not None:
            sample[self.keys[1]] = target
        centre = np.asarray(self.params["start"]) + (np.asarray(patch) - 1) / 2 - np.asarray(first)
        sample["matrix"], sample["centre"] = torch.from_numpy(matrix), torch.from_numpy(centre)
        return sample

    def _drawn(self, data: Mapping[Hashable, Any]) -> tuple[dict[Hashable, Any], Stored, Stored | None]:
        """The sample without what only drawing needs, its image, and its label with a channel; `params` are drawn."""
        sample = dict(data)
        image_key, label_key = self.keys
        image, label = sample[image_key], sample.get(label_key)
        if label is not None and label.ndim == image.ndim - 1:
            label = label[None]
        self.randomize({**sample, label_key: label})
        for used in ("locations", "class_counts", "slot"):
            sample.pop(used, None)
        return sample, image, label

    def _full_patch(self, axes: int) -> tuple[int, ...]:
        return (self.slices,) * (axes - len(self.patch_size)) + self.patch_size

    def _boxes(
        self, image: Stored, label: Stored | None, first: Sequence[int], size: Sequence[int]
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        out = read_box(image, first, size, 0.0, torch.float32)
        target = None if label is None else read_box(label, first, size, self.pad_label, self._label_type(label))
        return out, target

    def _turned(
        self, image: Stored, label: Stored | None, params: Params, patch: Sequence[int]
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        matrix = affine_matrix(params["angles"], params["scale"])
        centre = np.asarray(params["start"]) + (np.asarray(patch) - 1) / 2
        volume, classes = stored_tensor(image), None if label is None else stored_tensor(label)
        if volume is None or not self._can_sample(volume, label, classes):
            first, size = source_box(matrix, params["start"], patch)
            volume, classes = self._boxes(image, label, first, size)
            centre = centre - first
        out, target = patch_affine(
            [volume],
            None if classes is None else [classes],
            torch.from_numpy(matrix[None]),
            torch.from_numpy(centre[None]),
            patch,
            pad_label=self.pad_label,
        )
        return out[0], None if target is None or label is None else target[0].to(self._label_type(label))

    def _can_sample(self, volume: torch.Tensor, label: Stored | None, classes: torch.Tensor | None) -> bool:
        """Whether the op takes the volumes as they are stored; of others it gets a box in types that it takes."""
        if volume.dtype == torch.float64 or volume.dtype not in IMAGE_TYPES:
            return False
        if label is None:
            return True
        if classes is None or classes.dtype not in LABEL_TYPES:
            return False
        limits = torch.iinfo(classes.dtype)
        return limits.min <= self.pad_label <= limits.max

    def _label_type(self, label: np.ndarray | torch.Tensor) -> torch.dtype:
        stored_as_uint8 = label.dtype in (np.uint8, torch.uint8)
        return torch.uint8 if stored_as_uint8 and 0 <= self.pad_label <= 255 else torch.int64

    def _is_forced(self, data: Mapping[Hashable, Any]) -> bool:
        if self.mode == "per_sample":
            return bool(self.R.random_sample() < self.oversampling)
        if "slot" not in data:
            raise InputError(
                "RandForegroundCropd: batch_share needs the sample's place in the batch as 'slot'. "
                "Cure: let the loader add it, or use mode per_sample"
            )
        assert self.batch_size is not None
        return int(data["slot"]) >= round(self.batch_size * (1 - self.oversampling))

    def _draw_voxel(self, data: Mapping[Hashable, Any]) -> list[int] | None:
        """A foreground voxel by the rule of the mode, None if there is none."""
        locations = data.get("locations")
        if locations is None:
            locations = self._find_locations(data.get(self.keys[1]))
        # JSON keys are strings, stored ones integers
        voxels = {int(c): v for c, v in locations.items() if int(c) > 0 and int(c) != self.ignore_label and len(v)}
        if not voxels:
            return None
        classes = sorted(voxels)
        if self.mode == "batch_share":
            chosen = classes[self.R.randint(len(classes))]
        else:
            counts = {int(c): n for c, n in data.get("class_counts", {}).items()}
            ends = np.cumsum([counts.get(c, len(voxels[c])) for c in classes])
            chosen = classes[int(np.searchsorted(ends, self.R.random_sample() * ends[-1], side="right"))]
        return [int(i) for i in voxels[chosen][self.R.randint(len(voxels[chosen]))]]

    def _find_locations(self, label: np.ndarray | torch.Tensor | None) -> dict[int, np.ndarray]:
        """Coordinates of each class by a scan of the whole label, for samples without stored locations."""
        if label is None:
            return {}
        values = np.asarray(label[0])
        coordinates = np.argwhere(values > 0)
        classes = values[tuple(coordinates.T)]
        return {int(c): coordinates[classes == c] for c in np.unique(classes)}

    def _start_inside(self, shape: Sequence[int], patch: Sequence[int], voxel: list[int] | None) -> list[int]:
        centre = voxel if voxel is not None else [int(self.R.randint(n)) for n in shape]
        return [
            min(max(c - p // 2, 0), n - p) if n >= p else -((p - n) // 2)
            for c, p, n in zip(centre, patch, shape, strict=True)
        ]

    def _start_beyond(self, shape: Sequence[int], patch: Sequence[int], voxel: list[int] | None) -> list[int]:
        lowest = [-(max(p - n, 0) // 2) for p, n in zip(patch, shape, strict=True)]
        if voxel is not None:
            return [max(low, c - p // 2) for low, c, p in zip(lowest, voxel, patch, strict=True)]
        return [int(self.R.randint(low, max(n - p, low) + 1)) for low, n, p in zip(lowest, shape, patch, strict=True)]
