"""Folds in processes: skipped when finished, gone on with when not, independent of each other's failures."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from monai_ext.engines.cross_validation import FoldRuns, report_progress, visible_gpus
from monai_ext.engines.fold_jobs import FoldJob
from monai_ext.engines.fold_process import Stop
from monai_ext.engines.segmentation_folds_report import report_segmentations
from monai_ext.errors import InputError
from monai_ext.evaluation.postprocessing import Postprocessing
from monai_ext.evaluation.segmentation_metrics import case_metrics
from monai_ext.file_lock import FileLock
from monai_ext.planning.msd_plans import named_plan

# stands for `monai.bundle run`: leaves what a training and its evaluation leave, or fails as the file `behave` says
FAKE = """
import hashlib, json, os, shutil, signal, sys, time
from pathlib import Path
given = json.loads(Path(sys.argv[1]).read_text())
folder, fold = Path(given["output_dir"]), str(given["fold"])
behave = json.loads(Path("behave.json").read_text()).get(fold, "work")
with open("calls.txt", "a") as calls:
    calls.write(f"{given['run_id']} {fold} resume={given['resume']} overwrite={given['overwrite']}\\n")
if given["run_id"] == "preprocessing":
    if Path("preparing").exists():
        sys.exit("two at a time")
    Path("preparing").touch(); time.sleep(0.2); Path("preparing").unlink()
    sys.exit(0)
folder.mkdir(parents=True, exist_ok=True)
(folder / "last.pt").write_bytes(b"part")
if behave == "fail":
    print("error: no memory\\n  - none at all", file=sys.stderr)
    sys.exit(1)
if behave == "die":
    os.kill(os.getpid(), signal.SIGKILL)
if behave == "hang":
    signal.signal(signal.SIGTERM, lambda *_: (Path("saved").write_text("saved"), sys.exit(1)))
    print("hanging", flush=True)
    time.sleep(60)
(folder / "model.pt").write_bytes(fold.encode())
(folder / "metrics.json").write_text("{}")
if behave == "empty":
    sys.exit(0)
