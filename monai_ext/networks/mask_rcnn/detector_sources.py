"""Libraries that weights of a detector or of its backbone come from, and what each does otherwise."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch

from monai_ext.errors import InputError
from monai_ext.networks.mask_rcnn.detectron2_names import name_of_caffe2, name_of_detectron2
from monai_ext.networks.mask_rcnn.numpy_pickle import read_numpy_pickle
from monai_ext.networks.mask_rcnn.residual_names import name_of_classifier
from monai_ext.networks.mask_rcnn.torchvision_detector_names import is_published, is_version_2, name_of_torchvision
from monai_ext.networks.weight_files import read_weights
from monai_ext.networks.weight_names import source_of

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
EPS = 1e-5


@dataclass(frozen=True)
class PixelRule:
    """What a network was given of an image.

    Attributes:
        reversed: channels are blue, green, red.
        factor: of the values; 255 where 8-bit values went in as they are.
        mean, std: RGB, of values scaled to 0 to 1; std is 1 where `factor` is 255.
    """

    reversed: bool = False
    factor: float = 1.0
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD


RGB = PixelRule()
BGR255 = PixelRule(True, 255.0, std=(1.0, 1.0, 1.0))
PIXELS = {
    "rgb": RGB,
    "bgr": PixelRule(True),
    "bgr255": BGR255,
    "rgb255": PixelRule(False, 255.0, std=(1.0, 1.0, 1.0)),
}


@dataclass(frozen=True)
class DetectorSource:
    """Rules of a library; fields that are None are not known from the file.

    Attributes:
        name: for messages.
        own_name: name in `MaskRCNN`, None for a tensor that is no weight.
        background_last: among the rows of `cls_score`.
        background_rows: whether boxes and masks of the background have rows too.
        stride_in_1x1: of bottlenecks.
        pixels: what the stem was trained on.
        eps: of frozen norms.
        merged_norms: norms of the backbone have no statistics since these are merged into their scale and shift.
        settings: of the plan, for the whole detector to compute what it did there.
        is_own: a model of this package.
    """

    name: str
    own_name: Callable[[str], str | None]
    background_last: bool = False
    background_rows: bool = False
    stride_in_1x1: bool | None = False
    pixels: PixelRule | None = RGB
    eps: float = EPS
    merged_norms: bool = False
    settings: Mapping[str, object] = field(default_factory=dict)
    is_own: bool = False


@dataclass(frozen=True)
class DetectorFile:
    """A weight file that was recognised.

    Attributes:
        path: of the file.
        place: keys under which the state dict was found.
        source: its library.
        tensors: under the names of the file.
        variant: what is special about it, for messages.
    """

    path: Path
    place: str
    source: DetectorSource
    tensors: dict[str, torch.Tensor]
    variant: str = ""

    @property
    def origin(self) -> str:
        """Library and variant."""
        return f"{self.source.name} {self.variant}".strip()


_ANCHORS = {"anchor_offset": 0.0, "canonical_size": 224.0, "canonical_level": 4}
_TORCHVISION = {**_ANCHORS, "pool_sampling": 2, "pool_aligned": False, "round_anchors": True}
_DETECTRON2 = {**_ANCHORS, "pool_sampling": 0, "pool_aligned": True, "round_anchors": False}

_OWN = re.compile(r"^(?:backbone\.)?fpn\.(?:inner|outer)\.\d")
_OF_TORCHVISION = re.compile(r"^backbone\.fpn\.(?:inner|layer)_blocks\.|^rpn\.head\.")
_OF_DETECTRON2 = re.compile(r"^(?:backbone\.)?(?:bottom_up\.)?(?:stem\.conv1|res2\.0\.conv1)\.")
_OF_CAFFE2 = re.compile(r"^res2_0_branch2a_w$")


def read_detector_file(path: str | Path) -> DetectorFile:
    """Read and recognise a weight file.

    Raises:
        InputError: it cannot be read (see `read_weights` and `read_numpy_pickle`), or is of no library that is known.
    """
    path = Path(path)
    author, place = "", ""
    if _is_pickle(path):
        tensors, author = read_numpy_pickle(path)
    else:
        tensors, place = read_weights(path)
    names = frozenset(tensors)
    if any(_OWN.match(name) for name in names):
        source = DetectorSource("monai_ext", _own_name, stride_in_1x1=None, pixels=None, is_own=True)
        return DetectorFile(path, place, source, tensors)
    if any(_OF_TORCHVISION.match(name) for name in names):
        return DetectorFile(path, place, _torchvision(names), tensors, "v2" if is_version_2(names) else "")
    if any(_OF_DETECTRON2.match(name) for name in names):
        return DetectorFile(path, place, _detectron2(tensors, author), tensors)
    if any(_OF_CAFFE2.match(name) for name in names):
        grouped = any("_gn_" in name for name in names)
        source = DetectorSource(
            "Caffe2", name_of_caffe2, stride_in_1x1=not grouped, pixels=BGR255, merged_norms=not grouped
        )
        return DetectorFile(path, place, source, tensors)
    classifier = source_of(names)
    if classifier is None:
        first = ", ".join(sorted(names)[:3])
        raise InputError(
            f"{path}: is no Mask R-CNN or ResNet of torchvision, detectron2, timm, NVIDIA or MONAI; it holds "
            f"{len(names)} tensors ({first}). Cure: a state dict of one of these"
        )
    return DetectorFile(path, place, DetectorSource(classifier.name, name_of_classifier), tensors)


def _is_pickle(path: Path) -> bool:
    """Whether a `.pkl` file is a bare pickle; torch.save writes an archive."""
    if path.suffix.lower() != ".pkl" or not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(2) != b"PK"


def _own_name(name: str) -> str | None:
    return f"backbone.{name}" if name.startswith(("body.", "fpn.")) else name


def _torchvision(names: frozenset[str]) -> DetectorSource:
    return DetectorSource(
        "torchvision",
        name_of_torchvision,
        background_rows=True,
        eps=0.0 if is_published(names) else EPS,
        settings=_TORCHVISION,
    )


def _detectron2(tensors: Mapping[str, torch.Tensor], author: str) -> DetectorSource:
    """Its configurations join the pixels to the stride: Caffe's weights have both otherwise than torchvision's."""
    stride, pixels = None, None
    grouped = not any(name.endswith("running_mean") for name in tensors)
    if "pixel_mean" in tensors and "pixel_std" in tensors:
        pixels = _pixel_rule(tensors["pixel_mean"].flatten().tolist(), tensors["pixel_std"].flatten().tolist())
        stride = None if pixels is None else pixels.factor != 1 and not grouped
    elif author.lower() == "torchvision":
        stride, pixels = False, RGB
    elif grouped:
        stride, pixels = False, BGR255  # from Detectron's R-50-GN
    return DetectorSource(
        "detectron2",
        name_of_detectron2,
        background_last=True,
        stride_in_1x1=stride,
        pixels=pixels,
        settings=_DETECTRON2,
    )


def _pixel_rule(mean: list[float], std: list[float]) -> PixelRule | None:
    """Of `pixel_mean` and `pixel_std`, of values up to 255; ImageNet's blue is the darkest channel."""
    if len(mean) != 3 or len(std) != 3 or min(std) <= 0:
        return None
    turned = mean[0] < mean[2]
    if turned:
        mean, std = mean[::-1], std[::-1]
    factor = 255.0 if max(std) <= 2 else 1.0
    return PixelRule(turned, factor, tuple(m / 255 for m in mean), tuple(s * factor / 255 for s in std))
