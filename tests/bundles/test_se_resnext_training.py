"""Classification bundle: training and evaluation by the command line, on the phantom, a table and real cells."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from bundle_commands import SE_RESNEXT, Finished, bundle_run
from monai_ext.planning.class_plan import ClassPlan

RUN = Path("runs/se_resnext101/phantom/0")
RAW = Path("runs/se_resnext101/phantom/prepared/raw")


def run(cwd: Path, run_id: str, **options: object) -> Finished:
    return bundle_run(cwd, run_id, "train.json", "tiny.json", bundle=SE_RESNEXT, **options)


def test_training_leaves_what_it_says(trained_class: tuple[Path, Finished]) -> None:
    folder, done = trained_class
    assert done.status == 0, done.err
    found = folder / RUN
    metrics = json.loads((found / "metrics.json").read_text())
    for name in ("model.pt", "model_final.pt", "plan.json", "metrics.json", "overlay.png"):
        assert str((found / name).resolve()) in done.out
        assert (found / name).stat().st_size > 0
    assert set(metrics["recall"]) == {"checks", "discs", "squares", "stripes"}
    assert metrics["mean_recall"] == pytest.approx(np.mean(list(metrics["recall"].values())))
    assert metrics["accuracy"] == pytest.approx(metrics["mean_recall"])  # classes of equal size
    assert f"accuracy {metrics['accuracy']:.3f}" in done.out
    assert ClassPlan.load(found / "plan.json").image_size == (32, 32)
    rows = [json.loads(line) for line in (found / "log.jsonl").read_text().splitlines()]
    assert rows[-1]["accuracy"] == metrics["accuracy"]
    assert rows[-1]["class_recall"] == metrics["recall"]
    assert sorted(p.name for p in (folder / RAW).glob("*/*")) == sorted(2 * list(metrics["recall"]))
    assert sorted(p.name for p in folder.iterdir()) == ["runs"]


def test_evaluation_reports_every_score(trained_class: tuple[Path, Finished]) -> None:
    folder, done = trained_class
    evaluation = folder / RUN / "evaluation"
    summary = json.loads((evaluation / "summary.json").read_text())
    rows = list(csv.DictReader((evaluation / "predictions.csv").open()))
    right = [row["label"] == row["predicted"] for row in rows]
    assert len(rows) == 80
    assert summary["accuracy"] == pytest.approx(np.mean(right))
    low, high = summary["intervals"]["accuracy"]
    assert low < summary["accuracy"] < high
    assert summary["bootstrap"] == 20
    for name in ("balanced_accuracy", "macro_roc_auc", "macro_average_precision"):
        assert 0 <= summary[name] <= 1
        assert f"{summary[name]:.4f}" in done.out
    assert (evaluation / "confusion.png").stat().st_size > 0
    assert json.loads((folder / RUN / "calibration.json").read_text())["cases"] == 80


def test_tensorboard_has_curves_and_pictures(trained_class: tuple[Path, Finished]) -> None:
    events = EventAccumulator(str(trained_class[0] / RUN / "tensorboard"))
    events.Reload()
    wanted = {"train/loss", "train/learning_rate", "validation/accuracy", "validation/recall_discs"}
    assert wanted <= set(events.Tags()["scalars"])
    assert len(events.Tags()["images"]) == 1


def test_sessions_end_with_the_weights_of_one_training(tmp_path: Path) -> None:
    """Two sessions of an epoch each, as chunked jobs have them, give what one session gives."""
    options = {"max_epochs": 2, "epoch_length": 3, "mixup_alpha": 0.2, "drop_path": 0.2, "device": "cpu"}
    whole = run(tmp_path, "training", output_dir="whole", **options)
    assert whole.status == 0, whole.err
    first = run(tmp_path, "training", output_dir="cut", run_epochs=1, **options)
    assert first.status == 0, first.err
    assert "go on with the same command and --resume True" in first.out
    assert not (tmp_path / "cut" / "metrics.json").exists()
    second = run(tmp_path, "training", output_dir="cut", run_epochs=1, resume=True, **options)
    assert second.status == 0, second.err
    for name in ("whole", "cut"):  # every epoch is validated, also the last of a session
        rows = [json.loads(line) for line in (tmp_path / name / "log.jsonl").read_text().splitlines()]
        assert [row["epoch"] for row in rows if "accuracy" in row] == [1, 2]
    expected = torch.load(tmp_path / "whole" / "model_final.pt", weights_only=True)
    found = torch.load(tmp_path / "cut" / "model_final.pt", weights_only=True)
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=0)


def test_table_with_several_labels_from_pretrained_weights(
    trained_class: tuple[Path, Finished], tmp_path: Path
) -> None:
    """A CSV of files and labels; the stem and stages come from another training, the last layer is new."""
    pictures = sorted((trained_class[0] / RAW).glob("train/*/*.png"))
    lines = ["file,label,split,patient"]
    for i, path in enumerate(pictures):
        kind = path.parent.name
        labels = {"discs": "shape|round", "squares": "shape", "checks": "", "stripes": "round"}[kind]
        split = ("train", "train", "val", "test")[i % 4]
        lines.append(f"{kind}/{path.name},{labels},{split},p{i}")
    (tmp_path / "cases.csv").write_text("\n".join(lines) + "\n")
    options = {
        "dataset_dir": "cases.csv",
        "image_dir": str(pictures[0].parents[1]),
        "output_dir": "run",
        "pretrained": str(trained_class[0] / RUN / "model.pt"),
        "threshold": 0.25,
    }
    done = run(tmp_path, "train_and_evaluate", part="test", mean="[0.5,0.5,0.5]", std="[0.2,0.2,0.2]", **options)
    assert done.status == 0, done.err
    plan = ClassPlan.load(tmp_path / "run" / "plan.json")
    assert plan.multi_label
    assert plan.classes == ("round", "shape")
    summary = json.loads((tmp_path / "run" / "evaluation" / "summary.json").read_text())
    assert summary["part"] == "test"
    assert summary["threshold"] == 0.25
    rows = list(csv.DictReader((tmp_path / "run" / "evaluation" / "predictions.csv").open()))
    assert len(rows) == 60
    assert not (tmp_path / "run" / "calibration.json").exists()  # a test set is not fitted to
    assert "the classifying layer is new" in done.out + done.err


def test_damaged_images_are_named_or_left_out(trained_class: tuple[Path, Finished], tmp_path: Path) -> None:
    shutil.copytree(trained_class[0] / RAW, tmp_path / "data")
    damaged = [
        tmp_path / "data" / "train" / "discs" / "discs_003.png",
        tmp_path / "data" / "val" / "discs" / "discs_061.png",
    ]
    for path in damaged:
        path.write_bytes(path.read_bytes()[:900])
    done = run(tmp_path, "training", dataset_dir="data")
    assert done.status == 1
    message = done.err[done.err.index("error: ") :]
    assert all(path.name in message for path in damaged)
    assert "skip_unreadable" in message
    assert "Traceback" not in done.err
    assert not list(tmp_path.rglob("*.pt"))
    done = run(tmp_path, "training", dataset_dir="data", skip_unreadable=True)
    assert done.status == 0, done.err
    assert "left out, cannot be read: 2 images" in done.out
    fold = json.loads((tmp_path / "runs/se_resnext101/data/0/fold.json").read_text())
    assert (len(fold["train"]), len(fold["val"])) == (239, 79)


@pytest.mark.parametrize(
    ("overrides", "parts"),
    [
        ({"dataset_dir": "nowhere"}, ["nowhere", "Cure"]),
        ({"arch": "resnet5000"}, ["--arch", "must be one of"]),
        ({"image_size": "[8]"}, ["image_size [8, 8]", "is too small"]),
        ({"fold": 3}, ["--fold_rule drawn"]),
        ({"flip_axes": "[2]"}, ["--flip_axes [2]", "2 axes"]),
        ({"batch_size": 1}, ["--batch_size 1", "--batch_size 2 or more"]),
    ],
)
def test_mistakes_end_with_one_message(tmp_path: Path, overrides: dict, parts: list[str]) -> None:
    done = run(tmp_path, "training", **overrides)
    assert done.status == 1
    message = done.err[done.err.index("error: ") :]
    assert all(part in message for part in parts), message
    assert "Traceback" not in done.err
    assert not list(tmp_path.rglob("*.pt"))


@pytest.mark.long
def test_default_training_on_the_phantom(tmp_path: Path) -> None:
    """What a person gets who types the command and nothing else, a third of its length."""
    done = bundle_run(tmp_path, "training", bundle=SE_RESNEXT, max_epochs=16)
    assert done.status == 0, done.err
    metrics = json.loads((tmp_path / RUN / "metrics.json").read_text())
    assert metrics["accuracy"] > 0.8  # chance is 0.25
    assert ClassPlan.load(tmp_path / RUN / "plan.json").arch == "se-resnext-narrow"


@pytest.mark.real_data
def test_real_cells_are_trained_and_evaluated(tmp_path: Path, data_folder: Path) -> None:
    """Crops of unequal size and classes of unequal number: a few steps, far from the result of a training."""
    cells = data_folder / "classification" / "bccd_cells"
    options = {"dataset_dir": cells, "output_dir": "run", "group_by": r"name:BloodImage_(\d+)", "epoch_length": 4}
    done = run(tmp_path, "train_and_evaluate", balanced_sampling=True, **options)
    assert done.status == 0, done.err
    summary = json.loads((tmp_path / "run/evaluation/summary.json").read_text())
    assert summary["num_cases"] == 150
    plan = ClassPlan.load(tmp_path / "run/plan.json")
    assert plan.classes == ("Platelets", "RBC", "WBC")
    assert plan.channels == 3
    with Image.open(tmp_path / "run/evaluation/confusion.png") as picture:
        assert picture.width > 400
