"""Plan of an image classifier: what the network is, and how a picture or volume is brought to it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from monai_ext.errors import InputError, Problems
from monai_ext.planning.plan_file import plan_from_dict, read_plan_file

# blocks per stage, planes of the first stage, groups, width of a group at 64 planes, squeeze ratio (0: no gate)
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "resnet50": {"layers": (3, 4, 6, 3), "base_features": 64, "groups": 1, "group_width": 64, "se_ratio": 0},
    "resnext101-32x4d": {"layers": (3, 4, 23, 3), "base_features": 64, "groups": 32, "group_width": 4, "se_ratio": 0},
    "se-resnext101-32x4d": {
        "layers": (3, 4, 23, 3),
        "base_features": 64,
        "groups": 32,
        "group_width": 4,
        "se_ratio": 16,
    },
    "se-resnext-narrow": {"layers": (1, 2, 2, 1), "base_features": 32, "groups": 8, "group_width": 8, "se_ratio": 16},
}
STEM_POOLS = ("ceil", "pad1", "none")
INTERPOLATIONS = ("bilinear", "bicubic")


@dataclass(frozen=True)
class ClassPlan:
    """Everything between an image file and the network, stored beside the weights.

    Attributes:
        dataset: name of the dataset the model was trained on.
        classes: names, in the order of the network's outputs.
        multi_label: an image may have several classes or none; sigmoid instead of softmax.
        spatial_dims: 2 for pictures, 3 for volumes.
        channels: of the network's input; pictures are converted to grey (1) or RGB (3).
        image_size: pixels (y, x) or voxels (z, y, x) of the network's input.
        crop_ratio: in evaluation the shorter side is resized to `image_size / crop_ratio`, then the centre is cut out.
        interpolation: `bilinear` or `bicubic`, always with antialiasing where an image shrinks.
        value_range: values of the files that become 0 and 1; (0, 255) for 8-bit pictures.
        mean, std: per channel, of values scaled to 0 to 1.
        arch: name the network was chosen by; what follows decides.
        layers: residual blocks per stage.
        base_features: width of the stem and planes of the first stage; doubled per stage.
        groups, group_width: of the 3x3 convolutions; a group has `planes * group_width / 64` channels.
        se_ratio: channels per hidden unit of the squeeze-and-excitation gates; 0 leaves the gates out.
        se_hidden: hidden units of every gate, whatever its channels (NVIDIA's PyTorch checkpoints: 16); 0: the ratio.
        stem_pool: `ceil` (3x3 stride 2, ceil mode, no padding), `pad1` (padding 1) or `none`.
        final_conv: 1x1 convolution instead of the fully connected layer.
    """

    dataset: str
    classes: tuple[str, ...]
    multi_label: bool
    spatial_dims: int
    channels: int
    image_size: tuple[int, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    arch: str
    layers: tuple[int, int, int, int]
    base_features: int
    groups: int
    group_width: int
    se_ratio: int
    se_hidden: int = 0
    stem_pool: str = "ceil"
    final_conv: bool = False
    crop_ratio: float = 0.875
    interpolation: str = "bilinear"
    value_range: tuple[float, float] = (0.0, 255.0)

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    @property
    def foreground_classes(self) -> dict[str, int]:
        """Class name to index of the network's output."""
        return {name: index for index, name in enumerate(self.classes)}

    @property
    def voxel_size(self) -> tuple[float, float, float]:
        """Of pictures: files do not tell, pixels are square."""
        return (1.0, 1.0, 1.0)

    @property
    def resize_size(self) -> int:
        """Length of the shorter side before the centre is cut out, in pixels."""
        return round(min(self.image_size) / self.crop_ratio)

    def signature(self) -> str:
        """What weights and optimiser state depend on."""
        return " ".join(str(getattr(self, name)) for name in SIGNATURE)

    def describe(self) -> str:
        """Text for the log."""
        kind = "labels (an image may have several)" if self.multi_label else "classes"
        names = ", ".join(self.classes[:12]) + (", ..." if len(self.classes) > 12 else "")
        gates = "no gates" if not (self.se_ratio or self.se_hidden) else "squeeze-and-excitation gates"
        mean, std = (", ".join(f"{value:.3f}" for value in values) for values in (self.mean, self.std))
        return (
            f"{self.num_classes} {kind}: {names}\n"
            f"image: {'x'.join(map(str, self.image_size))}, {self.channels} channels, {self.interpolation}; "
            f"evaluation resizes the shorter side to {self.resize_size} and cuts the centre\n"
            f"values: {self.value_range[0]:g} to {self.value_range[1]:g} become 0 to 1, then mean {mean}, std {std}\n"
            f"network: {self.arch}, blocks {self.layers}, {self.base_features} features, {self.groups} groups, {gates}"
        )

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2) + "\n"

    @classmethod
    def load(cls, path: str | Path) -> ClassPlan:
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
        if len(self.classes) < (1 if self.multi_label else 2):
            problems.add(f"classes {list(self.classes)}", "are too few", "at least two, or multi_label")
        if len(set(self.classes)) < len(self.classes):
            problems.add(f"classes {list(self.classes)}", "hold a name twice", "one name per class")
        if self.spatial_dims not in (1, 2, 3) or len(self.image_size) != self.spatial_dims:
            problems.add(
                f"image_size {list(self.image_size)} with spatial_dims {self.spatial_dims}",
                "do not fit",
                "a size per dimension",
            )
        if min(self.image_size, default=0) < MINIMUM_SIZE:
            problems.add(f"image_size {list(self.image_size)}", "is too small", f"at least {MINIMUM_SIZE}")
        if self.channels < 1 or len(self.mean) != self.channels or len(self.std) != self.channels:
            problems.add(
                f"mean {list(self.mean)}, std {list(self.std)}",
                f"are not of {self.channels} channels",
                "one number per channel",
            )
        if min(self.std, default=1) <= 0:
            problems.add(f"std {list(self.std)}", "must be above 0", "the deviation of training images")
        if not 0 < self.crop_ratio <= 1:
            problems.add(f"crop_ratio {self.crop_ratio}", "must be above 0 and at most 1", "0.875")
        if not self.value_range[0] < self.value_range[1]:
            problems.add(f"value_range {list(self.value_range)}", "is empty", "two values, the lower first")
        for name, allowed in (("stem_pool", STEM_POOLS), ("interpolation", INTERPOLATIONS)):
            if getattr(self, name) not in allowed:
                problems.add(f"{name} {getattr(self, name)!r}", "is not known", f"one of {', '.join(allowed)}")
        if min(self.layers) < 1 or self.base_features < 1 or self.groups < 1 or self.group_width < 1:
            problems.add("layers, base_features, groups, group_width", "must be at least 1", "those of an arch")
        elif self.base_features * self.group_width < 64:
            problems.add(
                f"base_features {self.base_features} with group_width {self.group_width}",
                "leave no channel to a group",
                f"--base_features {-(-64 // self.group_width)} at least",
            )
        problems.raise_if_any()


SIGNATURE = (
    "classes", "multi_label", "spatial_dims", "channels", "image_size", "mean", "std", "layers", "base_features",
    "groups", "group_width", "se_ratio", "se_hidden", "stem_pool", "final_conv", "value_range",
)  # fmt: skip
MINIMUM_SIZE = 16  # below, the last stage sees less than a pixel


def architecture(arch: str) -> dict[str, Any]:
    """Fields of a plan that an architecture decides.

    Raises:
        InputError: the name is unknown.
    """
    if arch not in ARCHITECTURES:
        raise InputError(f"--arch {arch!r}: is not known. Cure: one of {', '.join(ARCHITECTURES)}")
    return dict(ARCHITECTURES[arch])
