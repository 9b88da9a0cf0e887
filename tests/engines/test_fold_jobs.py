"""Folds of a running config: folders, commands, and when one counts as finished."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from monai_ext.engines.fold_jobs import COMMAND_FILE, DONE_FILE, FoldConfig, FoldJob
from monai_ext.engines.fold_process import Stop
from monai_ext.engines.fold_ranks import Rank, RankFiles
from monai_ext.errors import InputError
from monai_ext.file_digest import file_sha256

BASE = {
    "dataset_dir": "data",
    "output_dir": "$'runs/' + @dataset_dir + '/' + str(@fold)",
    "fold": 0,
    "nfolds": 3,
    "splits_file": "",
    "cv_folds": [],
    "save_preds": False,
    "postprocess": True,
    "pred_format": "nii",
    "max_epochs": "$2 * @nfolds",
    "network": {"features": 4, "act": "relu"},
    "training": ["$1", "$2"],
    "run": "%training",
    "source": {
        "_target_": "types.SimpleNamespace",
        "fold": {"_target_": "types.SimpleNamespace", "val": "$['case' + str(@fold)]"},
    },
}


def config(folder: Path, **changes: Any) -> FoldConfig:
    """What a running workflow holds after the base file was merged with changes and parsed."""
    from monai.bundle import ConfigParser

    base = folder / "train.json"
    base.write_text(json.dumps(BASE))
    parser = ConfigParser()
    parser.read_config(str(base))
    for key, value in changes.items():
        parser[key] = value
    parser.parse()
    return FoldConfig(parser.get(), base)


def test_default_folder_changes_with_the_fold(tmp_path: Path) -> None:
    found = config(tmp_path)
    assert [found.folder(fold) for fold in (0, 2)] == [Path("runs/data/0"), Path("runs/data/2")]
    assert found.summary_folder() == Path("runs/data/cross_validation")
    assert found.config["fold"] == 0


def test_given_folder_holds_all_folds(tmp_path: Path) -> None:
    found = config(tmp_path, output_dir="out")
    assert [found.folder(fold) for fold in (0, 2)] == [Path("out/0"), Path("out/2")]
    assert found.summary_folder() == Path("out")


def test_command_holds_what_was_changed_and_nothing_else(tmp_path: Path) -> None:
    job = config(tmp_path, max_epochs=7, network={"features": 8, "act": "relu"}).job(2)
    assert job.cases == ("case2",)
    assert job.arguments == {
        "config_file": str(tmp_path / "train.json"),
        "max_epochs": 7,
        "network": {"features": 8, "act": "relu"},
        "fold": 2,
        "output_dir": "runs/data/2",
        "save_preds": True,
        "postprocess": False,
    }


def test_label_maps_are_written_whatever_the_format(tmp_path: Path) -> None:
    assert config(tmp_path, pred_format="npy").job(0).arguments["pred_format"] == "nii+npy"


def test_folds_are_chosen(tmp_path: Path) -> None:
    assert config(tmp_path).chosen_folds() == [0, 1, 2]
    assert config(tmp_path, cv_folds=[2, 0]).chosen_folds() == [0, 2]
    assert config(tmp_path, cv_folds=1).chosen_folds() == [1]
    with pytest.raises(InputError, match=r"no folds \[3\]. Cure: folds from 0 to 2"):
        config(tmp_path, cv_folds=[0, 3]).chosen_folds()
    splits = tmp_path / "splits.json"
    splits.write_text(json.dumps([{}, {}]))
    assert config(tmp_path, splits_file=str(splits)).chosen_folds() == [0, 1]
    with pytest.raises(InputError, match="cannot be read"):
        config(tmp_path, splits_file="none.json").chosen_folds()


def finished(folder: Path, arguments: dict[str, Any] | None = None) -> FoldJob:
    job = FoldJob(1, folder, ("a", "b"), arguments or {"max_epochs": 3, "num_workers": 0})
    (folder / "evaluation").mkdir(parents=True)
    for name in ("last.pt", "model.pt"):
        (folder / name).write_bytes(b"weights")
    (folder / "metrics.json").write_text("{}")
    for case in job.cases:
        (folder / "evaluation" / f"{case}.nii.gz").write_bytes(b"x")
    (folder / "evaluation" / "metrics.json").write_text(json.dumps({"a": {}, "b": {}}))
    (folder / "evaluation" / "summary.json").write_text(json.dumps({"model_sha256": file_sha256(job.model)}))
    return job


def test_finished_with_and_without_a_command_of_its_own(tmp_path: Path) -> None:
    job = finished(tmp_path / "1")
    assert job.missing() == ""  # trained by hand
    assert job.write_command("train_and_evaluate", True, False) == tmp_path / "1" / COMMAND_FILE
    assert json.loads(job.command_file.read_text()) == {
        "run_id": "train_and_evaluate", "max_epochs": 3, "num_workers": 0, "resume": True, "overwrite": False,
    }  # fmt: skip
    assert job.missing() == "the training with the present keys"
    job.note_done()
    assert job.missing() == ""
    assert FoldJob(1, job.folder, job.cases, {"max_epochs": 3, "num_workers": 4}).missing() == ""
    assert FoldJob(1, job.folder, job.cases, {"max_epochs": 4}).missing() == "the training with the present keys"


@pytest.mark.parametrize(
    ("change", "missing"),
    [
        ("rm last.pt metrics.json", "the training"),
        ("rm model.pt", "the rest of the training"),
        ("rm metrics.json", "the rest of the training"),
        ("newer last.pt", "the rest of the training"),
        ("write model.pt", "the evaluation of model.pt"),
        ("rm evaluation/summary.json", "the evaluation of model.pt"),
        ("write evaluation/metrics.json", "the evaluation of all validation cases"),
        ("rm evaluation/b.nii.gz", "the predicted label maps"),
    ],
)
def test_what_is_missing_is_named(tmp_path: Path, change: str, missing: str) -> None:
    job = finished(tmp_path)
    verb, *names = change.split()
    for name in names:
        path = tmp_path / name
        if verb == "rm":
            path.unlink()
        elif verb == "write":
            path.write_bytes(b"{}")
        else:
            later = (tmp_path / "metrics.json").stat().st_mtime_ns + 10**9
            os.utime(path, ns=(later, later))
    assert job.missing() == missing


def test_copied_folders_without_last_checkpoint_count(tmp_path: Path) -> None:
    job = finished(tmp_path)
    (tmp_path / "last.pt").unlink()
    (tmp_path / "evaluation" / "b.nii.gz").rename(tmp_path / "evaluation" / "b.png")
    assert job.missing() == ""
    assert not (tmp_path / DONE_FILE).exists()


def test_ranks_share_the_folds(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    assert Rank.from_environment() == Rank(0, 1, 0)
    shares = []
    for number in range(3):
        monkeypatch.setenv("RANK", str(number))
        monkeypatch.setenv("WORLD_SIZE", "3")
        shares.append(Rank.from_environment().share([0, 1, 2, 3, 4]))
    assert shares == [[0, 3], [1, 4], [2]]
    monkeypatch.setenv("RANK", "3")
    with pytest.raises(InputError, match="do not fit together"):
        Rank.from_environment()
    monkeypatch.setenv("RANK", "x")
    with pytest.raises(InputError, match="torchrun"):
        Rank.from_environment()


def test_first_rank_hears_of_the_others(tmp_path: Path) -> None:
    first = RankFiles(tmp_path, Rank(0, 3))
    for number in (1, 2):
        other = RankFiles(tmp_path, Rank(number, 3))
        other.done({number: "broken"} if number == 2 else {})
    assert first.wait([0, 1, 2], Stop(), 0.01) == {2: "broken"}
    first.remove()
    assert list(tmp_path.iterdir()) == []


def test_silent_and_outdated_ranks_are_given_up(tmp_path: Path) -> None:
    old = RankFiles(tmp_path, Rank(1, 3))
    old.done({})
    past = (tmp_path / ".rank-1.json").stat().st_mtime - 3600
    os.utime(tmp_path / ".rank-1.json", (past, past))
    first = RankFiles(tmp_path, Rank(0, 3), patience=0.2)
    failures = first.wait([0, 1, 2, 3, 4], Stop(), 0.05)
    assert sorted(failures) == [1, 2, 4]
    assert "rank 1 gave no sign of life" in failures[4]


def test_waiting_ends_with_a_signal(tmp_path: Path) -> None:
    stop = Stop()
    stop.received = 15
    assert RankFiles(tmp_path, Rank(0, 2)).wait([0, 1], stop) == {}


def test_other_keys_than_those_it_was_finished_with_are_named(tmp_path: Path) -> None:
    """A longer training may go on; another network, loss or dataset is another training."""
    arguments = {"max_epochs": 5, "init": "he", "tta": False, "num_workers": 1}
    job = FoldJob(0, tmp_path, ("a",), arguments)
    (tmp_path / "last.pt").touch()
    assert job.changed_keys() == []  # never finished
    job.note_done()
    longer = {**arguments, "max_epochs": 9, "tta": True, "num_workers": 3}
    assert FoldJob(0, tmp_path, ("a",), longer).changed_keys() == []
    other = FoldJob(0, tmp_path, ("a",), {**longer, "init": "glorot", "dataset_dir": "b"})
    assert other.changed_keys() == ["dataset_dir as in the bundle -> b", "init he -> glorot"]
    (tmp_path / "last.pt").unlink()
    assert other.changed_keys() == []  # nothing to mix with


def test_evaluation_with_other_keys_is_missing(tmp_path: Path) -> None:
    """Such as eight views by hand for one fold of a cross-validation without."""
    for name in ("model.pt", "metrics.json"):
        (tmp_path / name).write_text("{}")
    evaluation = tmp_path / "evaluation"
    evaluation.mkdir()
    (evaluation / "metrics.json").write_text('{"a": {}}')
    summary = {"model_sha256": file_sha256(tmp_path / "model.pt"), "tta": True, "roi_size": []}
    (evaluation / "summary.json").write_text(json.dumps(summary))

    def missing(**keys: Any) -> str:
        return FoldJob(0, tmp_path, ("a",), label_maps=False, evaluation=keys).missing()

    assert missing(tta=True, roi_size=(), overlap=0.5) == ""
    assert missing(tta=False) == "the evaluation with the present keys"
    assert missing(tta=True, roi_size=[60]) == "the evaluation with the present keys"


def test_model_that_is_evaluated_follows_the_config(tmp_path: Path) -> None:
    found = config(tmp_path, ckpt_path="$@output_dir + '/model_final.pt'").job(1)
    assert found.model == Path("runs/data/1/model_final.pt")
    assert config(tmp_path).job(1).model.name == "model.pt"
