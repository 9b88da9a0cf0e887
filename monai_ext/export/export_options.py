"""Options of the command `export` as the export of a bundle declares them: names, types and limits."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any

from monai_ext.errors import InputError, Problems

PLACES = 3  # model, folder and formats come before


def checked_options(export: Callable[..., Any], bundle: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Options with the types of the defaults of `export`; names and folders that look like numbers become text.

    Args:
        export: takes model, folder, formats and then options with defaults.
        bundle: whose export it is, for messages.
        options: as a command line gives them: `false` is text there, and `5` a number.

    Raises:
        InputError: an option is unknown or of another type, or a number is negative or not finite; all are named.
    """
    parameters = list(inspect.signature(export).parameters.values())[PLACES:]
    usual = {parameter.name: parameter.default for parameter in parameters}
    if unknown := [f"--{name}" for name in options if name not in usual]:
        known = ", ".join(f"--{name}" for name in usual)
        raise InputError(f"{', '.join(unknown)}: no option of the export of {bundle}. Cure: {known}")
    problems = Problems(f"export of {bundle}")
    typed = {name: _typed(name, value, usual[name], problems) for name, value in options.items()}
    problems.raise_if_any()
    return typed


def require_switch(name: str, value: Any) -> None:
    """Refuse what is neither True nor False; the text `false`, as a command line gives it, would count as true.

    Raises:
        InputError: naming the option.
    """
    problems = Problems("export")
    _typed(name, value, False, problems)
    problems.raise_if_any()


def _typed(name: str, value: Any, usual: Any, problems: Problems) -> Any:
    if isinstance(usual, bool):
        if not isinstance(value, bool):
            problems.add(f"--{name} {value}", "is neither True nor False", f"--{name} {not usual}, or leave it out")
        return value
    if isinstance(usual, (int, float)):
        whole = isinstance(usual, int)
        if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
            problems.add(f"--{name} {value}", f"is no {'whole ' * whole}number", f"for example --{name} {usual}")
        elif not math.isfinite(value) or value < 0:
            problems.add(f"--{name} {value}", "is no number from 0 on", f"for example --{name} {usual}")
        return value
    return str(value)
