"""Classification bundle on several ranks: they train what one process trains, score and predict every case once."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from bundle_commands import SE_RESNEXT, Finished
from forked_ranks import names, ranks_run

FILES = ("train.json", "tiny.json")
# 16 phantom pictures to train on and 7 to validate with; threads of the ranks must not share a processor
SMALL: dict[str, Any] = {"affinity": "disabled", "device": "cpu", "amp": False, "fused_ops": False, "bootstrap": 5}
SAME = SMALL | {"max_epochs": 2, "epoch_length": 3, "norm_images": 10, "class_weights": [1, 2, 3, 4]}
SAME |= {"dataset_dir": "data", "balanced_sampling": True}


def run(cwd: Path, ranks: int, run_id: str, **overrides: Any) -> list[Finished]:
    return ranks_run(cwd, ranks, run_id, *FILES, bundle=SE_RESNEXT, **overrides)


def weights(folder: Path, name: str = "model_final.pt") -> dict[str, torch.Tensor]:
    return torch.load(folder / name, weights_only=True)


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def cwd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Working directory with `data`: seven pictures to validate with, for two and three ranks an uneven number."""
    from monai_ext.datasets.class_phantom import make_class_phantom

    folder = tmp_path_factory.mktemp("class_ranks") / "work"
    folder.mkdir()
    made = make_class_phantom(folder.parent / "phantom", num_train=4, num_val=2)
    for split, most in (("train", 16), ("val", 7)):
        for path in sorted((made / split).glob("*/*.png"))[:most]:
            target = folder / "data" / split / path.parent.name / path.name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
    return folder


@pytest.fixture(scope="module")
def alone(cwd: Path) -> Path:
    """A training and evaluation of one process with batches of four, class weights and equally shown classes."""
    (done,) = run(cwd, 1, "train_and_evaluate", output_dir="one", batch_size=4, **SAME)
    assert done.status == 0, done.err
    return cwd / "one"


def test_synchronised_norms_train_what_one_process_trains(cwd: Path, alone: Path) -> None:
    """Batch norms of the whole network over both ranks; seven cases validate, and each counts once."""
    done = run(cwd, 2, "train_and_evaluate", output_dir="two", batch_size=2, sync_bn=True, **SAME)
    assert [d.status for d in done] == [0, 0], done[0].err + done[1].err
    two = cwd / "two"
    # the same sums in another order: float32 rounding, which norms over the four values of the last stage enlarge
    for name, expected in weights(alone).items():
        torch.testing.assert_close(weights(two)[name], expected, rtol=1e-3, atol=1e-4)
    for a, b in zip(rows(alone), rows(two), strict=True):
        assert b["loss"] == pytest.approx(a["loss"], rel=1e-5)
        assert b["learning_rate"] == a["learning_rate"]
        assert b["class_recall"] == a["class_recall"]
    assert names(alone) == names(two)
    assert sorted(p.name for p in cwd.iterdir()) == ["data", "one", "runs", "two"]
    for line in ("output: ", "2 processes train together", "epoch 2: loss", "metrics:", "7 cases", "macro F1"):
        assert done[0].out.count(line) + done[0].err.count(line) == 1, line
    assert done[1].out + done[1].err == ""


def test_every_case_is_evaluated_once(cwd: Path, alone: Path) -> None:
    """Seven cases on three ranks, by files that are equal to the byte; one picture at a time, as kernels round."""
    keys = SMALL | {"dataset_dir": "data", "batch_size": 1, "ckpt_path": str(alone / "model.pt")}
    written = {}
    for ranks in (1, 3):
        (alone / "calibration.json").unlink()
        done = run(cwd, ranks, "evaluating", output_dir=f"scored_{ranks}", **keys)
        assert [d.status for d in done] == [0] * ranks, done[0].err
        assert sum(d.out.count("macro F1") for d in done) == 1
        files = [*(cwd / f"scored_{ranks}" / "evaluation").iterdir(), alone / "calibration.json"]
        written[ranks] = {path.name: path.read_bytes() for path in files}
    assert written[1] == written[3]
    assert len(written[1]) == 7
    assert written[1]["predictions.csv"].count(b"\n") == 8


