"""Plan of an instance segmentation: what the Mask R-CNN is, and how an image is brought to it and back."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from monai_ext.errors import InputError, Problems
from monai_ext.planning.plan_file import plan_from_dict, read_plan_file

ARCHITECTURES: dict[str, dict[str, Any]] = {
    "resnet50": {
        "block": "bottleneck",
        "layers": (3, 4, 6, 3),
        "base_features": 64,
        "fpn_channels": 256,
        "box_features": 1024,
        "mask_features": 256,
    },
    "resnet-small": {
        "block": "basic",
        "layers": (2, 2, 2, 2),
        "base_features": 32,
        "fpn_channels": 64,
        "box_features": 256,
        "mask_features": 64,
    },
    "resnet-tiny": {
        "block": "basic",
        "layers": (1, 1, 1, 1),
        "base_features": 16,
        "fpn_channels": 32,
        "box_features": 64,
        "mask_features": 32,
    },
}
BLOCKS = ("basic", "bottleneck")
NORMS = ("group", "batch", "frozen_batch")
BOX_HEADS = ("fc", "conv")
RESIZES = ("scale", "fit")
NORMALISATIONS = ("percentile", "range")
LEVELS = 5  # P2 to P6; the last one only proposes


@dataclass(frozen=True)
class InstancePlan:
    """Everything between an image file and the network, stored beside the weights.

    Network pixels are those after resizing. Levels count from P2, the finest.

    Attributes:
        dataset: name of the dataset the model was trained on.
        classes: names of the objects; the network's label i + 1 is class i, 0 is background.
        category_ids: ids of the classes in COCO files.
        channels: of the network's input; images are converted to grey (1) or RGB (3).
        normalisation: how values become 0 to 1: `percentile` by percentiles of each image, `range` by `value_range`.
        percentiles: low and high, of all channels together.
        value_range: values of the files that become 0 and 1; (0, 255) for 8-bit images.
        mean, std: per channel, of values scaled to 0 to 1.
        resize: `scale` enlarges every image by `scale`; `fit` makes it as large as fits into `image_size`.
        scale: network pixels per image pixel.
        image_size: network pixels (y, x): crops of the training and tiles of the inference, or what `fit` fits into.
        arch: name the network was chosen by; what follows decides.
        block: `basic` (two 3x3) or `bottleneck` (1x1, 3x3, 1x1 to four times the features).
        layers: residual blocks per stage.
        base_features: of the stem and the first stage; doubled per stage.
        norm: `group`, `batch`, or `frozen_batch` (statistics and affine of a weight file, never changed).
        stem_stride: of the first convolution; 1 for small objects.
        stride_in_1x1: a bottleneck's stride is in its first convolution (weights of Caffe origin).
        fpn_channels: of the feature pyramid.
        anchor_sizes: per level, network pixels.
        aspect_ratios: height / width of anchors.
        anchor_offset: of anchor centres from the cell's corner, in cells.
        round_anchors: to whole pixels, as torchvision does.
        canonical_size, canonical_level: a box of this edge is pooled from this level; smaller ones from finer levels.
        pool_sampling: samples per axis and bin of RoIAlign; 0 adapts.
        pool_aligned: RoIAlign with the half pixel shift.
        box_head: `fc` (two fully connected) or `conv` (four convolutions, one fully connected).
        box_features: of the fully connected layers.
        mask_features: of the mask head.
        mask_size: pixels of a mask, both axes.
        rpn_pre_nms, rpn_post_nms: proposals per level before, and per image after suppression in inference.
        rpn_nms: overlap above which the weaker proposal goes.
        score_threshold: detections below are dropped.
        box_nms: overlap above which the weaker detection of a class goes.
        max_detections: per image or tile.
        tile_overlap: of tiles, network pixels; more than the largest object.
        label_threshold: score from which a detection is painted into a label map.
        min_area: image pixels; smaller pieces of a label map are dropped.
    """

    dataset: str
    classes: tuple[str, ...]
    category_ids: tuple[int, ...]
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    image_size: tuple[int, int]
    arch: str
    block: str
    layers: tuple[int, int, int, int]
    base_features: int
    fpn_channels: int
    box_features: int
    mask_features: int
    anchor_sizes: tuple[tuple[float, ...], ...]
    normalisation: str = "percentile"
    percentiles: tuple[float, float] = (1.0, 99.8)
    value_range: tuple[float, float] = (0.0, 255.0)
    resize: str = "scale"
    scale: float = 1.0
    norm: str = "group"
    stem_stride: int = 2
    stride_in_1x1: bool = False
    aspect_ratios: tuple[float, ...] = (0.5, 1.0, 2.0)
    anchor_offset: float = 0.0
    round_anchors: bool = False
    canonical_size: float = 224.0
    canonical_level: int = 4
    pool_sampling: int = 2
    pool_aligned: bool = True
    box_head: str = "fc"
    mask_size: int = 28
    rpn_pre_nms: int = 1000
    rpn_post_nms: int = 1000
    rpn_nms: float = 0.7
    score_threshold: float = 0.05
    box_nms: float = 0.5
    max_detections: int = 500
    tile_overlap: int = 64
    label_threshold: float = 0.5
    min_area: int = 1

    @property
    def num_classes(self) -> int:
        """Without background."""
        return len(self.classes)

    @property
    def foreground_classes(self) -> dict[str, int]:
        """Class name to label."""
        return {name: index + 1 for index, name in enumerate(self.classes)}

    @property
    def voxel_size(self) -> tuple[float, float, float]:
        """Of pictures: files do not tell, pixels are square."""
        return (1.0, 1.0, 1.0)

    @property
    def strides(self) -> tuple[int, ...]:
        """Network pixels per cell of each level."""
        return tuple(2 * self.stem_stride * 2**level for level in range(LEVELS))

    @property
    def size_divisor(self) -> int:
        """Images are padded to multiples of it."""
        return self.strides[3]

    def signature(self) -> str:
        """What weights and optimiser state depend on."""
        return " ".join(str(getattr(self, name)) for name in SIGNATURE)

    def describe(self) -> str:
        """Text for the log."""
        names = ", ".join(self.classes[:12]) + (", ..." if len(self.classes) > 12 else "")
        size = "x".join(map(str, self.image_size))
        how = (
            f"fitted into {size}" if self.resize == "fit" else f"enlarged {self.scale:g} times, crops and tiles {size}"
        )
        values = (
            f"percentiles {self.percentiles[0]:g} and {self.percentiles[1]:g} of the image"
            if self.normalisation == "percentile"
            else f"{self.value_range[0]:g} and {self.value_range[1]:g}"
        )
        anchors = "; ".join(
            f"stride {stride}: {', '.join(f'{size:g}' for size in sizes)}"
            for stride, sizes in zip(self.strides, self.anchor_sizes, strict=True)
        )
        return (
            f"{self.num_classes} classes: {names}\n"
            f"image: {how} pixels, {self.channels} channels; {values} become 0 and 1\n"
            f"network: {self.arch}, {self.block} blocks {self.layers}, {self.base_features} features, {self.norm} "
            f"norm, pyramid of {self.fpn_channels} channels\n"
            f"anchors (pixels): {anchors}; height / width {', '.join(f'{ratio:g}' for ratio in self.aspect_ratios)}\n"
            f"detections: at most {self.max_detections} per image or tile, score {self.score_threshold:g} or more, "
            f"{self.label_threshold:g} or more in label maps"
        )

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2) + "\n"

    @classmethod
    def load(cls, path: str | Path) -> InstancePlan:
        """Read `plan.json`.

        Raises:
            InputError: the file is missing, not JSON, or not a valid plan.
        """
        plan = plan_from_dict(cls, read_plan_file(path), path)
        plan.check(path)
        return plan

    def check(self, source: str | Path = "plan") -> None:
        """Raise `InputError` with every field that is out of range."""
        problems = Problems(str(source))
        if not self.classes or len(set(self.classes)) < len(self.classes):
            problems.add(f"classes {list(self.classes)}", "are none, or hold a name twice", "one name per class")
        if len(self.category_ids) != len(self.classes) or len(set(self.category_ids)) < len(self.category_ids):
            problems.add(f"category_ids {list(self.category_ids)}", "are not one per class", "an id for each class")
        if self.channels not in (1, 3) or len(self.mean) != self.channels or len(self.std) != self.channels:
            problems.add(
                f"channels {self.channels}, mean {list(self.mean)}, std {list(self.std)}",
                "do not fit",
                "1 or 3 channels and one number per channel",
            )
        if min(self.std, default=1) <= 0:
            problems.add(f"std {list(self.std)}", "must be above 0", "the deviation of training images")
        for name, allowed in CHOICES.items():
            if getattr(self, name) not in allowed:
                problems.add(
                    f"{name} {getattr(self, name)!r}", "is not known", f"one of {', '.join(map(str, allowed))}"
                )
        if len(self.percentiles) != 2 or not 0 <= self.percentiles[0] < self.percentiles[1] <= 100:
            problems.add(f"percentiles {list(self.percentiles)}", "are no range", "two of 0 to 100, the lower first")
        if len(self.value_range) != 2 or not self.value_range[0] < self.value_range[1]:
            problems.add(f"value_range {list(self.value_range)}", "is no range", "two values, the lower first")
        if not 0 <= self.anchor_offset < 1:
            problems.add(f"anchor_offset {self.anchor_offset}", "must be from 0 to below 1", "0, or 0.5")
        if self.pool_sampling < 0 or self.min_area < 0:
            problems.add(
                f"pool_sampling {self.pool_sampling}, min_area {self.min_area}", "must not be negative", "2 and 1"
            )
        if self.scale <= 0 or self.canonical_size <= 0:
            problems.add(f"scale {self.scale}, canonical_size {self.canonical_size}", "must be above 0", "1 and 224")
        if len(self.image_size) != 2 or min(self.image_size) < self.size_divisor:
            problems.add(
                f"image_size {list(self.image_size)}", "is too small", f"two numbers of at least {self.size_divisor}"
            )
        per_level = {len(sizes) for sizes in self.anchor_sizes}
        if len(self.anchor_sizes) != LEVELS or not all(sizes and min(sizes) > 0 for sizes in self.anchor_sizes):
            problems.add(
                f"anchor_sizes {[list(sizes) for sizes in self.anchor_sizes]}",
                f"are not sizes above 0 for {LEVELS} levels",
                "a list per level, as `python -m monai_ext anchors` proposes",
            )
        elif len(per_level) > 1:
            problems.add(
                f"anchor_sizes {[list(sizes) for sizes in self.anchor_sizes]}",
                "differ in number, but all levels share one head",
                "the same number of sizes on each level",
            )
        if not self.aspect_ratios or min(self.aspect_ratios) <= 0:
            problems.add(f"aspect_ratios {list(self.aspect_ratios)}", "must be above 0", "[0.5,1,2]")
        whole = ("base_features", "fpn_channels", "box_features", "mask_features", "rpn_pre_nms", "rpn_post_nms")
        for name in (*whole, "max_detections"):
            if getattr(self, name) < 1:
                problems.add(f"{name} {getattr(self, name)}", "must be at least 1", "that of an arch")
        if min(self.layers) < 1:
            problems.add(f"layers {list(self.layers)}", "must be at least 1", "[3,4,6,3]")
        if not 0 <= self.tile_overlap < min(self.image_size, default=1):
            problems.add(
                f"tile_overlap {self.tile_overlap}", "must be below image_size", "more than the largest object"
            )
        for name in ("rpn_nms", "score_threshold", "box_nms", "label_threshold"):
            if not 0 <= getattr(self, name) <= 1:
                problems.add(f"{name} {getattr(self, name)}", "must be from 0 to 1", "0.5")
        problems.raise_if_any()


CHOICES: dict[str, tuple[Any, ...]] = {
    "block": BLOCKS,
    "norm": NORMS,
    "box_head": BOX_HEADS,
    "resize": RESIZES,
    "normalisation": NORMALISATIONS,
    "stem_stride": (1, 2),
    "mask_size": (14, 28, 56),
}
SIGNATURE = (
    "classes", "channels", "mean", "std", "normalisation", "percentiles", "value_range", "resize", "scale", "block",
    "layers", "base_features", "norm", "stem_stride", "stride_in_1x1", "fpn_channels", "anchor_sizes", "aspect_ratios",
    "anchor_offset", "round_anchors", "canonical_size", "canonical_level", "pool_sampling", "pool_aligned", "box_head",
    "box_features", "mask_features", "mask_size",
)  # fmt: skip


def architecture(arch: str) -> dict[str, Any]:
    """Fields of a plan that an architecture decides.

    Raises:
        InputError: the name is unknown.
    """
    if arch not in ARCHITECTURES:
        raise InputError(f"--arch {arch!r}: is not known. Cure: one of {', '.join(ARCHITECTURES)}")
    return dict(ARCHITECTURES[arch])
