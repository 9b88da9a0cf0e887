"""Cards as a step of an evaluation."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ignite.engine import Engine, Events

from monai_ext.engines.data_note import note_data
from monai_ext.engines.model_card import ModelCard, note_training
from monai_ext.model_card.run_record import read_record
from recorded_runs import write_run


def evaluate(card: ModelCard, before: Any = None) -> None:
    """An evaluation of one case, whose scores are written when it has ended."""
    engine = Engine(lambda _engine, batch: batch)
    if before is not None:
        engine.add_event_handler(Events.COMPLETED, before)
    card.attach(engine)
    engine.run([0])


def test_card_comes_after_the_scores(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_run(tmp_path / "run", "nnunet", evaluated=False)
    (run / "evaluation").mkdir()
    scores = write_run(tmp_path / "scored", "nnunet") / "evaluation" / "summary.json"
    evaluate(ModelCard(run / "model.pt", run), lambda: scores.rename(run / "evaluation" / "summary.json"))
    text = (run / "docs" / "README.md").read_text()
    assert "0.8137" in text
    assert "Not evaluated" not in text
    assert capsys.readouterr().out == f"model card: {(run / 'docs' / 'README.md').resolve()}\n"
    assert set(read_record(run)) == {"data", "training", "evaluation"}


def test_an_evaluation_elsewhere_leaves_the_run_as_it_is(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", "nnunet")
    evaluate(ModelCard(run / "model.pt", tmp_path / "elsewhere"))
    evaluate(ModelCard(run / "model_final.pt", run))
    assert not (run / "docs" / "README.md").exists()
    assert not (tmp_path / "elsewhere").exists()
    assert "evaluation" not in read_record(run)


def test_scores_do_not_fail_with_their_card(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = write_run(tmp_path / "run", "nnunet")
    (run / "log.jsonl").write_text("{")
    with caplog.at_level(logging.WARNING):
        evaluate(ModelCard(run / "model.pt", run))
    assert "no model card" in caplog.text
    assert "log.jsonl" in caplog.text
    assert not (run / "docs" / "README.md").exists()


def test_of_several_processes_the_first_notes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    note_training(tmp_path, SimpleNamespace(state=SimpleNamespace(device="cpu")))
    assert read_record(tmp_path)["training"]["processes"] == 1
    calls: list[int] = []
    monkeypatch.setattr("monai_ext.engines.process_group.is_first", lambda: False)
    note_data(tmp_path, lambda: {"calls": calls.append(1)})
    assert os.listdir(tmp_path / "docs") == ["record.json"]
    assert "data" not in read_record(tmp_path)
    assert calls == []
