"""nnU-Net bundle on several ranks: they train what one process trains; every case is scored and written once."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch

from bundle_commands import NNUNET, Finished, command, environment
from forked_ranks import names, ranks_run
from monai_ext.datasets.phantom import make_phantom

FILES = ("train.json", "tiny.json")
DATA = str(Path("..") / "data")
# bfloat16 would hide behind its rounding whether the rest is equal; ranks must not wait for each other's processor;
# every process tries its fused ops before it trusts them
SMALL: dict[str, Any] = {"affinity": "disabled", "device": "cpu", "amp": False, "fused_ops": False, "nfolds": 3}
COURSE = SMALL | {"max_epochs": 2, "epoch_length": 3, "learning_rate": 0.01, "overlap": 0}
SAME = COURSE | {"patch_size": [8, 16, 16]}
SLICES = COURSE | {"spatial_dims": 2, "patch_size": [16, 16]}
REPORTED = {"save_preds": True, "postprocess": True}
# the same float32 sums in another order, which Adam's division by a small root can enlarge
CLOSE = {"rtol": 1e-4, "atol": 1e-5}


def run(cwd: Path, ranks: int, run_id: str, *files: str, **overrides: Any) -> list[Finished]:
    return ranks_run(cwd, ranks, run_id, *(files or FILES), bundle=NNUNET, **overrides)


def trained(cwd: Path, ranks: int, batch: int, name: str, run_id: str = "training", **overrides: Any) -> Path:
    """Train on the dataset with a global batch (and as many volumes in it); the folder of the run."""
    keys = {"batch_size": batch // ranks, **overrides}
    if keys.get("nvol"):
        keys["nvol"] //= ranks
    done = run(cwd, ranks, run_id, dataset_dir=DATA, store_dir="store", output_dir=name, **keys)
    assert [d.status for d in done] == [0] * ranks, "".join(d.err for d in done)
    return cwd / name


def weights(folder: Path, name: str = "model_final.pt") -> dict[str, torch.Tensor]:
    return torch.load(folder / name, weights_only=True)


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def assert_same_training(one: Path, several: Path) -> None:
    for name, expected in weights(one).items():
        torch.testing.assert_close(weights(several)[name], expected, **CLOSE)
    for a, b in zip(rows(one), rows(several), strict=True):
        assert set(a) == set(b)
        for key in {"loss", "dice", "cross_entropy", "focal", "learning_rate"} & set(a):
            assert b[key] == pytest.approx(a[key], rel=1e-5)
        # three volumes on two ranks: each counts once, or the mean of the three would be another; a voxel may turn over
        assert b["mean_dice"] == pytest.approx(a["mean_dice"], abs=2e-3)
        assert b["class_dice"] == pytest.approx(a["class_dice"], abs=2e-3)


@pytest.fixture(scope="module")
def cwd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Working directory; beside it a dataset with three volumes to validate with, which two ranks share unevenly."""
    folder = tmp_path_factory.mktemp("nnunet_ranks") / "work"
    folder.mkdir()
    make_phantom(folder.parent / "data", num_cases=9)
    return folder


@pytest.fixture(scope="module")
def alone(cwd: Path) -> Path:
    """A training of one process with batches of two, and its evaluation."""
    return trained(cwd, 1, 2, "one", "train_and_evaluate", batch_dice=True, **SAME, **REPORTED)


def test_two_ranks_train_and_evaluate_what_one_process_does(cwd: Path, alone: Path) -> None:
    two = trained(cwd, 2, 2, "two", "train_and_evaluate", batch_dice=True, **SAME, **REPORTED)
    assert_same_training(alone, two)
    assert names(alone) == names(two)
    assert len(json.loads((two / "evaluation" / "metrics.json").read_text())) == 3
    (seen,) = (cwd.parent / "work_logs").glob("command-1.out")
    for line in ("output: ", "2 processes train together", "mean foreground Dice ", "phantom_", "files written to"):
        assert line in seen.read_text()
    silent = (cwd.parent / "work_logs" / "command-2.out").read_text()
    assert "Dice" not in silent
    assert "output: " not in silent
    assert sorted(path.name for path in cwd.iterdir()) == ["one", "store", "two"]


