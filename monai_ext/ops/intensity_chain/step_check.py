"""Whether a step of a chain is one, and fits the images."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

_NAMES = ("noise", "blur", "brightness", "contrast", "low_resolution", "gamma")


def check_step(step: Mapping[str, Any], channels: int, axes: int) -> None:
    """Check one step of `intensity_chain`.

    Args:
        step: the mapping.
        channels: of the images.
        axes: spatial axes of the images.

    Raises:
        ValueError: unknown name, missing parameter, wrong number of values or value out of bounds.
    """
    name = step.get("name")
    try:
        if name == "noise":
            _require(name, "std", step["std"], math.isfinite, "finite")
            seed = step["seed"]
            _require(name, "seed", seed, lambda s: isinstance(s, int) and 0 <= s < 2**64, "an integer in [0, 2^64)")
        elif name == "blur":
            _check_table(name, "sigma", step["sigma"], channels, axes, lambda s: 0 <= s < math.inf, "at least 0")
        elif name == "brightness":
            _check_list(name, "factor", step["factor"], channels, math.isfinite, "finite")
        elif name == "contrast":
            _check_list(name, "factor", step["factor"], channels, math.isfinite, "finite")
            _require(name, "about", step["about"], lambda a: a in ("mean", "zero"), "'mean' or 'zero'")
        elif name == "low_resolution":
            _check_table(name, "zoom", step["zoom"], channels, axes, lambda z: 0 < z <= 1, "in (0, 1]")
        elif name == "gamma":
            _check_list(name, "exponent", step["exponent"], channels, lambda e: 0 < e < math.inf, "above 0")
            _require(name, "invert", step["invert"], lambda v: v in (False, True), "a truth value")
            _require(name, "keep_stats", step["keep_stats"], lambda v: v in (False, True), "a truth value")
        else:
            raise ValueError(f"step: name must be one of {', '.join(_NAMES)}, found {name!r}")
    except KeyError as missing:
        raise ValueError(f"step {name}: {missing} is missing") from None


def _require(name: str, key: str, value: Any, good: Callable[[Any], bool], rule: str) -> None:
    if not good(value):
        raise ValueError(f"step {name}: {key} must be {rule}, found {value!r}")


def _check_list(name: str, key: str, values: Sequence[Any], n: int, good: Callable[[Any], bool], rule: str) -> None:
    if len(values) != n:
        raise ValueError(f"step {name}: {key} needs {n} values, found {len(values)}")
    for value in values:
        _require(name, key, value, good, rule)


def _check_table(
    name: str, key: str, rows: Sequence[Sequence[Any]], n: int, axes: int, good: Callable[[Any], bool], rule: str
) -> None:
    if len(rows) != n:
        raise ValueError(f"step {name}: {key} needs a list for each of {n} channels, found {len(rows)}")
    for row in rows:
        _check_list(name, key, row, axes, good, rule)
