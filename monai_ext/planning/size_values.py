"""Sizes as a person types them, in the form in which a plan holds them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from monai_ext.errors import InputError
from monai_ext.planning.instance_plan import LEVELS


def pair(values: Sequence[int]) -> tuple[int, int]:
    """(y, x) of one number or two.

    Raises:
        InputError: other numbers of them.
    """
    sizes = tuple(int(value) for value in values)
    if len(sizes) not in (1, 2):
        raise InputError(f"--image_size {list(values)}: must be one or two numbers. Cure: [512] or [832,1344]")
    return sizes[0], sizes[-1]


def level_sizes(values: Any) -> tuple[tuple[float, ...], ...]:
    """Anchor sizes as the plan holds them; one number for a level is a list of one.

    Raises:
        InputError: they are not numbers above 0 for each level.
    """
    try:
        sizes = tuple(
            tuple(float(size) for size in (level if isinstance(level, Sequence) else [level])) for level in values
        )
    except (TypeError, ValueError):
        sizes = ()
    if len(sizes) != LEVELS or not all(level and min(level) > 0 for level in sizes):
        raise InputError(
            f"--anchor_sizes {values}: are not sizes above 0 for {LEVELS} levels. "
            "Cure: auto, or such as [[12,16],[24,32],[48,64],[96,128],[192,256]]"
        )
    return sizes


def ratios(values: Sequence[float]) -> tuple[float, ...]:
    """Aspect ratios as the plan holds them.

    Raises:
        InputError: they are not numbers above 0.
    """
    if isinstance(values, str) or not values or not all(isinstance(r, (int, float)) and r > 0 for r in values):
        raise InputError(f"--aspect_ratios {values}: must be numbers above 0, height / width. Cure: [0.5,1,2]")
    return tuple(float(ratio) for ratio in values)


def not_negative(key: str, value: float) -> float:
    """A number of which 0 stands for the proposed one.

    Raises:
        InputError: it is below, or no number.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not value >= 0:
        raise InputError(f"--{key} {value}: must be a number above 0. Cure: leave it out for the proposed one")
    return float(value)