def test_more_ranks_than_cases_evaluate_each_once(cwd: Path, alone: Path) -> None:
    again = cwd / "again"
    shutil.copytree(alone, again)
    shutil.rmtree(again / "evaluation")
    keys = {"dataset_dir": DATA, "store_dir": "store", "output_dir": "again", "overlap": 0, **SMALL}
    done = run(cwd, 3, "evaluating", test_batches=2, save_preds=True, **keys)
    assert [d.status for d in done] == [0] * 3, "".join(d.err for d in done)
    assert "".join(d.out for d in done).count("2 files written to") == 1
    found, expected = [json.loads((run / "evaluation" / "metrics.json").read_text()) for run in (again, alone)]
    assert list(found) == list(expected)[:2]
    for name in found:
        assert found[name] == expected[name]
        labels = [np.asarray(nibabel.load(run / "evaluation" / f"{name}.nii.gz").dataobj) for run in (again, alone)]
        np.testing.assert_array_equal(*labels)


def test_inputs_are_dealt_out_and_one_that_is_broken_costs_no_other(cwd: Path, alone: Path) -> None:
    inputs = cwd.parent / "inputs"
    inputs.mkdir()
    for number in range(3):
        shutil.copyfile(
            cwd.parent / "data" / "imagesTr" / f"phantom_{number + 1:03d}.nii.gz", inputs / f"{number}.nii.gz"
        )
    keys = {"ckpt_path": str(alone / "model.pt"), "input": str(inputs), "overlap": 0}
    keys |= {"device": "cpu", "amp": False, "fused_ops": False}
    (whole,) = run(cwd.parent, 1, "inference", "inference.json", output_dir="whole", **keys)
    assert whole.status == 0, whole.err
    (inputs / "1.nii.gz").write_bytes(b"broken")
    done = run(cwd.parent, 2, "inference", "inference.json", output_dir="shared", **keys)
    assert [d.status for d in done] == [1, 1]
    assert "".join(d.err for d in done).count("error: 1 cases could not be read, all others are done") == 1
    assert "1.nii.gz: 6 bytes" in done[0].err
    assert "2 files written to" in done[0].out
    written = [name for name in names(cwd.parent / "shared") if not name.startswith(".")]
    assert written == ["0.nii.gz", "2.nii.gz"]
    for name in written:
        found, expected = [np.asarray(nibabel.load(cwd.parent / f / name).dataobj) for f in ("shared", "whole")]
        np.testing.assert_array_equal(found, expected)
    again = run(cwd.parent, 2, "inference", "inference.json", output_dir="shared", **keys)
    assert [d.status for d in again] == [1, 1]
    assert "".join(d.err for d in again).count("2 predictions are already in shared") == 1


@pytest.mark.long
@pytest.mark.parametrize(
    "keys",
    [
        {**SLICES, "nvol": 2},
        {**SLICES, "nvol": 0, "focal": True, "oversampling": 1.0},
        {**SAME, "batch_dice": False, "class_weights": [1, 2, 3], "mirror": 0.5},
        {**SAME, "scheduler": "plateau", "lr_patience": 0, "ema_decay": 0, "optimizer": "sgd", "max_epochs": 4},
        {**SAME, "deep_supervision": False, "num_workers": 1, "augment_on": "device"},
    ],
    ids=["blocks-of-slices", "slices", "weights", "plateau", "device"],
)
def test_other_keys_train_the_same_too(cwd: Path, keys: dict[str, Any], request: pytest.FixtureRequest) -> None:
    name = request.node.callspec.id
    one, two = (trained(cwd, ranks, 4, f"{name}_{ranks}", **keys) for ranks in (1, 2))
    assert_same_training(one, two)
    assert names(one) == names(two)


