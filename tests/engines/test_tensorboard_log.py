"""Curves are worth less than the training: where they cannot be written, that goes on."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
from ignite.engine import Engine, Events

from forked_child import in_child, mount_small_disk
from monai_ext.engines.tensorboard_log import TensorBoardLog


class NoPicture:
    def compose(self) -> None:
        return None

    def forget(self) -> None:
        pass


def train(folder: Path, epochs: int, after_first: Any = lambda: None) -> int:
    """Epochs that an engine with a TensorBoard log does."""
    evaluator, trainer = Engine(lambda e, b: None), Engine(lambda e, b: None)

    def note(engine: Any) -> None:
        engine.state.epoch_means = {"loss": 1.0, **{f"part_{i}": float(i) for i in range(50)}}

    trainer.add_event_handler(Events.EPOCH_COMPLETED, note)
    log = TensorBoardLog(folder, evaluator, NoPicture())  # type: ignore[arg-type]
    log.attach(trainer)
    trainer.add_event_handler(Events.EPOCH_COMPLETED(once=1), lambda _: after_first())
    trainer.run([0], max_epochs=epochs)
    return int(trainer.state.epoch)


def test_curves_are_written(tmp_path: Path) -> None:
    assert train(tmp_path / "tensorboard", 2) == 2
    (events,) = (tmp_path / "tensorboard").iterdir()
    assert events.read_bytes().count(b"train/loss") == 2


def test_a_full_disk_ends_curves_only(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def body() -> None:
        mount_small_disk(tmp_path, "4k")
        with caplog.at_level(logging.WARNING):
            assert train(tmp_path / "tensorboard", 4) == 4
        assert caplog.text.count("so curves end here") == 1
        assert "No space left on device" in caplog.text

    report = tmp_path.with_name(f"{tmp_path.name}-report")
    assert in_child(body, report) == 0


def test_an_output_folder_that_is_no_folder_ends_curves_only(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "tensorboard").write_text("")
    assert train(tmp_path / "tensorboard", 2) == 2
    assert caplog.text.count("so curves end here") == 1
