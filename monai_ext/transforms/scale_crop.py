"""Random scale and crop of an image with its label map, in one interpolation from the file's pixels."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from monai.utils import ensure_tuple

from monai_ext.errors import InputError
from monai_ext.transforms.box_resize import resize_box
from monai_ext.transforms.drawn_transform import DrawnTransform, Params, check_probability, check_range
from monai_ext.transforms.label_resize import resize_labels

LAWS = ("log_uniform", "uniform")


class RandScaleCropPadd(DrawnTransform):
    """Enlarge an image by a random factor and cut a random part of `size` out; smaller images stay whole.

    Large-scale jitter (Ghiasi et al., "Simple copy-paste is a strong data augmentation method for instance
    segmentation", 2021) is `base` "fit", `scale` (0.1, 2) and `law` "uniform".

    An entry may be a picture (an object with `size` and `crop_resized`, see `monai_ext.datasets.picture`), of which
    only the part is then looked at. The part has whole pixels of the image, so factors are rounded by up to half a
    pixel per part.

    Args:
        size: (height, width) of the result at most, network pixels.
        base: network pixels per image pixel where nothing is drawn, or "fit": as large as fits into `size`.
        scale: range of the factor drawn, multiplied by `base`.
        law: `log_uniform` (halving is as likely as doubling) or `uniform`.
        prob: chance that a factor is drawn; the part is cut in any case.
        prefer_objects: chance that the part is put where it holds the centre of an object drawn at random, if the
            sample has boxes.
        pad: fill smaller results up to `size`, below and to the right; else they stay smaller.
        pad_value: of images; label maps get 0.
        keys: images `[C, H, W]` float32, or pictures.
        label_keys: label maps `[1, H, W]` integer, or pictures of such.
        box_key: boxes `[G, 4]` (x0, y0, x1, y1) in image pixels, for `prefer_objects`.
        allow_missing_keys: skip keys that a sample lacks.

    Raises:
        InputError: an argument is out of bounds, or (when called) the entries differ in height or width.
    """

    takes_pictures = True

    def __init__(
        self,
        size: Sequence[int],
        base: float | str = 1.0,
        scale: Sequence[float] = (1.0, 1.0),
        law: str = "log_uniform",
        prob: float = 1.0,
        prefer_objects: float = 0.0,
        pad: bool = False,
        pad_value: float = 0.0,
        keys: str | Sequence[str] = "image",
        label_keys: str | Sequence[str] = "label_map",
        box_key: str = "boxes",
        allow_missing_keys: bool = False,
    ) -> None:
        name = type(self).__name__
        self.label_keys: tuple[Any, ...] = ensure_tuple(label_keys)
        super().__init__((*ensure_tuple(keys), *self.label_keys), 1.0, allow_missing_keys)
        self.prob = check_probability(name, "prob", prob)  # without a draw the part is still cut: no warning at 0
        self.size = tuple(int(edge) for edge in size)
        self.scale = check_range(name, "scale", scale)
        self.prefer_objects = check_probability(name, "prefer_objects", prefer_objects)
        self.base, self.law, self.pad, self.pad_value, self.box_key = base, law, bool(pad), float(pad_value), box_key
        if len(self.size) != 2 or min(self.size) < 1:
            raise InputError(f"{name}: size must be two numbers of at least 1, found {list(size)}. Cure: [512, 512]")
        if self.scale[0] == 0:
            raise InputError(f"{name}: scale must be above 0, found {list(scale)}. Cure: [0.5, 2]")
        if law not in LAWS:
            raise InputError(f"{name}: law {law!r} is not known. Cure: one of {', '.join(LAWS)}")
        if base != "fit" and not (isinstance(base, int | float) and base > 0):
            raise InputError(f"{name}: base must be a number above 0 or 'fit', found {base!r}. Cure: 1")

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        sample = dict(data)
        present = list(self.key_iterator(sample))
        shapes = {key: spatial_shape(sample[key]) for key in present}
        if len(set(shapes.values())) > 1:
            raise InputError(
                f"{type(self).__name__}: entries differ in height and width: {shapes}. Cure: the label map that was "
                "drawn on this image"
            )
        if present:
            self.params = self.draw_part(shapes[present[0]], sample.get(self.box_key))
            sample.update({key: self.apply_to_key(key, sample[key], self.params) for key in present})
        return sample

    def draw_part(self, shape: Sequence[int], boxes: Any = None) -> Params:
        """Draw `box` (y0, x0, y1, x1) in an image of (height, width) and the `size` it gets."""
        base = float(self.base) if self.base != "fit" else min(n / m for n, m in zip(self.size, shape, strict=True))
        factor = base * (self._jitter() if self.R.random_sample() < self.prob else 1.0)
        whole = [max(1, round(edge * factor)) for edge in shape]
        size = [min(edge, limit) for edge, limit in zip(whole, self.size, strict=True)]
        part = [
            length if edge <= limit else min(length, max(1, round(limit / factor)))
            for length, edge, limit in zip(shape, whole, self.size, strict=True)
        ]
        centre = None
        if self.R.random_sample() < self.prefer_objects and boxes is not None and len(boxes):
            x0, y0, x1, y1 = np.asarray(boxes[int(self.R.randint(len(boxes)))]).tolist()
            centre = (int(y0 + y1) // 2, int(x0 + x1) // 2)
        start = []
        for axis in (0, 1):
            first, last = 0, shape[axis] - part[axis]
            if centre is not None:
                first = max(first, centre[axis] - part[axis] + 1)
                last = max(first, min(last, centre[axis]))
            start.append(first + int(self.R.randint(last - first + 1)))
        return {"box": [*start, start[0] + part[0], start[1] + part[1]], "size": size}

    def apply_to_key(self, key: Hashable, image: Any, params: Params) -> torch.Tensor:
        is_label = key in self.label_keys
        if isinstance(image, torch.Tensor):
            out = (resize_labels if is_label else resize_box)(image, params["box"], params["size"])
        else:
            out = image.crop_resized(params["box"], params["size"])
        if self.pad and list(out.shape[-2:]) != list(self.size):
            below, right = (limit - edge for limit, edge in zip(self.size, out.shape[-2:], strict=True))
            out = F.pad(out, (0, right, 0, below), value=0 if is_label else self.pad_value)
        return out

    def _jitter(self) -> float:
        low, high = self.scale
        if self.law == "uniform":
            return float(self.R.uniform(low, high))
        return math.exp(self.R.uniform(math.log(low), math.log(high)))


def spatial_shape(value: Any) -> tuple[int, ...]:
    """(height, width) of a tensor or a picture."""
    return tuple(value.shape[-2:]) if isinstance(value, torch.Tensor) else tuple(value.size)
