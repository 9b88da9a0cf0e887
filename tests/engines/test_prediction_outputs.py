"""Predictions never replace files unasked, and never an input."""

from __future__ import annotations

from pathlib import Path

import pytest

from monai_ext.datasets.segmentation_dataset import Case
from monai_ext.engines.prediction_outputs import PredictionOutputs
from monai_ext.errors import InputError
from monai_ext.planning.msd_plans import named_plan


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x")
    return path


def test_existing_predictions_are_listed_unless_overwritten(tmp_path: Path) -> None:
    cases = [Case(name, (touch(tmp_path / "in" / f"{name}.nii.gz"),)) for name in ("a", "b")]
    outputs = PredictionOutputs(named_plan("04"), tmp_path / "out")
    outputs.keep_existing(cases)
    touch(tmp_path / "out" / "b.nii.gz")
    with pytest.raises(InputError, match=r"1 predictions(.|\n)*b\.nii\.gz(.|\n)*--overwrite True"):
        outputs.keep_existing(cases)
    outputs.keep_existing(cases, overwrite=True)


def test_probabilities_count_too(tmp_path: Path) -> None:
    cases = [Case("a", (touch(tmp_path / "in" / "a.nii.gz"),))]
    touch(tmp_path / "out" / "a_probabilities.nii.gz")
    PredictionOutputs(named_plan("04"), tmp_path / "out").keep_existing(cases)
    with pytest.raises(InputError, match="a_probabilities"):
        PredictionOutputs(named_plan("04"), tmp_path / "out", probabilities=True).keep_existing(cases)


def test_an_input_is_never_replaced(tmp_path: Path) -> None:
    cases = [Case("a", (touch(tmp_path / "in" / "a.nii.gz"),))]
    (tmp_path / "link").symlink_to(tmp_path / "in")
    for folder in (tmp_path / "in", tmp_path / "link"):
        with pytest.raises(InputError, match="holds the input itself"):
            PredictionOutputs(named_plan("04"), folder).keep_existing(cases, overwrite=True)
