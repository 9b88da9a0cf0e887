"""Result rows and the tables made from them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from monai_ext.errors import InputError
from monai_ext.evaluation.classification_report import write_classification_report
from monai_ext.results import CLASS_COLUMNS, COLUMNS, INSTANCE_COLUMNS, append_row, fill_tables, read_rows, result_row

REPOSITORY = Path(__file__).parents[1]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    (folder / "evaluation").mkdir(parents=True)
    (folder / "metrics.json").write_text(json.dumps({"training_minutes": 20.03, "iterations": 1500}))
    (folder / "plan.json").write_text(json.dumps({"dataset": "Hippocampus"}))
    summary = {
        "fold": 0,
        "num_cases": 40,
        "classes": {"Anterior": {"dice": {"mean": 0.87654}}},
        "foreground_mean": {"dice": 0.87654, "surface_dice": 0.95, "hd95_mm": 1.234},
    }
    (folder / "evaluation" / "summary.json").write_text(json.dumps(summary))
    return folder


def test_table_holds_what_was_measured(run: Path, tmp_path: Path) -> None:
    append_row(tmp_path / "results.csv", result_row(run, "python -m x"))
    append_row(tmp_path / "results.csv", result_row(run, "python -m x"))
    assert len(read_rows(tmp_path / "results.csv")) == 2
    document = tmp_path / "README.md"
    document.write_text("a\n<!-- results: results.csv -->\nstale row\n<!-- end of results -->\nb\n")
    assert fill_tables(document) == 1
    text = document.read_text()
    assert "| Hippocampus | 0 | 40 | 20.0 | 1500 | Anterior 0.8765 | 0.8765 | 0.9500 | 1.23 |" in text
    assert text.count("    python -m x") == 1
    assert "stale row" not in text
    before = document.read_text()
    fill_tables(document)
    assert document.read_text() == before


def test_classification_has_its_own_columns(run: Path, tmp_path: Path) -> None:
    """Rows of the report that a classifier's evaluation writes, undefined values included."""
    logits = 3 * np.eye(3, dtype=np.float32)[[0, 0, 1, 1, 0]]  # the third class has no cases
    write_classification_report(
        run / "evaluation", list("abcde"), logits, np.array([0, 0, 1, 1, 1]), ["A", "B", "C"], about={"fold": 2}
    )
    row = result_row(run, "python -m y", "finetune.json")
    assert tuple(row) == CLASS_COLUMNS
    assert row["accuracy"] == "0.8000"
    low, high = map(float, row["accuracy_95"].split(" to "))
    assert low < 0.8 < high
    assert row["balanced_accuracy"] == "0.8333"
    assert row["class_recall"] == "A 1.0000, B 0.6667, C -"
    append_row(tmp_path / "results.csv", row)
    assert read_rows(tmp_path / "results.csv")[0]["macro_roc_auc"] == row["macro_roc_auc"]
    document = tmp_path / "README.md"
    document.write_text("<!-- results: results.csv -->\n<!-- end of results -->\n")
    fill_tables(document)
    assert "| accuracy | accuracy 95 |" in document.read_text()
    other = dict.fromkeys(COLUMNS, "")
    with pytest.raises(InputError, match="another kind of bundle"):
        append_row(tmp_path / "results.csv", other)


def test_instance_segmentation_has_its_own_columns(run: Path, tmp_path: Path) -> None:
    scores = {name: 0.5 for name in INSTANCE_COLUMNS if "_ap" in name or name.startswith("nuclei")}
    summary = {"fold": 1, "num_images": 7, **scores, "mask_ap50": 0.87654, "box_ap": None}
    (run / "evaluation" / "summary.json").write_text(json.dumps(summary))
    row = result_row(run, "python -m z", "recipe_nuclei.json")
    assert tuple(row) == INSTANCE_COLUMNS
    assert (row["cases"], row["mask_ap50"], row["box_ap"], row["nuclei_pq"]) == (7, "0.8765", "-", "0.5000")
    append_row(tmp_path / "results.csv", row)
    assert read_rows(tmp_path / "results.csv")[0]["mask_ap50"] == "0.8765"


def test_unfinished_run_is_refused(run: Path) -> None:
    (run / "evaluation" / "summary.json").unlink()
    with pytest.raises(InputError, match=r"summary.json.*Cure"):
        result_row(run, "")


@pytest.mark.parametrize(
    "document",
    [
        "README.md",
        "bundles/nnunet/docs/README.md",
        "monai_ext/ops/README.md",
        "monai_ext/benchmark/README.md",
        "monai_ext/serving/triton.md",
        "tests/README.md",
    ],
)
def test_tables_of_the_project_are_those_of_the_result_files(document: str, tmp_path: Path) -> None:
    source = REPOSITORY / document
    copy = tmp_path / document
    copy.parent.mkdir(parents=True, exist_ok=True)
    copy.write_text(source.read_text())
    patterns = ("bundles/*/docs/*.csv", "monai_ext/benchmark/measured/*.csv", "tests/*.csv")
    for path in [path for pattern in patterns for path in REPOSITORY.glob(pattern)]:
        target = tmp_path / path.relative_to(REPOSITORY)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(path.read_text())
    assert fill_tables(copy) >= 1
    assert copy.read_text() == source.read_text()


def test_selected_columns_of_any_file(tmp_path: Path) -> None:
    (tmp_path / "peers.csv").write_text("work,side,median_ms\nexport,ours,3\n")
    document = tmp_path / "README.md"
    document.write_text("a\n<!-- rows: peers.csv: work, median_ms -->\nold\n<!-- end of rows -->\nb\n")
    assert fill_tables(document) == 1
    assert "| work | median ms |\n| --- | --- |\n| export | 3 |" in document.read_text()
    assert document.read_text().startswith("a\n<!-- rows")
    assert document.read_text().endswith("<!-- end of rows -->\nb\n")
    document.write_text("<!-- rows: peers.csv: ratio -->\n<!-- end of rows -->\n")
    with pytest.raises(InputError, match="ratio"):
        fill_tables(document)
