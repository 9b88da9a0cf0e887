"""Base of the transforms that cut a box out and resize it, from pictures still in their files or from tensors."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from monai.data import MetaTensor
from monai.transforms import InvertibleTransform
from monai.utils import TraceKeys

from monai_ext.errors import InputError
from monai_ext.transforms.box_resize import box_affine, check_interpolation, resize_box, restore_box
from monai_ext.transforms.drawn_transform import DrawnTransform, Params, check_probability

Box = tuple[int, ...]


class BoxCrop(DrawnTransform, InvertibleTransform):
    """Cuts one box, alike for all keys, and resizes it to `size`; subclasses say which box.

    A value may be a picture that is still in its file (an object with `size` and `crop_resized`, see
    `monai_ext.datasets.picture`): only what the box needs is then decoded. A `MetaTensor` records the box, and
    `inverse` puts the image back at its place, zeros around it.

    Args:
        keys: pictures or tensors `[C, *spatial]` (uint8 or floating point, 2 or 3 axes) of one spatial shape.
        size: of the result, per axis.
        interpolation: `bilinear` or `bicubic`, antialiased where the box shrinks.
        prob: chance that the box is drawn; else the subclass's `box_of_rest` is taken.
        allow_missing_keys: skip keys that a sample lacks.
    """

    def __init__(
        self,
        keys: str | Sequence[str],
        size: Sequence[int],
        interpolation: str = "bilinear",
        prob: float = 1.0,
        allow_missing_keys: bool = False,
    ) -> None:
        DrawnTransform.__init__(self, keys, 1.0, allow_missing_keys)
        name = type(self).__name__
        self.prob = check_probability(name, "prob", prob)  # without a draw the image is still resized: no warning at 0
        self.size = tuple(int(n) for n in size)
        self.interpolation = check_interpolation(name, interpolation)
        if len(self.size) not in (2, 3) or min(self.size) < 1:
            raise InputError(f"{name}: size must be 2 or 3 numbers of at least 1, found {list(size)}. Cure: [224, 224]")

    def box_of_shape(self, shape: Sequence[int]) -> Box:
        """Draw the box within an image of this spatial shape: first voxels, then those after the last."""
        raise NotImplementedError

    def box_of_rest(self, shape: Sequence[int]) -> Box:
        """The box where the coin says that none is drawn."""
        return self.box_of_shape(shape)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        sample = dict(data)
        for number, key in enumerate(self.key_iterator(sample)):
            shape = _shape(sample[key])
            if len(shape) != len(self.size):
                raise InputError(
                    f"{type(self).__name__}: image of {len(shape)} axes, {tuple(shape)}, where size has "
                    f"{len(self.size)}. Cure: a size per axis"
                )
            if number == 0:
                drawn = self.prob >= 1 or self.R.random_sample() < self.prob
                box = self.box_of_shape(shape) if drawn else self.box_of_rest(shape)
                self.params = {"box": list(box), "size": list(self.size)}
            sample[key] = self._cut(sample[key], self.params)
        return sample

    def apply(self, image: torch.Tensor, params: Params) -> torch.Tensor:
        return resize_box(image, params["box"], params["size"], self.interpolation)

    def inverse(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Put the images back at their place in the shape they had; only of keys whose tensors are `MetaTensor`."""
        sample = dict(data)
        for key in self.key_iterator(sample):
            image = sample[key]
            info = self.pop_transform(image)
            box, shape = info[TraceKeys.EXTRA_INFO]["box"], info[TraceKeys.ORIG_SIZE]
            out = MetaTensor(restore_box(image.as_tensor(), box, shape, self.interpolation), meta=dict(image.meta))
            affine = torch.linalg.inv(box_affine(box, self.size)).to(out.affine)
            out.affine = out.affine @ _of_rank(affine, out.affine.shape[-1])
            out.applied_operations = image.applied_operations
            sample[key] = out
        return sample

    def _cut(self, image: Any, params: Params) -> torch.Tensor:
        if not isinstance(image, torch.Tensor):
            if hasattr(image, "crop_resized"):
                return image.crop_resized(tuple(params["box"]), self.size, self.interpolation)
            image = torch.as_tensor(image)
        if not isinstance(image, MetaTensor):
            return self.apply(image, params)
        out = MetaTensor(self.apply(image.as_tensor(), params))
        meta = self.track_transform_meta(
            image,
            sp_size=self.size,
            affine=_of_rank(box_affine(params["box"], self.size), image.affine.shape[-1]),
            extra_info={"box": params["box"]},
            orig_size=tuple(image.shape[1:]),
            transform_info=self.get_transform_info(),
        )
        return out.copy_meta_from(meta)


def _shape(value: Any) -> Sequence[int]:
    if isinstance(value, torch.Tensor) or not hasattr(value, "crop_resized"):
        return tuple(value.shape[1:])
    return value.size


def _of_rank(affine: torch.Tensor, rank: int) -> torch.Tensor:
    """The affine of fewer axes in a matrix of `rank` rows; axes it lacks stay as they are."""
    axes = affine.shape[0] - 1
    out = torch.eye(rank, dtype=affine.dtype, device=affine.device)
    out[:axes, :axes], out[:axes, -1] = affine[:axes, :axes], affine[:axes, -1]
    return out
