"""Parts of a parsed bundle config, for tests that look at what a key changes."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser

from monai_ext.engines.config_keys import load_key_specs

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


def assert_every_key_is_shown(configs: Path, changes: Iterable[str], elsewhere: Mapping[str, str]) -> None:
    """Every key of a bundle is in one of two tables, and the tests that the second names exist.

    Args:
        configs: folder with `keys.json`.
        changes: keys whose effect on components is looked at.
        elsewhere: other keys and the place of their test, `folder/file.py::test` or a whole file.
    """
    assert set(changes) | set(elsewhere) == set(load_key_specs(configs / "keys.json"))
    assert not set(changes) & set(elsewhere)
    for key, place in elsewhere.items():
        file, _, test = place.partition("::")
        text = (Path(__file__).parent / file).read_text()
        assert re.search(rf"^def {test}\(" if test else r"^def test_", text, re.MULTILINE), f"{key}: {place}"
