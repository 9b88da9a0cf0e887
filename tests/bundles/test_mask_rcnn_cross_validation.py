"""Detection bundle: cross-validation by the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bundle_commands import MASK_RCNN, bundle_run
from cell_sets import write_cells
from mask_rcnn_workflows import detection_workflow, mistake_of
from monai_ext.engines.fold_jobs import FoldConfig


def test_folds_are_trained_and_averaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_cells(tmp_path / "cells", train=6, val=2, maps=False)
    options = {"dataset_dir": "cells", "nfolds": 2, "fold_rule": "drawn", "eval_samples": 0}
    done = bundle_run(tmp_path, "cross_validation", "train.json", "tiny.json", bundle=MASK_RCNN, **options)
    assert done.status == 0, done.err
    runs = tmp_path / "runs/mask_rcnn/cells"
    each = [json.loads((runs / fold / "evaluation/summary.json").read_text()) for fold in "01"]
    names = [set(json.loads((runs / fold / "fold.json").read_text())["val"]) for fold in "01"]
    assert not names[0] & names[1]
    assert len(names[0] | names[1]) == 8
    result = json.loads((runs / "cross_validation" / "cross_validation.json").read_text())
    for name in ("mask_ap", "mask_ap50", "box_ap", "nuclei_pq"):
        assert result["mean"][name] == pytest.approx(sum(s[name] for s in each) / 2)
    assert set(result["class_mask_ap50"]) == {"round", "square"}
    assert f"mask AP50 {result['mean']['mask_ap50']:.4f}" in done.out
    # some of the folds may be chosen; the rest belongs to another command
    monkeypatch.chdir(tmp_path)
    workflow = detection_workflow(run_id="cross_validation", cv_folds=[1], **options)
    assert list(FoldConfig(workflow.parser.get(), MASK_RCNN / "train.json").chosen_folds()) == [1]


def test_what_is_no_cross_validation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A split of the dataset's own, and folds of which not all images are scored."""
    monkeypatch.chdir(tmp_path)
    assert "--fold_rule drawn" in mistake_of("cross_validation", nfolds=2, eval_samples=0)
    assert "--eval_samples 2" in mistake_of("cross_validation", nfolds=2, fold_rule="drawn")
    assert not list(tmp_path.rglob("*.pt"))
