"""The detection bundle in this process, as `monai.bundle run` makes it, without the seconds that imports take."""

from __future__ import annotations

from typing import Any

from monai.bundle import ConfigWorkflow

from bundle_commands import MASK_RCNN
from monai_ext.engines.person_errors import find_input_error

SMALL = ("train.json", "tiny.json")


def detection_workflow(*files: str, run_id: str = "run", **overrides: Any) -> ConfigWorkflow:
    """An initialised workflow of some configs, by default those of a tiny training.

    Args:
        files: names of configs of the bundle.
        run_id: what its `run` does.
        overrides: keys; paths are relative to the working directory.
    """
    root = str(MASK_RCNN.parent)  # found by the workflow, which is not the caller here
    workflow = ConfigWorkflow(
        config_file=[str(MASK_RCNN / name) for name in files or SMALL],
        workflow_type="train",
        run_id=run_id,
        logging_file=False,
        bundle_root=root,
        **({} if files[:1] == ("inference.json",) else {"affinity": "disabled"}),
        **overrides,
    )
    workflow.initialize()
    return workflow


def run_here(run_id: str, *files: str, **overrides: Any) -> ConfigWorkflow:
    """Run one of the bundle's commands."""
    workflow = detection_workflow(*files, run_id=run_id, **overrides)
    workflow.run()
    return workflow


def mistake_of(run_id: str, *files: str, **overrides: Any) -> str:
    """The one message that a person would get who types this command; fails if it succeeds."""
    try:
        run_here(run_id, *files, **overrides)
    except Exception as error:
        mistake = find_input_error(error)
        if mistake is None:
            raise
        return str(mistake)
    raise AssertionError(f"{run_id} with {overrides} succeeded")
