"""What torchrun starts again goes on by itself; what a person starts again is asked what is meant."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from monai_ext.datasets.folds import Fold
from monai_ext.engines import process_group
from monai_ext.engines.launch_record import LAUNCH_FILE, begun_by_this_launch, note_launch
from monai_ext.engines.run_protection import protect_training, release_folder
from monai_ext.engines.sample_stream import SampleStream
from monai_ext.engines.training_checkpoint import TrainingCheckpoint
from monai_ext.errors import InputError
from monai_ext.planning.msd_plans import named_plan
from rank_processes import on_ranks


@pytest.fixture(autouse=True)
def nothing_left(tmp_path: Path) -> Iterator[None]:
    yield
    process_group._at_finish.clear()
    release_folder(tmp_path)


@pytest.fixture
def torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process was started by torchrun."""
    monkeypatch.setattr(process_group, "_launchers", frozenset({"torchrun 1"}))


class Engine(SimpleNamespace):
    def add_event_handler(self, *_: Any) -> None:
        """The tests call the handlers themselves."""


def attached(folder: Path, iteration: int = 0, **options: Any) -> tuple[TrainingCheckpoint, Engine]:
    engine = Engine(state=SimpleNamespace(iteration=iteration, epoch=0, epoch_length=10), scaler=None)
    parts = {"network": torch.nn.Linear(2, 2)}
    handler = TrainingCheckpoint(folder, named_plan("04"), parts, SampleStream(5, 2), **options)
    handler.attach(engine)  # type: ignore[arg-type]
    return handler, engine


def test_started_again_it_goes_on(tmp_path: Path, torchrun: None) -> None:
    handler, engine = attached(tmp_path, iteration=24)
    handler.save(engine)
    assert attached(tmp_path)[1].state.iteration == 24
    process_group.finish()
    assert not (tmp_path / LAUNCH_FILE).exists()
    with pytest.raises(InputError, match=r"already holds a training.*--resume True"):
        attached(tmp_path)


def test_a_training_of_before_is_not_gone_on_with(
    tmp_path: Path, torchrun: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    handler, engine = attached(tmp_path, iteration=24)
    handler.save(engine)
    monkeypatch.setattr(process_group, "_launchers", frozenset({"torchrun 2"}))  # the first one was killed
    for _ in range(2):  # it fails, is started again, and fails as before
        with pytest.raises(InputError, match="already holds a training"):
            attached(tmp_path)
    assert attached(tmp_path, resume=True)[1].state.iteration == 24
    assert attached(tmp_path)[1].state.iteration == 24  # now it is this launch's


def test_overwrite_sets_aside_once(tmp_path: Path, torchrun: None) -> None:
    plan, fold = named_plan("04"), Fold(("a",), ("b",))
    (tmp_path / "last.pt").write_bytes(b"of another training")
    protect_training(tmp_path, plan, fold, overwrite=True)
    assert (tmp_path / "previous-1" / "last.pt").read_bytes() == b"of another training"
    protect_training(tmp_path, plan, fold, overwrite=True)  # started again before there was anything
    handler, engine = attached(tmp_path, iteration=24)
    handler.save(engine)
    protect_training(tmp_path, plan, fold, overwrite=True)  # started again
    assert attached(tmp_path)[1].state.iteration == 24
    assert not (tmp_path / "previous-2").exists()


def test_a_machine_that_joins_goes_on_too(tmp_path: Path, torchrun: None, monkeypatch: pytest.MonkeyPatch) -> None:
    note_launch(tmp_path)
    both = frozenset({"torchrun 1", "torchrun of the new machine"})
    monkeypatch.setattr(process_group, "_launchers", both)
    assert begun_by_this_launch(tmp_path)
    note_launch(tmp_path)
    monkeypatch.setattr(process_group, "_launchers", both - {"torchrun 1"})  # the old machine is lost
    assert begun_by_this_launch(tmp_path)
    assert json.loads((tmp_path / LAUNCH_FILE).read_text())["launchers"] == sorted(both)


def _of_ranks(folder: Path, launcher: str) -> tuple[bool, bool, bool]:
    process_group._launchers = frozenset({launcher})
    before = begun_by_this_launch(folder)
    process_group.barrier()
    if process_group.is_first():
        note_launch(folder)
    process_group.barrier()
    after = begun_by_this_launch(folder)
    process_group._launchers = frozenset({"another"})
    return before, after, begun_by_this_launch(folder)


def test_the_note_goes_when_all_have_ended(tmp_path: Path) -> None:
    assert on_ranks(_of_ranks, 2, tmp_path, "torchrun 1") == [(False, True, False)] * 2
    assert list(tmp_path.iterdir()) == []


def test_without_torchrun_nothing_is_noted(tmp_path: Path) -> None:
    note_launch(tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert not begun_by_this_launch(tmp_path)


@pytest.mark.usefixtures("torchrun")
@pytest.mark.parametrize("content", ["", "[]", '{"launchers": 3}', '{"launchers": ["torchrun 2"]}'])
def test_a_damaged_or_foreign_note_is_none(tmp_path: Path, content: str) -> None:
    (tmp_path / LAUNCH_FILE).write_text(content)
    assert not begun_by_this_launch(tmp_path)
