"""nnU-Net bundle: all folds by one command, stopped and gone on with, by one process or two; post-processing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import nibabel
import numpy as np
import pytest

from bundle_commands import Finished, bundle_run, command, environment
from monai_ext.datasets.phantom import make_phantom
from monai_ext.evaluation.postprocessing import Postprocessing

TINY = ("train.json", "tiny.json")
RUN = Path("runs/nnunet/phantom/0")
RAW = Path("runs/nnunet/phantom/prepared/raw")


def few_cases(folder: Path) -> dict[str, object]:
    """A phantom and two folds of two training and two validation cases: what is tested does not need more."""
    names = sorted(p.name.removesuffix(".nii.gz") for p in (make_phantom(folder / "P") / "imagesTr").glob("*.nii.gz"))
    splits = [{"train": names[2:4], "val": names[:2]}, {"train": names[:2], "val": names[2:4]}]
    (folder / "splits.json").write_text(json.dumps(splits))
    return {"dataset_dir": "P", "splits_file": "splits.json", "overlap": 0}


def test_stopped_cross_validation_goes_on_with_the_same_command(tmp_path: Path) -> None:
    options = few_cases(tmp_path)
    line = command("cross_validation", *TINY, **options)
    process = subprocess.Popen(
        line, cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    folds = tmp_path / "runs" / "nnunet" / "P"
    deadline = time.monotonic() + 240
    while not (folds / "1" / "fold_command.json").exists():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=120)
    assert process.returncode == -signal.SIGTERM
    assert "go on with the same command" in out
    assert "Traceback" not in err
    assert not (folds / "cross_validation" / "cross_validation.json").exists()
    before = (folds / "0" / "model.pt").stat().st_mtime_ns

    done = bundle_run(tmp_path, "cross_validation", *TINY, **options)
    assert done.status == 0, done.err
    assert "fold 0: finished before" in done.out
    assert (folds / "0" / "model.pt").stat().st_mtime_ns == before
    summary = json.loads((folds / "cross_validation" / "cross_validation.json").read_text())
    assert summary["pooled"]["num_cases"] == 4
    each = [json.loads((folds / str(f) / "evaluation" / "summary.json").read_text()) for f in range(2)]
    dice = [s["foreground_mean"]["dice"] for s in each]
    assert [s["fold"] for s in each] == [0, 1]
    assert summary["over_folds"]["mean"]["dice"]["mean"] == pytest.approx(np.mean(dice))
    decided = Postprocessing.load(folds / "cross_validation" / "postprocessing.json")
    assert decided.num_cases == 4
    assert decided.why[0].before["mean"] == pytest.approx(summary["pooled"]["foreground_mean"]["dice"])
    for fold in range(2):
        assert Postprocessing.load(folds / str(fold) / "postprocessing.json") == decided
        plan = json.loads((folds / str(fold) / "plan.json").read_text())
        assert plan["patch_size"] == [16, 16, 16]  # the overlay was in force
    lines = done.out.strip().splitlines()
    assert lines[-1] == f"mean foreground Dice {summary['pooled']['foreground_mean']['dice']:.3f}"
    assert (folds / "cross_validation" / "cross_validation.md").read_text().splitlines()[0] in lines


@pytest.mark.long
def test_two_ranks_and_a_fold_that_fails(tmp_path: Path) -> None:
    options = {**few_cases(tmp_path), "output_dir": "out"}
    (tmp_path / "out" / "1").mkdir(parents=True)
    (tmp_path / "out" / "1" / "plan.json").mkdir()  # nothing can be written in its place
    ranks = [
        subprocess.Popen(
            command("cross_validation", *TINY, **options),
            cwd=tmp_path,
            env={**environment(), "RANK": str(r), "WORLD_SIZE": "2", "LOCAL_RANK": str(r), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for r in range(2)
    ]
    ended = [rank.communicate(timeout=300) for rank in ranks]
    assert [rank.returncode for rank in ranks] == [1, 0], ended
    assert "1 of 2 folds failed" in ended[0][1]
    assert "fold 1: out/1/plan.json: cannot be written (Is a directory" in ended[0][1]
    assert (tmp_path / "out" / "0" / "evaluation" / "summary.json").exists()
    os.rmdir(tmp_path / "out" / "1" / "plan.json")
    done = bundle_run(tmp_path, "cross_validation", *TINY, **options)
    assert done.status == 0, done.err
    assert "fold 0: finished before" in done.out
    assert json.loads((tmp_path / "out" / "cross_validation.json").read_text())["num_folds"] == 2


def test_mistakes_are_told_before_any_fold_starts(tmp_path: Path) -> None:
    done = bundle_run(tmp_path, "cross_validation", *TINY, nfolds=2, cv_folds="[0,2]")
    assert done.status == 1
    assert "--cv_folds [0, 2]: there are no folds [2]" in done.err
    done = bundle_run(tmp_path, "cross_validation", *TINY, dataset_dir="nowhere")
    assert done.status == 1
    assert "nowhere" in done.err
    assert "fold 0" not in done.out + done.err
    assert "Traceback" not in done.err


def test_evaluation_decides_and_inference_applies(trained: tuple[Path, Finished], tmp_path: Path) -> None:
    folder, _ = trained
    done = bundle_run(
        folder, "evaluating", *TINY, output_dir=RUN, save_preds=True, pred_format="nii+npy", postprocess=True
    )
    assert done.status == 0, done.err
    assert "post-processing: " in done.out
    results = folder / RUN / "evaluation"
    summary = json.loads((results / "summary.json").read_text())
    decided = Postprocessing.load(folder / RUN / "postprocessing.json")
    assert summary["postprocessing"]["decided"] == [list(values) for values in decided.keep_largest]
    written = sorted(results.glob("*.nii.gz"))[0]
    name = written.name.removesuffix(".nii.gz")
    raw_labels = np.asarray(nibabel.load(written).dataobj)
    probabilities = np.load(results / f"{name}.npy")
    assert probabilities.shape == (3, *np.asarray(raw_labels.T.shape))
    np.testing.assert_allclose(probabilities.sum(0), 1, atol=1e-5)  # float32 softmax

    Postprocessing(((1,),)).save(folder / RUN / "postprocessing.json")
    image, outputs = folder / RAW / "imagesTr" / written.name, {}
    try:
        for wanted in (True, False):
            options = {"input": image, "output_dir": tmp_path / str(wanted), "ckpt_path": folder / RUN / "model.pt"}
            done = bundle_run(tmp_path, "inference", "inference.json", postprocess=wanted, **options)
            assert done.status == 0, done.err
            outputs[wanted] = np.asarray(nibabel.load(tmp_path / str(wanted) / written.name).dataobj)
    finally:
        (folder / RUN / "postprocessing.json").unlink()  # other tests of this folder expect plain predictions
    np.testing.assert_array_equal(outputs[False], raw_labels)
    np.testing.assert_array_equal(outputs[True], Postprocessing(((1,),)).apply(raw_labels))
    assert (outputs[True] != raw_labels).any()  # two steps of training leave specks
