"""Every bundle's evaluation writes the model card of its run, with what the training has noted of its data."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from bundle_commands import NNUNET, Finished, bundle_run
from card_numbers import foreign_numbers
from monai_ext.model_card.card import MARK

RUNS = {"trained_em": "unet_em", "trained_class": "se_resnext101", "trained_mask": "mask_rcnn"}


def record(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "docs" / "record.json").read_text())
    return found


@pytest.mark.parametrize(("fixture", "bundle"), RUNS.items())
def test_evaluation_writes_the_card(fixture: str, bundle: str, request: pytest.FixtureRequest) -> None:
    folder, done = request.getfixturevalue(fixture)
    run = folder / "runs" / bundle / "phantom" / "0"
    assert f"model card: {(run / 'docs' / 'README.md').resolve()}" in done.out
    text = (run / "docs" / "README.md").read_text()
    assert text.startswith(MARK)
    assert foreign_numbers(text, run) == []
    assert "not recorded" not in text
    fold = json.loads((run / "fold.json").read_text())
    data = record(run)["data"]
    assert (data["cases"]["training"], data["cases"]["validation"]) == (len(fold["train"]), len(fold["val"]))
    assert f"- cases for training: {len(fold['train'])}" in text
    for step in ("training", "evaluation"):
        assert record(run)[step]["versions"]["monai_ext"]
    pictures = {path.name for path in (run / "docs").glob("*.png")}
    assert {f"]({name})" in text for name in pictures} == {True}
    assert len(pictures) == len([*run.glob("*.png"), *run.glob("evaluation/*.png")]) == 2


def test_a_training_of_volumes_notes_its_fingerprint(trained: tuple[Path, Finished], tmp_path: Path) -> None:
    """The card comes with the evaluation, of the weights that it measured, and only into the folder of the model."""
    shutil.copytree(trained[0] / "runs", tmp_path / "runs")
    run = tmp_path / "runs" / "nnunet" / "phantom" / "0"
    data = record(run)["data"]
    assert data["cases"] == {"training": 16, "validation": 4, "without labels": 2}
    assert [row[0] for row in data["classes"]["rows"]] == ["background", "ellipsoid", "tube"]
    assert sum(row[-1] for row in data["classes"]["rows"]) == pytest.approx(1)
    (run / "docs" / "README.md").unlink(missing_ok=True)  # of a test that evaluated in the shared folder
    outside = {"ckpt_path": str(run / "model.pt"), "output_dir": "outside", "test_batches": 1}
    done = bundle_run(tmp_path, "evaluating", "train.json", "tiny.json", bundle=NNUNET, **outside)
    assert done.status == 0, done.err
    assert not (run / "docs" / "README.md").exists()
    assert not (tmp_path / "outside" / "docs").exists()
    done = bundle_run(tmp_path, "evaluating", "train.json", "tiny.json", bundle=NNUNET, test_batches=2)
    assert done.status == 0, done.err
    text = (run / "docs" / "README.md").read_text()
    assert foreign_numbers(text, run) == []
    assert "- cases: 2\n" in text
    assert "other weights" not in text
