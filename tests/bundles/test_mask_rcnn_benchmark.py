"""Detection bundle: benchmarks by the command line."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from bundle_commands import MASK_RCNN, Finished, bundle_run
from mask_rcnn_workflows import mistake_of, run_here

STEPS = {"bench_warmup": 1, "bench_batches": 2, "results_file": "rows.csv"}
SMALL = {"arch": "resnet-tiny", "image_size": [64, 96], "batch_size": 2, "amp": False}


def table(folder: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((folder / "rows.csv").open()))


def test_benchmark_key_times_instead_of_training(tmp_path: Path, trained_mask: tuple[Path, Finished]) -> None:
    """On the phantom, with the loader that a training has."""
    options = {**STEPS, "benchmark": True, "store_dir": trained_mask[0] / "runs/mask_rcnn/phantom/prepared"}
    done = bundle_run(tmp_path, "training", "train.json", "tiny.json", bundle=MASK_RCNN, **options)
    assert done.status == 0, done.err
    (row,) = table(tmp_path)
    assert (row["mode"], row["batch_size"], row["warmup_steps"], row["timed_steps"]) == ("train", "2", "1", "2")
    assert row["data"] == "phantom, loader included"
    assert row["patch_size"] == "64x64"
    assert row["classes"] == "2"
    assert float(row["latency_ms_99"]) >= float(row["latency_ms_50"]) > 0
    assert not list(tmp_path.rglob("model*.pt"))


def test_synthetic_images_time_the_network_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for run_id in ("training_benchmark", "inference_benchmark"):
        run_here(run_id, "train.json", "tiny.json", synthetic=True, synthetic_objects=3, **SMALL, **STEPS)
    rows = table(tmp_path)
    assert [row["mode"] for row in rows] == ["train", "predict"]
    assert {(row["classes"], row["channels"], row["patch_size"]) for row in rows} == {("80", "3", "64x96")}
    assert {row["benchmark"] for row in rows} == {"mask_rcnn bundle, resnet-tiny"}
    assert all(row["data"].startswith("synthetic") for row in rows)
    assert all(float(row["throughput"]) > 0 for row in rows)


def test_inference_of_the_phantom_is_timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run_here("inference_benchmark", val_batch_size=1, **STEPS)
    (row,) = table(tmp_path)
    assert (row["mode"], row["batch_size"], row["classes"]) == ("predict", "1", "2")
    assert row["data"] == "phantom, no loader"


def test_nothing_to_time_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    options = {**STEPS, "bench_batches": 0}
    assert "bench_batches" in mistake_of("training_benchmark", synthetic=True, **SMALL, **options)
    assert not (tmp_path / "rows.csv").exists()
