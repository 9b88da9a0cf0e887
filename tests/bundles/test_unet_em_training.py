"""EM bundle: training and evaluation by the command line, on the phantom and on the real stack."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from pathlib import Path

import itk
import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from bundle_commands import UNET_EM, Finished, bundle_run, command, environment
from monai_ext.planning.em_plan import EmPlan

RUN = Path("runs/unet_em/phantom/0")


def test_training_leaves_what_it_says(trained_em: tuple[Path, Finished]) -> None:
    folder, done = trained_em
    assert done.status == 0, done.err
    run = folder / RUN
    metrics = json.loads((run / "metrics.json").read_text())
    for name in ("model.pt", "model_final.pt", "plan.json", "metrics.json", "overlay.png"):
        assert str((run / name).resolve()) in done.out
        assert (run / name).stat().st_size > 0
    assert f"soft Dice {metrics['soft_dice']:.3f}" in done.out
    assert f"mean foreground Dice {metrics['dice']['membrane']:.3f}" in done.out
    assert metrics["mean_dice"] == metrics["dice"]["membrane"]
    assert EmPlan.load(run / "plan.json").input_size == (76, 76)
    rows = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert rows[-1]["soft_dice"] == metrics["soft_dice"]
    assert {"loss", "dice", "cross_entropy"} <= set(rows[-1])
    raw = folder / "runs/unet_em/phantom/prepared/raw"
    assert sorted(p.name for p in raw.glob("*.tif")) == ["test-volume.tif", "train-labels.tif", "train-volume.tif"]
    assert sorted(p.name for p in folder.iterdir()) == ["runs"]


def test_evaluation_reports_every_score(trained_em: tuple[Path, Finished]) -> None:
    folder, done = trained_em
    evaluation = folder / RUN / "evaluation"
    summary = json.loads((evaluation / "summary.json").read_text())
    slices = json.loads((evaluation / "metrics.json").read_text())
    assert list(slices) == json.loads((folder / RUN / "fold.json").read_text())["val"]
    for name in ("soft_dice", "soft_dice_network", "dice_membrane", "dice_background"):
        assert summary[name] == pytest.approx(np.mean([scores[name] for scores in slices.values()]))
    assert summary["rand_threshold"] == summary["info_threshold"] == 0.5  # the only one tried
    for name in ("v_rand", "v_info"):
        assert 0 <= summary[name] <= 1
        assert f"{summary[name]:.4f}" in done.out
    pages = itk.array_from_image(itk.imread(str(evaluation / "probabilities.tif")))
    assert pages.shape == (len(slices), 256, 256)
    assert pages.dtype == np.float32


def test_tensorboard_has_curves_and_membranes(trained_em: tuple[Path, Finished]) -> None:
    events = EventAccumulator(str(trained_em[0] / RUN / "tensorboard"))
    events.Reload()
    wanted = {"train/loss", "train/learning_rate", "validation/soft_dice", "validation/dice_membrane"}
    assert wanted <= set(events.Tags()["scalars"])
    assert events.Tags()["images"] == ["validation/slices"]


def test_second_training_does_not_overwrite(trained_em: tuple[Path, Finished]) -> None:
    folder, _ = trained_em
    done = bundle_run(folder, "training", "train.json", "tiny.json", bundle=UNET_EM)
    assert done.status == 1
    assert "--resume True" in done.err
    assert "Traceback" not in done.err
    other = bundle_run(folder, "training", "train.json", "tiny.json", bundle=UNET_EM, base_features=3)
    assert other.status == 1
    assert "base_features: 2 -> 3" in other.err


def test_evaluation_of_slices_trained_on_is_refused(trained_em: tuple[Path, Finished]) -> None:
    model = trained_em[0] / RUN / "model.pt"
    done = bundle_run(
        trained_em[0], "evaluating", "train.json", "tiny.json", bundle=UNET_EM, fold=1, ckpt_path=model, output_dir="o"
    )
    assert done.status == 1
    assert "was trained on 2 of the 2 validation cases" in done.err
    assert "Traceback" not in done.err


def test_stopped_training_goes_on_as_if_it_had_not_stopped(tmp_path: Path) -> None:
    """Steps define the schedule here, so an interrupted run must end with the very weights of an undisturbed one."""
    options = {"max_epochs": 4, "epoch_length": 6, "val_interval": 2, "num_workers": 1, "bundle": UNET_EM}
    files = ("train.json", "tiny.json")
    whole = bundle_run(tmp_path, "training", *files, output_dir="whole", **options)
    assert whole.status == 0, whole.err
    process = subprocess.Popen(
        command("training", *files, output_dir="cut", **options),
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 120
    while not (tmp_path / "cut" / "last.pt").exists():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=120)
    assert process.returncode == -signal.SIGTERM
    assert 6 <= torch.load(tmp_path / "cut" / "last.pt", weights_only=True)["iteration"] < 24
    done = bundle_run(tmp_path, "training", *files, output_dir="cut", resume=True, **options)
    assert done.status == 0, done.err
    expected = torch.load(tmp_path / "whole" / "model_final.pt", weights_only=True)
    found = torch.load(tmp_path / "cut" / "model_final.pt", weights_only=True)
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("overrides", "parts"),
    [
        ({"dataset_dir": "nowhere"}, ["nowhere", "Cure"]),
        ({"levels": 5, "patch_size": "[380]"}, ["smaller than the receptive field", "256 x 256"]),
    ],
)
def test_mistakes_end_with_one_message(tmp_path: Path, overrides: dict, parts: list[str]) -> None:
    done = bundle_run(tmp_path, "training", "train.json", "tiny.json", bundle=UNET_EM, **overrides)
    assert done.status == 1
    message = done.err[done.err.index("error: ") :]
    assert all(part in message for part in parts), message
    assert "Traceback" not in done.err
    assert not list(tmp_path.rglob("*.pt"))


@pytest.mark.long
def test_default_training_on_the_phantom(tmp_path: Path) -> None:
    """What a person gets who types the command and nothing else; 1.5 minutes at most on two cores, not timed here."""
    done = bundle_run(tmp_path, "training", bundle=UNET_EM, max_epochs=3, val_interval=3)
    assert done.status == 0, done.err
    metrics = json.loads((tmp_path / RUN / "metrics.json").read_text())
    assert metrics["soft_dice"] > 0.7
    assert EmPlan.load(tmp_path / RUN / "plan.json").base_features == 8


@pytest.mark.real_data
def test_real_stack_is_trained_evaluated_and_predicted(tmp_path: Path, data_folder: Path) -> None:
    """The published recipe's geometry on the real files, a few steps of a narrow network."""
    options = {"dataset_dir": data_folder / "isbi2012_em", "output_dir": "run", "bundle": UNET_EM, "levels": 2}
    recipe = ("train.json", "recipe_nvidia_2021.json", "tiny.json")
    done = bundle_run(tmp_path, "train_and_evaluate", *recipe, **options, patch_size="[428]", max_steps=0)
    assert done.status == 0, done.err
    slices = json.loads((tmp_path / "run/evaluation/metrics.json").read_text())
    assert list(slices) == [f"slice {i:02d}" for i in (0, 3, 12, 15, 21, 25)]
    summary = json.loads((tmp_path / "run/evaluation/summary.json").read_text())
    assert summary["soft_dice"] != summary["soft_dice_network"]
    done = bundle_run(
        tmp_path, "inference", "inference.json", input=options["dataset_dir"], ckpt_path="run/model.pt", bundle=UNET_EM
    )
    assert done.status == 0, done.err
    pages = itk.array_from_image(itk.imread(str(tmp_path / "predictions" / "test-masks.tif")))
    assert pages.shape == (30, 512, 512)
    assert pages.dtype == np.float32
    assert 0 <= pages.min() < pages.max() <= 1