def test_more_ranks_than_pictures_predict_each_once(cwd: Path, alone: Path) -> None:
    pictures = sorted((cwd / "data" / "val").glob("*/*.png"))
    (cwd / "few").mkdir()
    for path in (pictures[0], pictures[-1]):
        shutil.copyfile(path, cwd / "few" / path.name)
    keys = SMALL | {"input": "few", "batch_size": 1, "cam": True, "ckpt_path": str(alone / "model.pt")}
    del keys["bootstrap"], keys["affinity"]
    written = {}
    for ranks in (1, 3):
        done = ranks_run(
            cwd, ranks, "inference", "inference.json", bundle=SE_RESNEXT, output_dir=f"out_{ranks}", **keys
        )
        assert [d.status for d in done] == [0] * ranks, done[0].err
        files = (cwd / f"out_{ranks}").rglob("*")
        written[ranks] = {path.name: path.read_bytes() for path in files if path.is_file() and path.name[0] != "."}
    assert written[1] == written[3]
    assert len(written[1]) == 4  # two tables, two pictures of activations
    assert len(json.loads(written[3]["predictions.json"])["predictions"]) == 2
    again = ranks_run(cwd, 2, "inference", "inference.json", bundle=SE_RESNEXT, output_dir="out_3", **keys)
    assert [d.status for d in again] == [1, 1]
    assert sum(d.err.count("exists already") for d in again) == 1
    (cwd / "few" / "broken.png").write_bytes((cwd / "few" / pictures[0].name).read_bytes()[:300])
    broken = ranks_run(cwd, 2, "inference", "inference.json", bundle=SE_RESNEXT, output_dir="never", **keys)
    assert [d.status for d in broken] == [1, 1]
    assert sum(d.err.count("broken.png") for d in broken) == 1
    assert not any("Traceback" in d.err for d in broken)


@pytest.mark.long
@pytest.mark.parametrize("options", [{"norm_images": 0}, {"norm_images": 0, "ema_decay": 0}, {"norm_images": 8}])
def test_sessions_of_two_ranks_end_like_one_training(cwd: Path, options: dict[str, Any]) -> None:
    """Every rank has statistics of its own images, one file holds those of the first: that must be enough."""
    keys = SAME | {"batch_size": 2, "mixup_alpha": 0.2, "drop_path": 0.2, **options}
    name = "_".join(map(str, options.values()))
    whole = run(cwd, 2, "training", output_dir=f"whole_{name}", **keys)
    first = run(cwd, 2, "training", output_dir=f"cut_{name}", run_epochs=1, **keys)
    second = run(cwd, 2, "training", output_dir=f"cut_{name}", run_epochs=1, resume=True, **keys)
    for done in (*whole, *first, *second):
        assert done.status == 0, done.err
    assert first[0].out.count("go on with the same command and --resume True") == 1
    for file in ("model_final.pt", "model.pt"):
        expected, found = (weights(cwd / f"{part}_{name}", file) for part in ("whole", "cut"))
        for key, value in expected.items():
            torch.testing.assert_close(found[key], value, rtol=0, atol=0)
    other = run(cwd, 2, "training", output_dir=f"cut_{name}", resume=True, **(keys | {"batch_size": 4}))
    assert [d.status for d in other] == [1, 1]
    assert "--batch_size 4 -> 8" in other[0].err + other[1].err


@pytest.mark.long
def test_train_and_predict_writes_what_one_process_writes(cwd: Path) -> None:
    keys = SAME | {"freeze": "stage4", "batch_size": 1, "image_size": [48]}
    for ranks in (1, 2):
        options = keys | {"batch_size": 2 // ranks, "output_dir": f"predicted_{ranks}"}
        done = run(cwd, ranks, "train_and_predict", **options)
        assert [d.status for d in done] == [0] * ranks, done[0].err
    assert names(cwd / "predicted_1") == names(cwd / "predicted_2")
    one, two = (
        json.loads((cwd / f"predicted_{ranks}" / "predictions" / "predictions.json").read_text()) for ranks in (1, 2)
    )
    assert [entry["file"] for entry in one["predictions"]] == [entry["file"] for entry in two["predictions"]]
    for a, b in zip(one["predictions"], two["predictions"], strict=True):
        for x, y in zip(a["top"], b["top"], strict=True):
            assert y["probability"] == pytest.approx(x["probability"], abs=1e-4)
