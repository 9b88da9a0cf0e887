"""Detection bundle on several processes: they train what one would have trained, and find and write what it would.

Ranks are forked from this process; what torchrun adds is in the tests marked `long`.
"""

from __future__ import annotations

import csv
import json
import re
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from bundle_commands import MASK_RCNN, Finished, command, environment
from mask_rcnn_workflows import SMALL, detection_workflow
from monai_ext.engines import instance_samples, process_group
from monai_ext.engines.person_errors import find_input_error
from monai_ext.errors import InputError
from rank_processes import on_ranks

# bfloat16 would hide behind its rounding whether the rest is equal
SAME: dict[str, Any] = {"amp": False, "max_epochs": 1, "epoch_length": 2, "learning_rate": 0.0005, "eval_samples": 3}
RULES: dict[str, Any] = {"label_threshold": 0.1, "amp": False, "num_workers": 0}
# more threads than the processor that a rank may be given would wait for each other
ENVIRONMENT = {**environment(), "OMP_NUM_THREADS": "1"}
OVERLAYS = {"train.json": "multi_gpu_train.json", "inference.json": "multi_gpu_inference.json"}


def run(run_id: str, files: tuple[str, ...], overrides: dict[str, Any]) -> str:
    """A command of the bundle in this process, as a rank if it is one; a person's mistake, "" if there was none."""
    if process_group.running():
        files = (*files, OVERLAYS[files[0]])
    try:
        workflow = detection_workflow(*files, run_id=run_id, **overrides)
        workflow.run()
    except (Exception, SystemExit) as error:
        if isinstance(error, SystemExit):
            return f"exit status {error.code}"
        mistake = find_input_error(error)
        if mistake is None:
            return "".join(traceback.format_exception(error))
        return str(mistake)
    return ""


def torchrun(ranks: int, run_id: str, *files: str, **overrides: Any) -> list[str]:
    """A command as torchrun starts it."""
    line = command(run_id, *files, bundle=MASK_RCNN, **overrides)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(ranks)]
    return launcher + line[line.index("-m") :]


def launched(cwd: Path, line: list[str]) -> Finished:
    done = subprocess.run(line, cwd=cwd, env=ENVIRONMENT, capture_output=True, text=True, timeout=900)
    return Finished(done.returncode, done.stdout, done.stderr)


def weights(folder: Path, name: str = "model_final.pt") -> dict[str, torch.Tensor]:
    return torch.load(folder / name, weights_only=True)


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def names(folder: Path) -> list[str]:
    """Files below a folder, with what differs between any two runs left out of their names.

    A run in this process keeps its lock until its workflow is gone.
    """
    paths = (p for p in folder.rglob("*") if p.name != ".run.lock")
    return sorted(re.sub(r"tfevents.*", "tfevents", str(p.relative_to(folder))) for p in paths)


