"""EM bundle: all folds by one command."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from bundle_commands import UNET_EM, bundle_run

FOLDS = Path("runs/unet_em/phantom")


def test_folds_are_trained_and_averaged(tmp_path: Path) -> None:
    options = {"bundle": UNET_EM, "nfolds": 2, "epoch_length": 1}
    files = ("train.json", "tiny.json")
    part = bundle_run(tmp_path, "cross_validation", *files, **options, cv_folds="[1]")
    assert part.status == 0, part.err
    assert "finished: 1 of 2 folds (1)" in part.out
    done = bundle_run(tmp_path, "cross_validation", *files, **options)
    assert done.status == 0, done.err
    assert "fold 1: finished before" in done.out
    folder = tmp_path / FOLDS / "cross_validation"
    result = json.loads((folder / "cross_validation.json").read_text())
    each = [json.loads((tmp_path / FOLDS / str(fold) / "evaluation/summary.json").read_text()) for fold in range(2)]
    assert [result["folds"][str(fold)]["slices"] for fold in range(2)] == [5, 5]
    for name in ("soft_dice", "soft_dice_network", "dice_membrane", "dice_background", "v_rand", "v_info"):
        assert result["mean"][name] == pytest.approx(np.mean([summary[name] for summary in each]))
    table = (folder / "cross_validation.md").read_text()
    assert table in done.out
    assert table.count("\n") == 5
    assert (folder / "cross_validation.csv").read_text().count("\n") == 5
