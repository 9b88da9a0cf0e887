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


def test_training_that_ends_early_is_no_error(tmp_path: Path) -> None:
    train(Profile("trace", tmp_path, skip_steps=3, active_steps=5), steps=2)


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