def contents(folder: Path) -> dict[str, bytes]:
    """Bytes of all files but hidden ones, such as locks."""
    files = [path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training of one process with batches of four, in a working directory."""
    folder = tmp_path_factory.mktemp("ranks")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert run("training", SMALL, {"output_dir": "one", "batch_size": 4, **SAME}) == ""
    return folder


@pytest.fixture
def here(alone: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(alone)
    return alone


def test_two_ranks_train_what_one_process_trains(here: Path) -> None:
    assert on_ranks(run, 2, "training", SMALL, {"output_dir": "two", "batch_size": 2, **SAME}) == ["", ""]
    one, two = here / "one", here / "two"
    # the same sums in another order; Adam's division by a small root enlarges the rounding
    for name, expected in weights(one).items():
        torch.testing.assert_close(weights(two)[name], expected, rtol=1e-3, atol=1e-4)
    (a,), (b,) = rows(one), rows(two)
    for key in ("loss", "rpn_class", "rpn_box", "roi_class", "roi_box", "mask"):
        assert b[key] == pytest.approx(a[key], rel=1e-4), key
    assert names(one) == names(two)
    assert (one / "fold.json").read_bytes() == (two / "fold.json").read_bytes()
    states = [torch.load(folder / "last.pt", weights_only=True)["options"] for folder in (one, two)]
    assert states[0] == states[1]  # so that one process may go on with what two have begun


def test_every_case_is_scored_once(here: Path) -> None:
    """Three images, which one process takes in batches of two: of three ranks one has two, one has one, one none."""
    options = {**RULES, "ckpt_path": "one/model.pt", "eval_samples": 3, "val_batch_size": 2}
    assert run("evaluating", SMALL, {"output_dir": "scores", **options}) == ""
    assert on_ranks(run, 3, "evaluating", SMALL, {"output_dir": "scores3", **options}) == [""] * 3
    one, more = contents(here / "scores/evaluation"), contents(here / "scores3/evaluation")
    assert len(list(csv.DictReader((here / "scores/evaluation/per_image.csv").open()))) == 3
    assert one == more  # also the picture and all digits


@pytest.fixture(scope="module")
def pictures(alone: Path) -> Path:
    """Five pictures of three sizes; one of them is tiled."""
    raw = alone / "runs/mask_rcnn/phantom/prepared/raw/images/val"
    folder = alone / "pictures"
    (folder / "more").mkdir(parents=True)
    for number, source in enumerate(sorted(raw.glob("*.png"))[:5]):
        image = np.asarray(Image.open(source))
        cut = (slice(0, 60), slice(0, 64)) if number in (1, 3) else (slice(0, 60), slice(0, 60 + 40 * (number == 4)))
        Image.fromarray(image[cut]).save(folder / ("more" if number % 2 else ".") / source.name)
    return folder


def test_every_picture_is_written_once(here: Path, pictures: Path) -> None:
    """Three batches: one of four ranks has none."""
    options = {**RULES, "input": "pictures", "ckpt_path": "one/model.pt", "val_batch_size": 2}
    assert run("inference", ("inference.json",), {"output_dir": "found", **options}) == ""
    done = on_ranks(run, 4, "inference", ("inference.json",), {"output_dir": "found4", **options})
    assert done == [""] * 4
    one, more = contents(here / "found"), contents(here / "found4")
    assert len(one) == 3 + 2 * 5
    assert one == more
    first, second = on_ranks(run, 2, "inference", ("inference.json",), {"output_dir": "found4", **options})
    assert "files are there already" in first
    assert second == "exit status 1"


def test_unreadable_pictures_do_not_stop_the_others(here: Path, pictures: Path) -> None:
    """A file that is damaged after the check of the folder: all others are written, one error tells of it."""
    damaged = sorted(path for path in pictures.rglob("*.png"))[2]
    options = {**RULES, "input": "pictures", "ckpt_path": "one/model.pt", "output_dir": "rest", "val_batch_size": 2}
    done = on_ranks(damaged_later, 2, damaged, options)
    assert done[1] == "exit status 1"
    assert "1 of the pictures cannot be read, all others are done" in done[0]
    assert damaged.name in done[0]
    written = sorted(path.stem for path in (here / "rest/labels").rglob("*.png"))
    assert written == sorted(path.stem for path in pictures.rglob("*.png") if path != damaged)
    listed = [row["file"] for row in csv.DictReader((here / "rest/counts.csv").open())]
    assert len(listed) == 4
    assert str(damaged.relative_to(pictures)) not in listed


def damaged_later(path: Path, options: dict[str, Any]) -> str:
    read = instance_samples.read_plan_image

    def broken(given: Any, plan: Any) -> torch.Tensor:
        if Path(given).resolve() == path.resolve():
            raise InputError(f"{path}: ends too early")
        return read(given, plan)

    instance_samples.read_plan_image = broken
    return run("inference", ("inference.json",), options)


@pytest.mark.long
def test_loss_curves_agree(tmp_path: Path) -> None:
    """Twenty steps: rounding turns single choices of the suppression over, and so other regions are drawn."""
    options = SAME | {"max_epochs": 4, "epoch_length": 5, "val_interval": 4, "learning_rate": 0.001}
    apart = trained_apart(tmp_path, options)
    print("losses apart:", [f"{value:.1e}" for value in apart])
    assert max(apart) < 0.05
    assert sum(apart) / len(apart) < 0.03


def trained_apart(folder: Path, options: dict[str, Any]) -> list[float]:
    """Relative differences of the epochs' mean losses, of one process with batches of four and two with two each."""
    alone = command("training", *SMALL, bundle=MASK_RCNN, output_dir="one", batch_size=4, **options)
    both = torchrun(2, "training", *SMALL, "multi_gpu_train.json", output_dir="two", batch_size=2, **options)
    for line in (alone, both):
        done = launched(folder, line)
        assert done.status == 0, done.err
    epochs = zip(rows(folder / "one"), rows(folder / "two"), strict=True)
    return [abs(a["loss"] - b["loss"]) / a["loss"] for a, b in epochs]


@pytest.mark.long
def test_padding_of_each_rank_changes_little(tmp_path: Path) -> None:
    """Images of several sizes without crops: every rank pads to its own largest, one process to that of all."""
    options = SAME | {"crop": False, "select": "", "epoch_length": 4, "eval_samples": 2}
    rng = np.random.default_rng(0)
    for part, count in (("train", 8), ("val", 2)):
        for number in range(count):
            height, width = rng.integers(40, 64, 2).tolist()
            values = np.zeros((height, width), np.uint8)
            values[8:20, 6:18], values[24:36, 20:34] = 1, 2
            for kind, pixels in (("labels", values), ("images", 60 + 120 * (values > 0))):
                (tmp_path / "data" / kind / part).mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "data" / kind / part / f"{number}.png")
    options |= {"dataset_dir": "data", "scale": 1, "num_workers": 0}
    (apart,) = trained_apart(tmp_path, options)
    print(f"losses apart: {apart:.1e}")
    assert apart < 0.1


