"""Profiles of a training."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from ignite.engine import Engine

from monai_ext.engines.profiling import Profile
from monai_ext.errors import InputError


def train(profile: Profile, steps: int) -> Engine:
    weight = torch.nn.Parameter(torch.ones(64, 64))
    engine = Engine(lambda _, x: float((weight @ x).sum().detach()))
    profile.attach(engine)
    engine.run([torch.ones(64, 64)] * steps, max_epochs=1)
    return engine


def test_trace_holds_the_operations_of_the_steps(tmp_path: Path) -> None:
    train(Profile("trace", tmp_path, skip_steps=1, active_steps=2), steps=8)
    (trace,) = tmp_path.glob("*.pt.trace.json")
    names = [event.get("name", "") for event in json.loads(trace.read_text())["traceEvents"]]
    assert names.count("aten::matmul") == 2


def test_training_that_ends_early_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    train(Profile("trace", tmp_path, skip_steps=3, active_steps=5), steps=2)
    assert list(tmp_path.iterdir()) == []
    assert "ended after 2 steps, before any was recorded" in caplog.text


def test_resumed_training_is_recorded_too(tmp_path: Path) -> None:
    engine = Engine(lambda _, x: x @ x)
    Profile("trace", tmp_path, skip_steps=1, active_steps=2).attach(engine)
    engine.load_state_dict({"epoch_length": 20, "max_epochs": 2, "iteration": 20})
    engine.run([torch.ones(8, 8)] * 20, max_epochs=2)
    assert len(list(tmp_path.glob("*.pt.trace.json"))) == 1


def test_error_of_a_step_is_not_hidden(tmp_path: Path) -> None:
    def fail(*_: object) -> None:
        raise ValueError("bad step")

    engine = Engine(fail)
    profile = Profile("trace", tmp_path)
    profile.attach(engine)
    with pytest.raises(ValueError, match="bad step"):
        engine.run([1, 2], max_epochs=1)
    train(Profile("trace", tmp_path, skip_steps=1, active_steps=2), steps=8)  # the first profiler was released
    assert len(list(tmp_path.glob("*.pt.trace.json"))) == 1


def test_nvtx_marks_epochs_iterations_and_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    marks: list[str] = []

    class Nvtx:
        def rangePushA(self, name: str) -> int:  # noqa: N802 - the library's name
            marks.append(name)
            return len(marks)

        def rangePop(self) -> None:  # noqa: N802
            marks.append("end")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr("monai.handlers.nvtx_handlers._nvtx", Nvtx())
    train(Profile("nvtx"), steps=1)
    assert marks == ["epoch", "batch", "end", "iteration", "end", "end"]


def test_off_attaches_nothing(tmp_path: Path) -> None:
    plain = Engine(lambda _, x: x)
    handlers = {event: len(h) for event, h in plain._event_handlers.items()}
    Profile("off", tmp_path).attach(plain)
    assert {event: len(h) for event, h in plain._event_handlers.items()} == handlers
    assert list(tmp_path.iterdir()) == []


def test_impossible_kinds_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="one of off, nvtx, trace"):
        Profile("everything")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match="profile trace"):
        Profile("nvtx")
