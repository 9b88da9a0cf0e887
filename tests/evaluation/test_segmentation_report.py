"""Summary, files and table of many cases."""

from __future__ import annotations

import csv
import json
import stat
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from monai_ext.errors import InputError
from monai_ext.evaluation.segmentation_metrics import ClassMetrics, case_metrics
from monai_ext.evaluation.segmentation_report import ABSENT_CLASSES_RULE, format_table, summarize, write_report


def entry(dice: float, hd95: float | None = 2.0, reference: int = 10, predicted: int = 10) -> ClassMetrics:
    return ClassMetrics(
        dice=dice,
        surface_dice=dice / 2,
        hd95_mm=hd95,
        tp=4,
        fp=6,
        fn=6,
        reference_voxels=reference,
        predicted_voxels=predicted,
    )


CASES = {
    "a": {"liver": entry(0.9, 1.0), "tumour": entry(0.6, 4.0)},
    "b": {"liver": entry(0.8, 3.0), "tumour": entry(1.0, None, 0, 0)},
    "c": {"liver": entry(0.4, 5.0), "tumour": entry(0.0, None, 0, 3)},
    "d": {"liver": entry(0.7, 3.0), "tumour": entry(0.2, 8.0)},
}


def strict_json(path: Path) -> Any:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} in {path.name}")

    return json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)


def test_summary_by_hand() -> None:
    summary = summarize(CASES)
    assert summary["num_cases"] == 4
    assert summary["absent_classes_rule"] == ABSENT_CLASSES_RULE
    liver, tumour = summary["classes"]["liver"], summary["classes"]["tumour"]
    assert liver["dice"] == pytest.approx(
        {
            "mean": 0.7,
            "std": (0.14 / 4) ** 0.5,
            "median": 0.75,
            "min": 0.4,
            "max": 0.9,
            "n": 4,
            "undefined": 0,
            "mean_where_present": 0.7,
        }
    )
    assert tumour["dice"]["mean"] == pytest.approx(0.45)
    assert tumour["dice"]["mean_where_present"] == pytest.approx(0.4)
    assert tumour["hd95_mm"] == pytest.approx(
        {"mean": 6.0, "std": 2.0, "median": 6.0, "min": 4.0, "max": 8.0, "n": 2, "undefined": 2}
    )
    assert (tumour["absent_from_reference"], tumour["absent_from_prediction"], tumour["absent_from_both"]) == (2, 1, 1)
    assert (tumour["tp"], tumour["fp"], tumour["fn"], tumour["cases"]) == (16, 24, 24, 4)
    assert summary["foreground_mean"] == pytest.approx({"dice": 0.575, "surface_dice": 0.2875, "hd95_mm": 4.5})
    assert [w["case"] for w in summary["worst_cases"]] == ["c", "d", "a", "b"]
    assert summary["worst_cases"][0] == {"case": "c", "dice": 0.2, "class_dice": {"liver": 0.4, "tumour": 0.0}}


def test_hd95_undefined_everywhere_is_null_and_has_no_mean() -> None:
    summary = summarize({"a": {"x": entry(0.0, None, 5, 0)}})
    assert summary["classes"]["x"]["hd95_mm"]["mean"] is None
    assert summary["classes"]["x"]["hd95_mm"]["undefined"] == 1
    assert summary["foreground_mean"]["hd95_mm"] is None
    assert " - (0) " in format_table(summary)


def test_only_the_five_worst_cases_are_listed() -> None:
    cases = {f"case{i}": {"x": entry(i / 10)} for i in range(9)}
    assert [w["case"] for w in summarize(cases)["worst_cases"]] == [f"case{i}" for i in range(5)]


def test_a_class_that_some_cases_lack_is_averaged_over_the_others() -> None:
    summary = summarize({"a": {"x": entry(0.5)}, "b": {"x": entry(0.7), "y": entry(0.1)}})
    assert summary["classes"]["y"]["dice"]["n"] == 1
    assert summary["classes"]["x"]["dice"]["mean"] == pytest.approx(0.6)


def test_no_cases_is_refused() -> None:
    with pytest.raises(InputError, match="no cases"):
        summarize({})


def test_files_hold_everything_in_strict_json(tmp_path: Path) -> None:
    extras = {"fold": 0, "epochs": np.int64(3), "loss": float("nan"), "plan": Path("plan.json"), "x": np.ones(2)}
    summary = write_report(tmp_path / "report", CASES, extras)
    assert sorted(p.name for p in (tmp_path / "report").iterdir()) == ["metrics.csv", "metrics.json", "summary.json"]
    assert strict_json(tmp_path / "report" / "metrics.json") == CASES
    assert strict_json(tmp_path / "report" / "summary.json") == summary
    assert {k: summary[k] for k in extras} == {"fold": 0, "epochs": 3, "loss": None, "plan": "plan.json", "x": [1, 1]}
    assert summary["absent_classes_rule"] == ABSENT_CLASSES_RULE
    with (tmp_path / "report" / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(r["case"], r["class"]) for r in rows] == [(c, k) for c in "abcd" for k in ("liver", "tumour")]
    assert rows[3] == {
        "case": "b",
        "class": "tumour",
        "dice": "1.0",
        "surface_dice": "0.5",
        "hd95_mm": "",
        "tp": "4",
        "fp": "6",
        "fn": "6",
        "reference_voxels": "0",
        "predicted_voxels": "0",
    }


def test_real_metrics_make_a_report(tmp_path: Path) -> None:
    labels = np.zeros((4, 4, 4), dtype=np.uint8)
    labels[1:3, 1:3, 1:3] = 1
    cases = {"a": case_metrics(labels, labels, (1, 1, 1), {"organ": 1, "nothing": 2})}
    assert write_report(tmp_path, cases)["foreground_mean"] == {"dice": 1.0, "surface_dice": 1.0, "hd95_mm": 0.0}
    assert strict_json(tmp_path / "metrics.json") == cases


def test_a_failed_write_leaves_the_old_file_and_no_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_report(tmp_path, CASES)
    before = {p.name: p.read_text() for p in tmp_path.iterdir()}

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("monai_ext.atomic_files.os.replace", fail)
    with pytest.raises(InputError, match=r"metrics\.json: cannot be written \(disk full"):
        write_report(tmp_path, {"other": CASES["a"]})
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == before


def test_files_are_as_readable_as_others(tmp_path: Path) -> None:
    write_report(tmp_path, CASES)
    (tmp_path / "other").write_text("")
    modes = {stat.S_IMODE(p.stat().st_mode) for p in tmp_path.iterdir()}
    assert len(modes) == 1


def test_extras_cannot_replace_the_summary(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="would replace classes"):
        write_report(tmp_path, CASES, {"classes": {}})
    assert not list(tmp_path.iterdir())


def test_table_lists_classes_and_states_the_rule() -> None:
    lines = format_table(summarize(CASES)).splitlines()
    assert lines[0].split() == ["class", "Dice", "std", "min", "surface", "Dice", "HD95", "mm", "n"]
    assert lines[2].split() == ["liver", "0.7000", "0.1871", "0.4000", "0.3500", "3.00", "4"]
    assert lines[3].split() == ["tumour", "0.4500", "0.3841", "0.0000", "0.2250", "6.00", "(2)", "4"]
    assert lines[5].split() == ["mean", "0.5750", "0.2875", "4.50", "4"]
    assert lines[-1] == ABSENT_CLASSES_RULE
    assert len({len(line) for line in lines[:6]}) == 1  # columns are aligned
