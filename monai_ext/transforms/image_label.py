"""Base of the random transforms of 2D slices that move an image and its binary label together."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from monai.utils import ensure_tuple

from monai_ext.errors import InputError
from monai_ext.transforms.drawn_transform import DrawnTransform, Params


def check_binary(owner: str, label: torch.Tensor) -> torch.Tensor:
    """Return `label`; raise `InputError` unless its values are 0 and 1, the only ones a share of class 1 describes."""
    low, high = (int(x) for x in torch.aminmax(label))
    if low < 0 or high > 1:
        raise InputError(
            f"{owner}: a label must hold 0 and 1 only, found {low} to {high}. "
            "Cure: turn the classes into 0 and 1 before, and set ignored pixels after this transform"
        )
    return label


class ImageLabelTransform(DrawnTransform):
    """Calls `apply` on images and `apply_label` on labels, with the same parameters.

    Args:
        keys: images `[C, H, W]` floating point.
        label_keys: labels `[C, H, W]` of the same height and width.
        prob: chance that the transform is drawn.
        allow_missing_keys: skip keys that a sample lacks.

    Raises:
        InputError: `prob` is outside [0, 1], a key is an image and a label, or (when called) the entries of a sample
            are not `[C, H, W]` of one height and width.
    """

    def __init__(
        self,
        keys: str | Sequence[str],
        label_keys: str | Sequence[str],
        prob: float,
        allow_missing_keys: bool = False,
    ) -> None:
        self.label_keys: tuple[Any, ...] = ensure_tuple(label_keys)
        images: tuple[Any, ...] = ensure_tuple(keys)
        both = [key for key in images if key in self.label_keys]
        if both:
            raise InputError(
                f"{type(self).__name__}: {both} are keys and label_keys. Cure: name every key in one of them"
            )
        super().__init__((*images, *self.label_keys), prob, allow_missing_keys)

    def apply_label(self, label: torch.Tensor, params: Params) -> torch.Tensor:
        """Return the transformed `label` (`[C, H, W]`) in its own type; a function of its arguments only."""
        raise NotImplementedError

    def apply_to_key(self, key: Hashable, image: torch.Tensor, params: Params) -> torch.Tensor:
        return self.apply_label(image, params) if key in self.label_keys else self.apply(image, params)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        shapes = {key: tuple(data[key].shape) for key in self.keys if key in data}
        if any(len(shape) != 3 for shape in shapes.values()) or len({shape[1:] for shape in shapes.values()}) > 1:
            raise InputError(
                f"{type(self).__name__}: needs slices [C, H, W] of one height and width, found {shapes}. "
                "Cure: add the channel, and crop or resize image and label alike"
            )
        return super().__call__(data)
