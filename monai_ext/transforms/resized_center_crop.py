"""The centre of an image, as evaluation sees it."""

from __future__ import annotations

from collections.abc import Sequence

from monai_ext.errors import InputError
from monai_ext.transforms.box_crop import Box, BoxCrop


def center_box(shape: Sequence[int], size: Sequence[int], crop_ratio: float, keep_aspect: bool = True) -> Box:
    """Box that becomes the result when an image is resized and its centre cut out.

    The box is the largest of the result's shape that fits into the image, times `crop_ratio`: for a square result, the
    same as resizing the shorter side to `size / crop_ratio` and cutting the centre, but in one resampling.

    Args:
        shape: voxels of the image per axis.
        size: voxels of the result per axis.
        crop_ratio: in (0, 1].
        keep_aspect: the box has the shape of the result. Else that of the image, which is then stretched.

    Returns:
        First voxels of all axes, then those after the last.
    """
    right = size if keep_aspect else shape
    scale = crop_ratio * min(n / edge for n, edge in zip(shape, right, strict=True))
    edges = [min(max(round(edge * scale), 1), int(n)) for edge, n in zip(right, shape, strict=True)]
    start = [(int(n) - edge) // 2 for n, edge in zip(shape, edges, strict=True)]
    return (*start, *(s + edge for s, edge in zip(start, edges, strict=True)))


class ResizedCenterCropd(BoxCrop):
    """Cut the centre out and resize it to `size`; see `center_box`.

    Args:
        keys, size, interpolation, allow_missing_keys: as in `BoxCrop`.
        crop_ratio: share of the largest box of the result's shape, in (0, 1].
        keep_aspect: the box has the shape of `size`; else that of the image. None: in 2D only, because the axes of
            volumes differ in resolution.

    Raises:
        InputError: an argument is out of bounds, or (when called) an image has another number of axes than `size`.
    """

    def __init__(
        self,
        keys: str | Sequence[str],
        size: Sequence[int],
        crop_ratio: float = 0.875,
        interpolation: str = "bilinear",
        keep_aspect: bool | None = None,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, size, interpolation, 1.0, allow_missing_keys)
        if not 0 < crop_ratio <= 1:
            raise InputError(f"ResizedCenterCropd: crop_ratio must be in (0, 1], found {crop_ratio}. Cure: 0.875")
        self.crop_ratio = float(crop_ratio)
        self.keep_aspect = len(self.size) == 2 if keep_aspect is None else keep_aspect

    def box_of_shape(self, shape: Sequence[int]) -> Box:
        return center_box(shape, self.size, self.crop_ratio, self.keep_aspect)
