"""Finds the bundle that is running: MONAI injects neither its folder nor the workflow object into a config."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from monai.bundle import ConfigWorkflow

from monai_ext.errors import InputError

COMMAND_LINE_MODULES = ("monai.bundle.__main__", "monai_ext.__main__")


def _callers() -> Iterator[dict[str, Any]]:
    frame = inspect.currentframe()
    while frame is not None:
        yield frame.f_locals
        frame = frame.f_back


def running_workflow() -> ConfigWorkflow | None:
    """The `ConfigWorkflow` that is being evaluated, None if a config is read by a bare `ConfigParser`."""
    for local in _callers():
        if isinstance(local.get("self"), ConfigWorkflow):
            return local["self"]
    return None


def config_files() -> list[Path]:
    """Config files of the running command, as given; empty if a `ConfigParser` was filled by hand.

    MONAI keeps them in a variable while it evaluates the config, and nowhere else.
    """
    for local in _callers():
        for name in ("config_file_", "config_file"):
            given = local.get(name)
            files = list(given) if isinstance(given, list | tuple) else [given]
            if files and all(isinstance(file, str | Path) and Path(file).is_file() for file in files):
                return [Path(str(file)) for file in files]
    return []


def component(id: str) -> Any:
    """A part of the running config, made now: for steps that must not prepare what they may not need.

    MONAI makes everything that an expression refers to before it evaluates the expression.

    Raises:
        InputError: no bundle is running.
    """
    workflow = running_workflow()
    if workflow is None:
        raise InputError(f"{id}: no running bundle. Cure: `python -m monai.bundle run`")
    return workflow.parser.get_parsed_content(id)


def steps_follow(part: str) -> bool:
    """Whether the running command has steps after the last one whose text contains `part`."""
    workflow = running_workflow()
    steps = workflow.parser[workflow.run_id] if workflow is not None else []
    texts = [str(step) for step in steps] if isinstance(steps, list) else []
    return any(part in text for text in texts) and part not in texts[-1]


def redirect(runs: Mapping[str, str], enabled: bool = True) -> None:
    """Let run ids do what others do; for `initialize`, before anything is made.

    Args:
        runs: run id to the one whose steps replace it.
        enabled: False changes nothing.
    """
    workflow = running_workflow()
    if enabled and workflow is not None:
        steps = {target: workflow.parser[target] for target in runs.values()}
        for name, target in runs.items():
            workflow.parser[name] = steps[target]


def bundle_root() -> str:
    """Folder of the running bundle (the parent of `configs`), taken from the config file that was given.

    Works for `monai.bundle run`, for `ConfigWorkflow` in Python, and for MONAI's other commands.

    Raises:
        InputError: no config file is known, as when a `ConfigParser` is filled by hand.
    """
    workflow = running_workflow()
    if workflow is not None:
        return str(Path(workflow.config_root_path).resolve().parent)
    files = config_files()
    if not files:
        raise InputError("bundle_root: no config file is known here. Cure: set bundle_root to the bundle's folder")
    return str(files[0].resolve().parent.parent)


def from_command_line() -> bool:
    """True if the process was started as `python -m monai.bundle ...`, so that it may decide how the process ends."""
    spec = getattr(sys.modules.get("__main__"), "__spec__", None)
    return spec is not None and spec.name in COMMAND_LINE_MODULES
