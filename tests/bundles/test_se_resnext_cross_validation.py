"""Classification bundle: cross-validation by the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bundle_commands import SE_RESNEXT, bundle_run


def test_folds_are_trained_and_averaged(tmp_path: Path) -> None:
    options = {"nfolds": 2, "fold_rule": "drawn", "bundle": SE_RESNEXT}
    part = bundle_run(tmp_path, "cross_validation", "train.json", "tiny.json", cv_folds="[1]", **options)
    assert part.status == 0, part.err
    assert "finished: 1 of 2 folds (1)" in part.out
    done = bundle_run(tmp_path, "cross_validation", "train.json", "tiny.json", **options)
    assert done.status == 0, done.err
    assert "fold 1: finished before" in done.out
    runs = tmp_path / "runs/se_resnext101/phantom"
    each = [json.loads((runs / fold / "evaluation/summary.json").read_text()) for fold in "01"]
    names = [set(json.loads((runs / fold / "fold.json").read_text())["val"]) for fold in "01"]
    assert not names[0] & names[1]
    assert len(names[0] | names[1]) == 320
    result = json.loads((runs / "cross_validation" / "cross_validation.json").read_text())
    assert result["mean"]["accuracy"] == pytest.approx(sum(s["accuracy"] for s in each) / 2)
    assert f"accuracy {result['mean']['accuracy']:.4f}" in done.out