@pytest.mark.long
def test_stopped_ranks_go_on_together(tmp_path: Path) -> None:
    """By torchrun itself, with gradients accumulated; what a signal stopped ends as if it had not."""
    options = SAME | {"max_epochs": 6, "val_interval": 6, "batch_size": 2, "accumulate_steps": 2}
    files = (*SMALL, "multi_gpu_train.json")
    whole = launched(tmp_path, torchrun(2, "train_and_evaluate", *files, output_dir="whole", **options))
    assert whole.status == 0, whole.err
    for line in ("output: ", "processes train together", "\nmodel:", "summary.json:"):
        assert whole.out.count(line) == 1, line
    process = subprocess.Popen(
        torchrun(2, "train_and_evaluate", *files, output_dir="cut", **options),
        cwd=tmp_path,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 300
    while not (tmp_path / "cut" / "last.pt").exists():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=300)
    assert process.returncode != 0
    assert out.count("go on with the same command and --resume True") == 1
    assert not (tmp_path / "cut/evaluation").exists()
    done = launched(tmp_path, torchrun(2, "train_and_evaluate", *files, output_dir="cut", resume=True, **options))
    assert done.status == 0, done.err
    assert set(names(tmp_path / "whole")) == set(names(tmp_path / "cut"))  # a resumed training has more event files
    for name, expected in weights(tmp_path / "whole").items():
        torch.testing.assert_close(weights(tmp_path / "cut")[name], expected, rtol=0, atol=0)


@pytest.mark.long
def test_recipe_keeps_its_batch(tmp_path: Path) -> None:
    """The batch of a recipe is that of all processes; a number of them that cannot share it is refused, once."""
    files = ("train.json", "recipe_nuclei.json", "multi_gpu_train.json")
    done = launched(tmp_path, torchrun(3, "training", *files, output_dir="no"))
    assert done.status == 1
    assert done.err.count("cannot be dealt to 3 processes") == 1
    assert not (tmp_path / "no" / "last.pt").exists()
