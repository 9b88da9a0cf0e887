"""What runs note for their cards."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

import monai_ext
from monai_ext.model_card import run_record
from monai_ext.model_card.run_record import add_to_record, circumstances, read_record, typed_command


def test_entries_are_added_and_replaced(tmp_path: Path) -> None:
    assert read_record(tmp_path) == {}
    add_to_record(tmp_path, "data", {"cases": 3})
    add_to_record(tmp_path, "training", {"device": "é"})
    add_to_record(tmp_path, "data", {"cases": 4})
    assert read_record(tmp_path) == {"data": {"cases": 4}, "training": {"device": "é"}}
    assert [path.name for path in (tmp_path / "docs").iterdir()] == ["record.json"]


@pytest.mark.parametrize("damage", [b"{", b"[]", b"\xff", b'{"data": 1}'])
def test_a_damaged_record_is_begun_anew(damage: bytes, tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "record.json").write_bytes(damage)
    assert read_record(tmp_path) == {}
    add_to_record(tmp_path, "data", {"cases": 4})
    assert read_record(tmp_path) == {"data": {"cases": 4}}


def test_circumstances_of_this_process() -> None:
    found = circumstances("cpu")
    assert found["versions"]["torch"] == torch.__version__
    assert found["versions"]["monai_ext"] == monai_ext.__version__
    assert found["versions"]["Python"] == ".".join(map(str, sys.version_info[:3]))
    assert all(found["versions"].values())
    assert found["processes"] == 1
    assert found["command"] == ""  # pytest runs, not the bundle
    assert "threads" in found["device"]


def test_the_command_without_the_places_of_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    monkeypatch.setattr("monai_ext.engines.workflow.from_command_line", lambda: True)
    words = [
        "/usr/bin/python", "-u", "-m", "monai.bundle", "run", "training", "--config_file",
        f"['{tmp_path}/here/b/train.json','{tmp_path}/here/b/x.json']", "--dataset_dir", f"{tmp_path}/my data", "--x",
        "$1", "--a", f"{tmp_path}", "--b", f"{tmp_path}/here", "--c", "/mnt/nas/Müller/scan 1",
        "--d", "['/a/b/c.json','1/2']",
        "--rate", "1/3",
    ]  # fmt: skip
    monkeypatch.setattr(run_record.sys, "orig_argv", words)
    expected = (
        "python -m monai.bundle run training --config_file \"['b/train.json','b/x.json']\" "
        "--dataset_dir '~/my data' --x '$1' --a '~' --b . --c '.../scan 1' --d \"['.../c.json','1/2']\" --rate 1/3"
    )
    assert typed_command() == expected
    monkeypatch.setattr(run_record.sys, "orig_argv", ["/usr/bin/python", "train.py"])
    assert typed_command() == ""