shutil.copytree(Path("evaluations") / fold, folder / "evaluation", dirs_exist_ok=True)
digest = hashlib.sha256(fold.encode()).hexdigest()
(folder / "evaluation" / "summary.json").write_text(json.dumps({"model_sha256": digest}))
(folder / "environment.json").write_text(json.dumps(dict(os.environ)))
"""
CLASSES = named_plan("04").foreground_classes
FIRST, SECOND = CLASSES.values()


def blob(value: int, far: bool) -> np.ndarray:
    labels = np.zeros((6, 8, 10), dtype=np.uint8)
    labels[1:4, 1:5, 1:5] = value
    labels[5:, 7:, 8:] = value if far else 0
    return labels


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Working directory with what the fake command copies: per fold one case, with a speck away from its object."""
    for fold in range(3):
        name = f"case{fold}"
        truth, found = blob(FIRST, False), blob(FIRST, True)
        folder = tmp_path / "evaluations" / str(fold)
        folder.mkdir(parents=True)
        (tmp_path / "labels").mkdir(exist_ok=True)
        for path, labels in ((tmp_path / "labels" / f"{name}.nii.gz", truth), (folder / f"{name}.nii.gz", found)):
            nibabel.save(nibabel.Nifti1Image(labels.T, np.eye(4)), path)
        (folder / "metrics.json").write_text(json.dumps({name: case_metrics(found, truth, (1, 1, 1), CLASSES)}))
    (tmp_path / "fake.py").write_text(FAKE)
    (tmp_path / "behave.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def jobs(place: Path, number: int = 3, **keys: Any) -> list[FoldJob]:
    made = []
    for fold in range(number):
        folder = place / "out" / str(fold)
        made.append(FoldJob(fold, folder, (f"case{fold}",), {"fold": fold, "output_dir": str(folder), **keys}))
    return made


def train(place: Path, behave: dict[str, str] | None = None, **options: Any) -> dict[int, str]:
    (place / "behave.json").write_text(json.dumps(behave or {}))
    todo = options.pop("jobs", jobs(place))
    runs = FoldRuns(place / "out", command=lambda args: [sys.executable, str(place / "fake.py"), str(args)], **options)
    return runs.train(todo, [job.fold for job in todo], Stop())


def calls(place: Path) -> list[str]:
    path = place / "calls.txt"
    lines = path.read_text().splitlines() if path.exists() else []
    path.unlink(missing_ok=True)
    return lines


def test_all_folds_then_nothing_more(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train(place) == {}
    assert calls(place) == [f"train_and_evaluate {fold} resume=False overwrite=False" for fold in range(3)]
    capsys.readouterr()
    assert train(place) == {}
    assert calls(place) == []
    assert capsys.readouterr().out.splitlines() == [f"fold {fold}: finished before" for fold in range(3)]


def test_a_failed_fold_does_not_stop_the_others_and_goes_on_next_time(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    failures = train(place, {"0": "fail", "1": "die", "2": "empty"})
    assert failures[0] == "no memory\n  - none at all"
    assert failures[1].startswith("was killed, most likely for lack of memory. ")
    assert "the evaluation of model.pt is missing" in failures[2]
    assert len(calls(place)) == 3
    with pytest.raises(InputError, match=r"3 of 3 folds failed(.|\n)*fold 0: no memory(.|\n)*fold 1: was killed"):
        report_progress(jobs(place), failures, place / "out")
    assert "finished: 0 of 3 folds" in capsys.readouterr().out
    assert train(place) == {}
    assert calls(place) == [f"train_and_evaluate {fold} resume=True overwrite=False" for fold in range(3)]


def test_overwrite_begins_anew(place: Path) -> None:
    train(place)
    calls(place)
    assert train(place, overwrite=True) == {}
    assert calls(place) == [f"train_and_evaluate {fold} resume=False overwrite=True" for fold in range(3)]


def test_changed_model_or_keys_are_trained_again(place: Path) -> None:
    train(place)
    calls(place)
    (place / "out" / "1" / "model.pt").write_bytes(b"other")
    assert train(place) == {}
    assert calls(place) == ["train_and_evaluate 1 resume=True overwrite=False"]
    assert train(place, jobs=jobs(place, max_epochs=9)) == {}
    assert len(calls(place)) == 3


def test_unfinished_folds_are_named(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(place, jobs=jobs(place)[:2])
    capsys.readouterr()
    report_progress(jobs(place), {}, place / "out")
    assert capsys.readouterr().out.splitlines()[:2] == [
        "finished: 2 of 3 folds (0, 1)",
        "fold 2: the training is missing",
    ]
    assert not (place / "out" / "cross_validation.json").exists()


def test_a_fold_in_other_hands_is_left_alone(place: Path) -> None:
    with FileLock(place / "out" / ".fold-1.lock", "fold 1"):
        failures = train(place, patience=0)
    assert list(failures) == [1]
    assert f"in use by process {os.getpid()} on" in failures[1]
    assert [line.split()[1] for line in calls(place)] == ["0", "2"]


def test_result_and_postprocessing_of_all_folds(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(place)
    for job in jobs(place):
        (job.folder / "plan.json").write_text(named_plan("04").to_json())
    capsys.readouterr()
    references = {f"case{fold}": place / "labels" / f"case{fold}.nii.gz" for fold in range(3)}
    summary = report_segmentations(place / "out", jobs(place), references)
    assert summary["pooled"]["num_cases"] == 3
    assert summary["num_folds"] == 3
    decided = Postprocessing.load(place / "out" / "postprocessing.json")
    assert decided.keep_largest == ((FIRST, SECOND),)
    assert decided.num_cases == 3
    name = next(iter(CLASSES))
    assert decided.why[0].before[name] == pytest.approx(summary["pooled"]["classes"][name]["dice"]["mean"], abs=1e-12)
    assert decided.why[0].after[name] == 1
    for job in jobs(place):
        assert Postprocessing.load(job.folder / "postprocessing.json") == decided
    assert json.loads((place / "out" / "cross_validation.json").read_text()) == summary
    shown = capsys.readouterr().out
    assert "| all cases" in shown
    assert "post-processing: largest component of Anterior+Posterior, mean Dice" in shown


def start_rank(place: Path, number: int, world: int, script: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "RANK": str(number), "WORLD_SIZE": str(world), "LOCAL_RANK": str(number)}
    return subprocess.Popen(
        [sys.executable, "-c", script],
        cwd=place,
        env={**environment, "CUDA_VISIBLE_DEVICES": "4,6"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


RANKS = """
import json, sys
from pathlib import Path
from monai_ext.engines.cross_validation import FoldRuns, end_if_stopped
from monai_ext.engines.fold_jobs import FoldJob
from monai_ext.engines.fold_process import Stop
from monai_ext.engines.fold_ranks import Rank
rank = Rank.from_environment()
jobs = [FoldJob(f, Path("out") / str(f), (f"case{f}",), {"fold": f, "output_dir": f"out/{f}"}) for f in range(3)]
runs = FoldRuns(Path("out"), rank, store=Path("store"), command=lambda a: [sys.executable, "fake.py", str(a)])
with Stop() as stop:
    failures = runs.train([jobs[f] for f in rank.share(range(3))], range(3), stop)
end_if_stopped(stop)
print(json.dumps(failures))
"""


def test_two_ranks_share_folds_gpus_and_preparation(place: Path) -> None:
    (place / "behave.json").write_text(json.dumps({"1": "fail"}))
    ranks = [start_rank(place, number, 2, RANKS) for number in range(2)]
    out = [rank.communicate(timeout=120) for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], out
    assert json.loads(out[0][0].splitlines()[-1]) == {"1": "no memory\n  - none at all"}
    done = calls(place)
    assert sorted(line for line in done if line.startswith("preprocessing")) == [
        f"preprocessing {fold} resume=False overwrite=False" for fold in (0, 1)
    ]
    assert sorted(line.split()[1] for line in done if line.startswith("train")) == ["0", "1", "2"]
    seen = json.loads((place / "out" / "0" / "environment.json").read_text())
    assert seen["CUDA_VISIBLE_DEVICES"] == "4"
    assert "RANK" not in seen
    assert not list((place / "out").glob(".rank*"))


def test_a_stopped_run_stops_its_fold_and_leaves_the_rest(place: Path) -> None:
    (place / "behave.json").write_text(json.dumps({"0": "hang"}))
    process = start_rank(place, 0, 1, RANKS)
    assert process.stdout is not None
    while process.stdout.readline() not in ("hanging\n", ""):
        pass
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert "go on with the same command" in out
    assert "KeyboardInterrupt" in err  # a script, not the command line: its caller decides
    assert (place / "saved").exists()
    assert [line.split()[1] for line in calls(place)] == ["0"]
    assert train(place) == {}
    assert calls(place)[0] == "train_and_evaluate 0 resume=True overwrite=False"


def test_stop_while_waiting_for_a_lock(place: Path) -> None:
    stop = Stop()
    runs = FoldRuns(place / "out", command=lambda args: ["false"])
    threading.Timer(0.3, lambda: setattr(stop, "received", signal.SIGTERM)).start()
    begun = time.monotonic()
    with FileLock(place / "out" / ".fold-0.lock", "fold 0"):
        assert runs.train(jobs(place), [0, 1, 2], stop) == {}
    assert time.monotonic() - begun < 30
    assert calls(place) == []


def test_gpus_are_those_that_are_visible(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2, 5")
    assert visible_gpus() == ["2", "5"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert visible_gpus() == []
