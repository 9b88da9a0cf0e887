"""Damaged files of weights are noticed before they are unpickled, and the older one takes over."""

from __future__ import annotations

import logging
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from monai_ext.atomic_files import save_tensors
from monai_ext.engines import checkpoint_files
from monai_ext.engines.checkpoint_files import UnreadableCheckpoint, damage, load_newest, load_tensors
from monai_ext.errors import InputError


@pytest.fixture
def pair(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / "last.pt", tmp_path / "last_previous.pt"]
    for number, path in zip((2, 1), paths, strict=True):
        save_tensors(path, {"weight": torch.full((200,), float(number)), "iteration": number})
    return paths


def cut(path: Path, length: int) -> None:
    path.write_bytes(path.read_bytes()[:length])


def flip(path: Path, bit: int) -> None:
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(bytes(content))


def refuse_to_unpickle(*_: Any, **__: Any) -> None:
    raise AssertionError("a damaged file was unpickled")


def test_damaged_files_are_not_unpickled(pair: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    draw = random.Random(0)
    whole = pair[0].read_bytes()
    monkeypatch.setattr(torch, "load", refuse_to_unpickle)
    for _ in range(100):
        for spoil, limit in ((cut, len(whole)), (flip, 8 * len(whole))):
            pair[0].write_bytes(whole)
            spoil(pair[0], draw.randrange(limit))
            with pytest.raises(UnreadableCheckpoint, match=r"last.pt: not a readable checkpoint \(.*Cure: train again"):
                load_tensors(pair[0], "train again")
            assert damage(pair[0])


def test_whole_files_are_read_without_a_word(pair: list[Path], caplog: pytest.LogCaptureFixture) -> None:
    found = load_newest(pair, "")
    assert found is not None
    assert (found[0]["iteration"], found[1]) == (2, pair[0])
    assert damage(pair[0]) == ""
    assert caplog.records == []


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda path: cut(path, 700), "last.pt: not a readable checkpoint (is cut off, or no file of torch.save)"),
        (lambda path: cut(path, 0), "last.pt: not a readable checkpoint (is cut off, or no file of torch.save)"),
        (lambda path: flip(path, 6000), "last.pt: not a readable checkpoint (its content differs from its checksum)"),
        (Path.unlink, "last.pt is missing"),
    ],
    ids=["cut", "emptied", "flipped", "removed"],
)
def test_previous_takes_over_with_a_warning(
    pair: list[Path], caplog: pytest.LogCaptureFixture, spoil: Callable[[Path], None], reason: str
) -> None:
    spoil(pair[0])
    found = load_newest(pair, "")
    assert found is not None
    assert (found[0]["iteration"], found[1]) == (1, pair[1])
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage() == f"{pair[0].parent}/{reason}: {pair[1]} is used, what was done after it is done again"


def test_both_damaged_are_one_error(pair: list[Path]) -> None:
    cut(pair[0], 100)
    flip(pair[1], 4000)
    with pytest.raises(UnreadableCheckpoint) as raised:
        load_newest(pair, "restore a copy")
    folder = pair[0].parent
    assert str(raised.value).splitlines() == [
        f"{folder}: no checkpoint can be read:",
        f"  - {pair[0]}: not a readable checkpoint (is cut off, or no file of torch.save)",
        f"  - {pair[1]}: not a readable checkpoint (its content differs from its checksum)",
        "Cure: restore a copy",
    ]


def test_no_file_at_all_is_no_error(tmp_path: Path) -> None:
    assert load_newest([tmp_path / "last.pt", tmp_path / "last_previous.pt"], "") is None


@pytest.mark.parametrize("modern", [True, False], ids=["zip", "pickle"])
def test_file_of_an_earlier_version_is_read_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, modern: bool
) -> None:
    path = tmp_path / "last.pt"
    torch.save({"iteration": 3}, path, _use_new_zipfile_serialization=modern)
    if modern:
        assert load_newest([path], "")[0]["iteration"] == 3  # type: ignore[index]
        assert "last.pt has no checksum" in caplog.text
    caplog.clear()
    assert load_tensors(path, "")["iteration"] == 3
    assert caplog.records == []  # weights from elsewhere never have one


def test_flipped_bit_in_a_file_of_an_earlier_version_is_noticed(tmp_path: Path) -> None:
    path, draw = tmp_path / "last.pt", random.Random(3)
    torch.save({"weight": torch.ones(1000)}, path)
    content = path.read_bytes()
    start = content.index(torch.ones(1000).numpy().tobytes())
    for _ in range(50):
        path.write_bytes(content)
        flip(path, draw.randrange(8 * start, 8 * (start + 4000)))
        with pytest.raises(UnreadableCheckpoint, match="differs from its CRC-32"):
            load_newest([path], "")


def test_unpickler_never_answers_with_another_error(tmp_path: Path) -> None:
    """Without a checksum PyTorch's unpickler meets the damage: of the many errors that it raises one comes out."""
    path, draw, outcomes = tmp_path / "m.pt", random.Random(4), set()
    for modern in (True, False):
        torch.save({"w": torch.ones(3), "n": [1, "x"]}, path, _use_new_zipfile_serialization=modern)
        content = path.read_bytes()
        start = content.index(b"\x80\x02")
        for _ in range(400):
            damaged = bytearray(content)
            for _ in range(draw.randint(1, 4)):
                damaged[draw.randrange(start + 2, min(start + 300, len(content)))] = draw.randrange(256)
            path.write_bytes(bytes(damaged))
            try:
                load_tensors(path, "")
                outcomes.add("read")
            except UnreadableCheckpoint:
                outcomes.add("refused")
    assert outcomes == {"read", "refused"}


def test_file_that_may_not_be_read_is_not_called_damaged(pair: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(checkpoint_files, "check_archive", refuse)
    with pytest.raises(InputError, match=r"last.pt: may not be read \(Permission denied\)") as raised:
        load_newest(pair, "")
    assert not isinstance(raised.value, UnreadableCheckpoint)


def test_missing_file_and_folder_in_its_place(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"m.pt: checkpoint not found. Cure: train first"):
        load_tensors(tmp_path / "m.pt", "train first")
    (tmp_path / "m.pt").mkdir()
    with pytest.raises(InputError, match="checkpoint not found"):
        load_tensors(tmp_path / "m.pt", "train first")
    shutil.rmtree(tmp_path / "m.pt")
    assert damage(tmp_path / "m.pt") == "No such file or directory"
