"""Mean of folds of an instance segmentation."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from monai_ext.engines.instance_folds_report import TITLES, report_instance_folds, summarize_instance_folds


def _summary(images: int, value: float, cell: float | None) -> dict[str, Any]:
    return {"num_images": images, **dict.fromkeys(TITLES, value), "classes": {"cell": {"mask_ap50": cell}}}


def test_scores_are_averaged_over_the_folds_that_define_them() -> None:
    second = {**_summary(2, 0.8, None), "box_ap": None}
    result = summarize_instance_folds({0: _summary(3, 0.6, 0.5), 1: second})
    assert result["mean"]["mask_ap50"] == pytest.approx(0.7)
    assert result["std"]["mask_ap50"] == pytest.approx(0.1)
    assert result["mean"]["box_ap"] == 0.6
    assert result["class_mask_ap50"] == {"cell": 0.5}
    assert [scores["cases"] for scores in result["folds"].values()] == [3, 2]


def test_table_is_written_and_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    jobs = [SimpleNamespace(fold=fold, summary=lambda fold=fold: _summary(4, 0.5 + 0.1 * fold, 0.9)) for fold in (0, 1)]
    result = report_instance_folds(tmp_path, cast(Any, jobs), cast(Any, None))
    assert json.loads((tmp_path / "cross_validation.json").read_text()) == result
    table = (tmp_path / "cross_validation.md").read_text()
    assert "0.5500 ± 0.0500" in table
    assert "cell 0.9000" in table
    assert table.strip() in capsys.readouterr().out
    assert (tmp_path / "cross_validation.csv").read_text().splitlines()[0].startswith("fold,cases,mask_ap,mask_ap50")
