"""Plan of an EM membrane model: what the network is, and how a slice is brought to it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from monai_ext.errors import InputError, Problems
from monai_ext.planning.plan_file import plan_from_dict, read_plan_file
from monai_ext.planning.valid_sizes import border, check_input_size, valid_output_size

GEOMETRIES = ("tile", "resize")
UPSAMPLINGS = ("conv3", "conv2")


@dataclass(frozen=True)
class EmPlan:
    """Everything between a TIFF page and the network, stored beside the weights.

    Attributes:
        dataset: name of the stack the model was trained on.
        geometry: `tile` cuts windows from the slice at full resolution, mirrored at its border (Ronneberger et al.
            2015); `resize` shrinks or enlarges the whole slice to the output of the network and adds a zero border
            (NVIDIA's UNet Medical, 2021).
        input_size: pixels (y, x) that the network takes in training; in `resize` also in prediction.
        value_range: grey values of the files that become -1 and 1.
        base_features, levels, upsampling: of `ValidUNet`.
    """

    dataset: str
    geometry: str
    input_size: tuple[int, int]
    value_range: tuple[float, float]
    base_features: int
    levels: int = 4
    upsampling: str = "conv3"

    @property
    def output_size(self) -> tuple[int, int]:
        """Pixels (y, x) that the network gives for `input_size`."""
        height, width = (valid_output_size(size, self.levels) for size in self.input_size)
        return height, width

    @property
    def margin(self) -> int:
        """Pixels on every side that the network takes in beyond those it gives."""
        return border(self.levels)

    @property
    def foreground_classes(self) -> dict[str, int]:
        """Classes of interest; pictures draw membranes as 1, whatever the files hold."""
        return {"membrane": 1}

    @property
    def voxel_size(self) -> tuple[float, float, float]:
        """Of pictures: the files do not tell, pixels are square."""
        return (1.0, 1.0, 1.0)

    def signature(self) -> str:
        """What weights and optimiser state depend on."""
        return (
            f"{self.geometry} {self.input_size} {self.value_range} {self.base_features} {self.levels} {self.upsampling}"
        )

    def describe(self) -> str:
        """Text for the log."""
        size_in, size_out = ("x".join(map(str, size)) for size in (self.input_size, self.output_size))
        how = {"tile": "tiles at full resolution, mirrored border", "resize": "whole slices resized, zero border"}
        low, high = self.value_range
        return (
            f"geometry: {self.geometry} ({how[self.geometry]})\n"
            f"network: {size_in} -> {size_out} pixels, {self.base_features} features, {self.levels} levels, "
            f"{self.upsampling}\ngrey values: {low:g} to {high:g} become -1 to 1"
        )

    def check_slice(self, height: int, width: int, where: str) -> None:
        """Raise `InputError` if a slice is smaller than what a single output pixel sees."""
        sees = 2 * self.margin + 1
        if min(height, width) < sees:
            raise InputError(
                f"{where}: slices of {height} x {width} pixels are smaller than the receptive field of {sees} pixels "
                f"({self.levels} levels). Cure: larger slices, or fewer --levels in training"
            )

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2) + "\n"

    @classmethod
    def load(cls, path: str | Path) -> EmPlan:
        """Read `plan.json`.

        Raises:
            InputError: the file is missing, not JSON, or not a valid plan.
        """
        plan = plan_from_dict(cls, read_plan_file(path), path)
        plan.check(path)
        return plan

    def check(self, source: str | Path = "plan") -> None:
        """Raise `InputError` if a field is out of range."""
        problems = Problems(str(source))
        if self.geometry not in GEOMETRIES:
            problems.add(f"geometry {self.geometry!r}", "is not known", f"one of {', '.join(GEOMETRIES)}")
        if self.upsampling not in UPSAMPLINGS:
            problems.add(f"upsampling {self.upsampling!r}", "is not known", f"one of {', '.join(UPSAMPLINGS)}")
        if self.base_features < 1 or not 1 <= self.levels <= 6:
            problems.add(f"{self.base_features} features, {self.levels} levels", "out of range", "1 to 6 levels")
        if not self.value_range[0] < self.value_range[1]:
            problems.add(f"value_range {self.value_range}", "is empty", "two grey values, the lower first")
        problems.raise_if_any()
        check_input_size(*self.input_size, self.levels, f"{source}, patch_size")


def make_em_plan(
    dataset: str,
    value_range: tuple[float, float],
    geometry: str,
    patch_size: Sequence[int],
    base_features: int,
    levels: int,
    upsampling: str,
) -> EmPlan:
    """A checked plan; one number in `patch_size` makes a square.

    Raises:
        InputError: a value is out of range, or the sizes do not fit the arithmetic of the network.
    """
    sizes = tuple(int(size) for size in patch_size)
    if len(sizes) not in (1, 2):
        raise InputError(f"--patch_size {list(patch_size)}: must be one or two numbers. Cure: [572] or [572,572]")
    height, width = sizes * 2 if len(sizes) == 1 else sizes
    plan = EmPlan(dataset, geometry, (height, width), value_range, base_features, levels, upsampling)
    plan.check("keys")
    return plan
