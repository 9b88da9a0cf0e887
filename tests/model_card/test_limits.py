"""Limits that follow from the files of a run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from monai_ext.model_card.limits import limits_section
from monai_ext.model_card.run_files import RunFiles, read_run
from recorded_runs import write_run


@pytest.fixture
def volumes(tmp_path: Path) -> RunFiles:
    return read_run(write_run(tmp_path / "run", "nnunet"))


def limits(run: RunFiles, **summary: object) -> str:
    return limits_section(replace(run, summary={**run.summary, **summary}))


def test_scores_on_cases_that_chose_the_weights(volumes: RunFiles) -> None:
    words = "these are the cases of the evaluation"
    assert words in limits(volumes)
    assert words not in limits(volumes, part="test")
    everything = limits(volumes, fold="all")
    assert words not in everything
    assert "trained on the cases that it was scored on" in everything
    assert "trained on the cases" not in limits(volumes)


def test_a_part_of_the_validation_cases(volumes: RunFiles) -> None:
    assert "Only" not in limits(volumes)
    assert "Only 2 of the 3 validation cases" in limits(volumes, num_cases=2)
    assert "Only" not in limits(volumes, num_cases=2, part="test")


def test_groups(volumes: RunFiles, tmp_path: Path) -> None:
    flatter = "No groups were given"
    assert flatter in limits(volumes, group_by="")
    assert flatter not in limits(volumes, group_by="subject")
    pictures = read_run(write_run(tmp_path / "pictures", "mask_rcnn"))
    assert flatter in limits(pictures)  # the record says 0
    unknown = limits_section(replace(pictures, record={}))
    assert flatter not in unknown
    assert "is not recorded" in unknown
    assert "is not recorded" not in limits(pictures)


def test_undefined_and_rare(volumes: RunFiles) -> None:
    text = limits(volumes)
    assert "HD95 of front is undefined in 2 cases" in text
    assert "HD95 of back" not in text
    assert "rarest class of the evaluation is back\\|side, with 2" in text
    assert "rarest" not in limits(volumes, classes={"one": {"cases": 5}})


def test_other_bundles(tmp_path: Path) -> None:
    slices = limits_section(read_run(write_run(tmp_path / "em", "unet_em")))
    assert "thresholds of V_rand and V_info were chosen on the slices" in slices
    assert "of one stack" in slices
    objects = limits_section(read_run(write_run(tmp_path / "mask", "mask_rcnn")))
    assert "29 detections lay beyond" in objects
    assert "at most 500 objects" in objects
    classes = read_run(write_run(tmp_path / "class", "se_resnext101"))
    text = limits_section(classes)
    assert "not calibrated" in text
    assert "also one that shows none of them" in text
    assert "not calibrated" not in limits_section(replace(classes, calibration={"temperature": 2.0}))
    several = replace(classes, plan={**classes.plan, "multi_label": True})
    assert "also one that shows none of them" not in limits_section(several)
