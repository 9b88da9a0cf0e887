"""The log of epochs: one line each, also after a resume."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from ignite.engine import Engine, Events

from monai_ext.engines import progress_log
from monai_ext.engines.progress_log import ProgressLog, duration


@pytest.mark.parametrize(("seconds", "text"), [(None, "?"), (0, "0:00"), (61.4, "1:01"), (3723, "1:02:03")])
def test_duration(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


def classes(value: float) -> dict[str, object]:
    return {"class_score": "dice", "class_scores": {"a": value}}


def train(log_file: Path, epochs: int, first_step: int = 0, last_step: int = 0) -> list[dict[str, Any]]:
    """Three steps an epoch with losses 1, 2, 3; the second epoch is validated."""
    loss = SimpleNamespace(last_parts={})
    parameter = torch.nn.Parameter(torch.zeros(1))

    def step(engine: Engine, value: float) -> dict[str, torch.Tensor]:
        loss.last_parts = {"dice": torch.tensor(value / 2)}
        if engine.state.iteration == 6:
            engine.state.validation = {"iteration": 6, "name": "mean_dice", "score": 0.5, **classes(0.5)}
        if engine.state.iteration == last_step:
            engine.state.validation = {"iteration": last_step, "name": "mean_dice", "score": 0.7, **classes(0.7)}
            engine.terminate()
        return {"loss": torch.tensor(value)}

    engine = Engine(step)
    engine.optimizer = torch.optim.SGD([parameter], lr=0.1)
    budget = SimpleNamespace(max_minutes=0, seconds_left=None, seconds=60.0)
    ProgressLog(budget, loss, log_file, log_interval=1).attach(engine)  # type: ignore[arg-type]
    engine.state.iteration, engine.state.epoch = first_step, first_step // 3
    engine.state.max_epochs, engine.state.epoch_length = epochs, 3
    engine.run([1.0, 2.0, 3.0], max_epochs=epochs)
    return [json.loads(line) for line in log_file.read_text().splitlines()]


def test_row_holds_the_means_of_its_epoch(tmp_path: Path) -> None:
    rows = train(tmp_path / "log.jsonl", 2)
    first = rows[0]
    assert (first["epoch"], first["iteration"], first["loss"], first["dice"]) == (1, 3, 2.0, 1.0)
    assert rows[0]["learning_rate"] == 0.1
    assert rows[0]["minutes"] == 1.0
    assert rows[1]["mean_dice"] == 0.5
    assert rows[1]["class_dice"] == {"a": 0.5}
    assert rows[1]["dice"] == 1.0  # the Dice part of the loss keeps its column
    assert "mean_dice" not in rows[0]


@pytest.mark.parametrize("skipped", [[1], [2], [1, 2, 3]])
def test_skipped_steps_are_counted_and_left_out_of_the_means(tmp_path: Path, skipped: list[int]) -> None:
    """Step n has loss n, a skipped one NaN; the first step of an epoch is that which shows the bar's first text."""

    def step(engine: Engine, _: Any) -> dict[str, torch.Tensor]:
        number = engine.state.iteration
        engine.state.step_skipped = number in skipped
        return {"loss": torch.tensor(float("nan") if number in skipped else float(number))}

    engine = Engine(step)
    engine.optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    budget = SimpleNamespace(max_minutes=0, seconds=0.0, seconds_left=None)
    ProgressLog(budget, SimpleNamespace(), tmp_path / "log", log_interval=1).attach(engine)  # type: ignore[arg-type]
    engine.run([0, 1, 2], max_epochs=2)
    first, second = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert first["skipped_steps"] == len(skipped)
    left = {1, 2, 3} - set(skipped)
    assert first.get("loss") == (sum(left) / len(left) if left else None)
    assert second["loss"] == 5.0
    assert "skipped_steps" not in second


def test_bar_shows_loss_and_time_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []
    monkeypatch.setattr(progress_log.tqdm, "set_postfix_str", lambda _, text, refresh=True: shown.append(text))
    train(tmp_path / "log.jsonl", 1)
    assert shown == ["loss 1.000, ? left", "loss 1.500, ? left", "loss 2.000, ? left"]


def test_steps_done_again_have_one_line(tmp_path: Path) -> None:
    train(tmp_path / "log.jsonl", 3)
    rows = train(tmp_path / "log.jsonl", 4, first_step=6)
    assert [r["epoch"] for r in rows] == [1, 2, 3, 4]
    with open(tmp_path / "log.jsonl", "a") as file:
        file.write('{"epoch": 5, "iter')  # cut by a kill
    rows = train(tmp_path / "log.jsonl", 1)
    assert [r["epoch"] for r in rows] == [1]


def test_epoch_cut_short_by_the_budget_is_logged_with_its_validation(tmp_path: Path) -> None:
    rows = train(tmp_path / "log.jsonl", 9, last_step=8)
    assert [r["iteration"] for r in rows] == [3, 6, 8]
    assert rows[-1]["mean_dice"] == 0.7


def test_validation_after_the_last_epoch_joins_its_line(tmp_path: Path) -> None:
    """Three epochs, validated every two: the third is validated when training is over."""
    log = ProgressLog(
        SimpleNamespace(max_minutes=0, seconds=0.0, seconds_left=None), SimpleNamespace(), tmp_path / "log"
    )
    engine = Engine(lambda *_: {"loss": torch.tensor(1.0)})
    engine.optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)

    def validate(engine: Engine) -> None:
        step = engine.state.iteration
        engine.state.validation = {"iteration": step, "name": "mean_dice", "score": 0.9, **classes(0.9)}

    engine.add_event_handler(Events.COMPLETED, validate)
    log.attach(engine)
    engine.run([0, 1], max_epochs=3)
    rows = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    assert [row.get("mean_dice") for row in rows] == [None, None, 0.9]
    assert rows[-1]["class_dice"] == {"a": 0.9}
    assert rows[-1]["loss"] == 1.0