@pytest.mark.long
def test_ignored_voxels_do_not_count_on_any_rank(cwd: Path) -> None:
    data = cwd.parent / "ignoring"
    shutil.copytree(cwd.parent / "data", data)
    description = json.loads((data / "dataset.json").read_text())
    description["labels"] |= {"3": "ignore"}
    (data / "dataset.json").write_text(json.dumps(description))
    for number, path in enumerate(sorted((data / "labelsTr").glob("*.nii.gz"))):
        label = nibabel.load(path)
        values = np.asarray(label.dataobj).copy()
        values[: 4 * number] = 3  # another share of every case
        nibabel.save(nibabel.Nifti1Image(values, label.affine), path)
    keys = {**SAME, "dataset_dir": str(data), "store_dir": "store_ignoring"}
    for ranks in (1, 2):
        done = run(cwd, ranks, "training", output_dir=f"ignoring_{ranks}", batch_size=4 // ranks, **keys)
        assert [d.status for d in done] == [0] * ranks, "".join(d.err for d in done)
    assert json.loads((cwd / "ignoring_1" / "plan.json").read_text())["ignore_label"] == 3
    assert_same_training(cwd / "ignoring_1", cwd / "ignoring_2")


@pytest.mark.long
def test_all_ranks_stop_early_after_the_same_epoch(cwd: Path) -> None:
    keys = SAME | {"learning_rate": 0.0, "max_epochs": 9, "patience": 2, "val_interval": 1, "warmup": 0}
    one, two = (trained(cwd, ranks, 2, f"stale_{ranks}", **keys) for ranks in (1, 2))
    assert [row["epoch"] for row in rows(two)] == [row["epoch"] for row in rows(one)]
    assert len(rows(two)) < 9


@pytest.mark.long
def test_batch_norm_is_validated_as_it_is_saved(cwd: Path) -> None:
    """Ranks see other batches, so their running statistics differ; the scores must be those of the saved model."""
    two = trained(cwd, 2, 4, "norm", norm="batch", **SAME)
    keys = {"dataset_dir": DATA, "store_dir": "store", "output_dir": "norm", "norm": "batch", "batch_size": 2}
    done = run(cwd, 1, "evaluating", **SAME, **keys)
    assert done[0].status == 0, done[0].err
    summary = json.loads((two / "evaluation" / "summary.json").read_text())
    # the phantom's plan does not resample, so that stored and raw grid agree
    best = json.loads((two / "metrics.json").read_text())["mean_dice"]
    assert summary["foreground_mean"]["dice"] == pytest.approx(best, abs=0.02)


def torchrun(cwd: Path, ranks: int, run_id: str, **overrides: Any) -> list[str]:
    line = command(run_id, *FILES, "multi_gpu_train.json", dataset_dir=DATA, store_dir="store", **overrides)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(ranks)]
    return launcher + line[line.index("-m") :]


@pytest.mark.long
def test_torchrun_trains_is_stopped_and_goes_on(cwd: Path) -> None:
    keys = SAME | {"max_epochs": 8, "val_interval": 4, "batch_size": 1, "fused_ops": True}
    options: dict[str, Any] = {"cwd": cwd, "env": {**environment(), "OMP_NUM_THREADS": "1"}, "text": True}
    whole = subprocess.run(torchrun(cwd, 2, "training", output_dir="whole", **keys), capture_output=True, **options)
    assert whole.returncode == 0, whole.stderr
    line = torchrun(cwd, 2, "training", output_dir="cut", **keys)
    process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options)
    deadline = time.monotonic() + 120
    while not (cwd / "cut" / "last.pt").exists():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=60)
    assert process.returncode != 0
    assert out.count("go on with the same command and --resume True") == 1
    assert 3 <= weights(cwd / "cut", "last.pt")["iteration"] < 24
    again = subprocess.run([*line, "--resume", "True"], capture_output=True, **options)
    assert again.returncode == 0, again.stderr
    assert again.stdout.count("resumed from") == 1
    for name, expected in weights(cwd / "whole").items():
        torch.testing.assert_close(weights(cwd / "cut")[name], expected, rtol=0, atol=0)
    other = subprocess.run(
        torchrun(cwd, 2, "training", output_dir="cut", **keys | {"batch_size": 2}, resume=True),
        capture_output=True,
        **options,
    )
    assert other.returncode != 0
    assert other.stderr.count("error: ") == 1
    assert "batch_size: 1 -> 2" in other.stderr


@pytest.mark.long
def test_everything_else_runs_on_ranks_too(cwd: Path) -> None:
    keys = {**SAME, "dataset_dir": DATA, "batch_size": 1}
    for run_id, name in (("preprocessing", "prepared"), ("train_and_predict", "predicted")):
        done = run(cwd, 3, run_id, output_dir=name, store_dir=f"store_{name}", **keys)
        assert [d.status for d in done] == [0] * 3, "".join(d.err for d in done)
    assert "".join(d.out for d in done).count("2 files written to") == 1
    assert names(cwd / "predicted" / "predictions") == ["phantom_010.nii.gz", "phantom_011.nii.gz"]
    assert len(list((cwd / "store_prepared" / "cases").glob("phantom_*"))) == 9
