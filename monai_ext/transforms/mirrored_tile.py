"""Tiles for networks of unpadded convolutions: the label is smaller than the image around it.

The slice goes on mirrored beyond its border, so that the output reaches the border too (overlap-tile strategy of
Ronneberger et al., "U-Net: convolutional networks for biomedical image segmentation", 2015).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.utils import ensure_tuple_rep

from monai_ext.errors import InputError
from monai_ext.transforms.drawn_transform import Params
from monai_ext.transforms.image_label import ImageLabelTransform


def mirror_indices(start: int, length: int, size: int) -> torch.Tensor:
    """Pixels that a window along a mirrored axis looks at.

    Args:
        start: first position of the window, may be negative.
        length: pixels of the window.
        size: pixels of the axis, at least 1.

    Returns:
        `[length]` int64 in [0, size) on the CPU. Mirroring does not repeat the border pixel (... 2 1 0 1 2 ...) and
        goes on to and fro if the window reaches further than the axis is long; an axis of one pixel is repeated.
    """
    if size == 1:
        return torch.zeros(length, dtype=torch.int64)
    period = 2 * (size - 1)
    position = torch.arange(start, start + length).remainder_(period)
    return torch.minimum(position, period - position)


def mirrored_window(image: torch.Tensor, start: Sequence[int], size: Sequence[int]) -> torch.Tensor:
    """Copy of the window (`start`, `size` of the last two axes) of `image` (`[C, H, W]`), mirrored beyond it."""
    for axis, first, length in zip((1, 2), start, size, strict=True):
        index = mirror_indices(first, length, image.shape[axis])
        image = image.index_select(axis, index.to(image.device))
    return image


def filled_window(label: torch.Tensor, start: Sequence[int], size: Sequence[int], fill: int) -> torch.Tensor:
    """Copy of the window (`start`, `size` of the last two axes) of `label` (`[C, H, W]`), `fill` beyond it.

    Raises:
        InputError: the window leaves the label and the label's type cannot hold `fill`.
    """
    shape = label.shape[1:]
    begin = [max(s, 0) for s in start]
    end = [min(s + n, edge) for s, n, edge in zip(start, size, shape, strict=True)]
    part = label[:, begin[0] : end[0], begin[1] : end[1]]
    if tuple(part.shape[1:]) == tuple(size):
        return part.clone()
    limits = torch.iinfo(label.dtype)
    if not limits.min <= fill <= limits.max:
        raise InputError(
            f"RandMirroredTiled: the slice of {tuple(shape)} pixels is smaller than the output of {tuple(size)}, and "
            f"its label of type {label.dtype} cannot hold ignore_label {fill}. Cure: convert the label to int64 before"
        )
    out = label.new_full((len(label), *size), fill)
    out[:, begin[0] - start[0] : end[0] - start[0], begin[1] - start[1] : end[1] - start[1]] = part
    return out


class RandMirroredTiled(ImageLabelTransform):
    """Cut a random tile: a label window inside the slice and the image window that is larger by a margin.

    Every place of the label window inside the slice has the same chance. Along an axis that is shorter than the label
    window, the window is centred (the odd pixel comes after the slice) and label pixels beyond the slice are ignored.

    Args:
        keys: images `[C, H, W]`, cut to `[C, h + 2 margin, w + 2 margin]`.
        label_keys: labels `[C, H, W]` integer, cut to `[C, h, w]`.
        output_size: (h, w) of the network's output, or one number for both.
        margin: pixels by which the input exceeds the output at each side, per axis or one number for both.
        ignore_label: value of label pixels beyond the slice.
        allow_missing_keys: skip keys that a sample lacks.

    Raises:
        InputError: a size is not positive, a margin negative, or (when called) shapes differ or the label's type
            cannot hold an `ignore_label` that is needed.
    """

    def __init__(
        self,
        keys: str | Sequence[str] = "image",
        label_keys: str | Sequence[str] = "label",
        output_size: int | Sequence[int] = 388,
        margin: int | Sequence[int] = 92,
        ignore_label: int = -1,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, label_keys, 1.0, allow_missing_keys)
        self.output_size = self._pair("output_size", output_size, 1)
        self.margin = self._pair("margin", margin, 0)
        self.ignore_label = int(ignore_label)

    @staticmethod
    def _pair(name: str, value: int | Sequence[int], lowest: int) -> tuple[int, int]:
        pair = tuple(int(x) for x in value) if isinstance(value, Sequence) else ensure_tuple_rep(int(value), 2)
        if len(pair) != 2 or min(pair) < lowest:
            raise InputError(
                f"RandMirroredTiled: {name} must be one or two numbers of at least {lowest}, found {value}. "
                "Cure: give [height, width]"
            )
        return pair[0], pair[1]

    def draw(self, image: torch.Tensor) -> Params:
        start = [
            int(self.R.randint(edge - size + 1)) if edge > size else -((size - edge) // 2)
            for edge, size in zip(image.shape[1:], self.output_size, strict=True)
        ]
        return {
            "start": start,
            "output_size": list(self.output_size),
            "margin": list(self.margin),
            "ignore_label": self.ignore_label,
        }

    def apply(self, image: torch.Tensor, params: Params) -> torch.Tensor:
        start = [s - m for s, m in zip(params["start"], params["margin"], strict=True)]
        size = [n + 2 * m for n, m in zip(params["output_size"], params["margin"], strict=True)]
        return mirrored_window(image, start, size)

    def apply_label(self, label: torch.Tensor, params: Params) -> torch.Tensor:
        return filled_window(label, params["start"], params["output_size"], params["ignore_label"])
