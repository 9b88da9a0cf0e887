"""Parts of a parsed bundle config, for tests that look at what a key changes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from monai.bundle import ConfigParser

Check = Callable[[ConfigParser], bool]


def part(name: str) -> Callable[[ConfigParser], Any]:
    """The component or value with an id."""
    return lambda parser: parser.get_parsed_content(name)


def plan(p: ConfigParser) -> Any:
    """The plan of the training."""
    return part("prepared")(p).plan


def fold(p: ConfigParser) -> Any:
    """The fold of the training."""
    return part("prepared")(p).fold


def handler(name: str) -> Callable[[ConfigParser], Any]:
    """The training handler of a class."""
    return lambda p: next(h for h in part("train#handlers")(p) if type(h).__name__ == name)


def group(p: ConfigParser) -> dict[str, Any]:
    """Settings of the optimiser."""
    return part("optimizer_def")(p).param_groups[0]


def chain(p: ConfigParser) -> list[Any]:
    """Transforms of a training sample."""
    return list(part("train#preprocessing")(p).transforms)
