"""Inference of an unpacked bundle by its own configs, as `python -m monai.bundle run inference` does it."""

from __future__ import annotations

import contextlib
import gc
import io
import logging
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from monai.bundle import ConfigWorkflow

from monai_ext.engines.person_errors import find_input_error
from monai_ext.engines.run_protection import release_folder
from monai_ext.errors import InputError
from monai_ext.export.packed_case import EM_CASE
from monai_ext.ops import forms


def predict_case(bundle: Path, source: Path, target: Path, keys: Mapping[str, Any]) -> None:
    """Predict the images of a folder; what the run prints is not shown.

    Configs are code: only call it for bundles whose origin is trusted.

    Args:
        bundle: folder with `configs` and `models`.
        source: folder with the input.
        target: for the predictions.
        keys: of `inference.json`.

    Raises:
        InputError: what the run says, or that it failed.
    """
    images = source / EM_CASE if (source / EM_CASE).is_file() else source
    single = [file for file in source.iterdir() if file.is_file()]
    if len(single) == 1:
        images = single[0]
    given = {"input": str(images), "output_dir": str(target), **keys}
    with forms.forced(forms.chosen()), _quiet():
        try:
            workflow = ConfigWorkflow(
                config_file=str(bundle / "configs" / "inference.json"),
                workflow_type="infer",
                logging_file=False,
                **given,
            )
            workflow.initialize()
            workflow.run()
            workflow.finalize()
        except Exception as error:  # MONAI and Ignite wrap what happens in a config in errors of their own
            mistake = find_input_error(error)
            if mistake:
                raise InputError(f"{bundle.name}, its test case: {mistake}") from error
            raise InputError(
                f"{bundle.name}: the test case cannot be predicted ({type(error).__name__}: {error!s:.300}). "
                "Cure: the versions of packed.json, or --run False to look at its files alone"
            ) from error
        finally:
            workflow = None  # type: ignore[assignment]
            gc.collect()
            release_folder(target)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Neither what the run prints, nor MONAI's remarks on how it was started."""
    logger = logging.getLogger("monai.bundle.workflows")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)
