"""What is told of a training that has ended without any score."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from monai_ext.engines.training_report import TrainingReport
from monai_ext.errors import InputError


def report(folder: Path, best: float) -> TrainingReport:
    """Of a training whose best score is known; nothing is drawn."""
    validation: Any = SimpleNamespace(
        best=best,
        best_epoch=2,
        best_class_scores={"a": best},
        last_class_scores={"a": best},
        class_score="dice",
        score_name="mean_dice",
        final_iteration=7,
    )
    plan: Any = SimpleNamespace(dataset="set", foreground_classes=("a",))
    tensorboard: Any = SimpleNamespace(picture=SimpleNamespace(compose=lambda *_: None), folder=folder)
    interruption: Any = SimpleNamespace(unfinished=False)
    return TrainingReport(folder, plan, validation, SimpleNamespace(seconds=60.0), tensorboard, interruption)  # type: ignore[arg-type]


TRAINER = SimpleNamespace(state=SimpleNamespace(iteration=7), last_event_name="completed")


def test_score_is_written_and_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report(tmp_path, 0.5).finish(TRAINER)
    assert '"mean_dice": 0.5' in (tmp_path / "metrics.json").read_text()
    assert "model.pt (epoch 2)" in capsys.readouterr().out


def test_training_without_a_finite_score_has_no_result(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no validation gave a finite mean_dice, so model\.pt was not written"):
        report(tmp_path, -math.inf).finish(TRAINER)
    assert list(tmp_path.iterdir()) == []
