"""Sessions of a few epochs, and static loss scales."""

from __future__ import annotations

from types import SimpleNamespace

import torch
from ignite.engine import Engine, Events

from monai_ext.engines.interruption import Interruption
from monai_ext.engines.loss_scale import LossScale, static_scaler
from monai_ext.engines.session_limit import SessionLimit


def run(run_epochs: int, max_epochs: int = 5) -> tuple[Engine, Interruption]:
    engine, interruption = Engine(lambda *_: None), Interruption()
    SessionLimit(run_epochs, interruption).attach(engine)
    engine.run([0, 1], max_epochs=max_epochs)
    return engine, interruption


def test_session_ends_after_its_epochs() -> None:
    engine, interruption = run(2)
    assert engine.state.epoch == 2
    assert interruption.unfinished
    assert interruption.received is None  # nothing to pass on to the shell


def test_last_session_ends_as_a_training_does() -> None:
    for run_epochs in (0, 5, 9):
        engine, interruption = run(run_epochs)
        assert engine.state.epoch == 5
        assert not interruption.unfinished


def test_session_counts_from_where_it_began() -> None:
    engine, interruption = Engine(lambda *_: None), Interruption()
    SessionLimit(2, interruption).attach(engine)
    engine.run([0, 1], max_epochs=1)
    assert not interruption.unfinished
    engine.run([0, 1], max_epochs=8)  # Ignite goes on where the last run ended
    assert engine.state.epoch == 3


def test_static_scale_neither_grows_nor_falls() -> None:
    scaler = static_scaler(128.0, device="cpu")
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], 1.0)
    for gradient in (1.0, float("inf"), 2.0):
        weight.grad = None
        scaler.scale(weight * gradient).sum().backward()
        scaler.step(optimizer)
        scaler.update()
        assert abs(scaler.get_scale() - 128) < 1e-3
    assert weight.item() == -3.0  # the overflow was left out


def test_trainer_gets_the_scale_when_it_starts() -> None:
    engine = Engine(lambda *_: None)
    engine.scaler = None
    LossScale(64.0).attach(engine)
    engine.add_event_handler(Events.STARTED, lambda e: None)
    engine.run([0], max_epochs=1)
    assert engine.scaler is None  # no mixed precision, no scaler
    trainer = SimpleNamespace(scaler=static_scaler(1.0, device="cpu"))
    LossScale(64.0, "cpu")(trainer)
    assert trainer.scaler._init_scale == 64.0
