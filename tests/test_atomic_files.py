"""Files appear whole or not at all."""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from forked_child import KILLED, die_before, in_child, make_read_only, mount_small_disk
from monai_ext.atomic_files import (
    append_text,
    make_folder,
    remove_partials,
    replacing,
    save_tensors,
    write_cache,
    write_text,
)
from monai_ext.errors import InputError


def fail_halfway(path: Path) -> None:
    with replacing(path) as partial:
        partial.write_text("half")
        raise RuntimeError("disk")


def test_failure_keeps_the_old_file_and_leaves_nothing_behind(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.txt"
    write_text(path, "old\n")
    with pytest.raises(RuntimeError, match="disk"):
        fail_halfway(path)
    assert path.read_text() == "old\n"
    assert [p.name for p in path.parent.iterdir()] == ["a.txt"]


def test_temporary_name_keeps_the_ending(tmp_path: Path) -> None:
    with replacing(tmp_path / "scan.nii.gz") as partial:
        assert partial.name.endswith("scan.nii.gz")
        assert partial.parent == tmp_path
        partial.write_bytes(b"x")
    assert (tmp_path / "scan.nii.gz").read_bytes() == b"x"


def test_leftovers_of_a_kill_are_removed_and_nothing_else(tmp_path: Path) -> None:
    with replacing(tmp_path / "last.pt") as partial:
        partial.write_bytes(b"x")
        left = partial.with_name(partial.name.replace("last", "model"))
        left.write_bytes(b"half")
    (tmp_path / ".hidden").write_text("kept")
    remove_partials(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == [".hidden", "last.pt"]


def test_tensors_are_readable_as_plain_weights(tmp_path: Path) -> None:
    save_tensors(tmp_path / "m.pt", {"w": torch.ones(2), "n": 3})
    assert torch.load(tmp_path / "m.pt", weights_only=True)["n"] == 3


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o007, 0o660), (0o077, 0o600)])
def test_files_follow_the_umask(tmp_path: Path, umask: int, mode: int) -> None:
    before = os.umask(umask)
    try:
        write_text(tmp_path / "a.txt", "a")
        save_tensors(tmp_path / "a.pt", {})
        save_tensors(tmp_path / "a.pt", {}, previous=tmp_path / "b.pt")
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
    assert modes == {"a.txt": mode, "a.pt": mode, "b.pt": mode}


def test_content_is_synced_before_the_rename_and_the_folder_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []

    def noting(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(first: Any, *others: Any) -> Any:
            place = Path(f"/proc/self/fd/{first}").resolve() if isinstance(first, int) else Path(first)
            calls.append(f"{name} {'folder' if place.is_dir() else place.name[10:]}")
            return function(first, *others)

        return call

    for name in ("fsync", "link", "replace"):
        monkeypatch.setattr(os, name, noting(name, getattr(os, name)))
    write_text(tmp_path / "a.txt", "a")
    assert calls == ["fsync a.txt", "replace a.txt", "fsync folder"]
    calls.clear()
    make_folder(tmp_path / "x" / "y")
    assert calls == ["fsync folder"] * 2


def text_or_nothing(path: Path) -> str:
    return path.read_text() if path.exists() else ""


@pytest.mark.parametrize("links", [True, False], ids=["hard links", "no hard links"])
def test_kill_at_every_step_leaves_one_whole_file_and_the_previous(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    if not links:
        monkeypatch.setattr(os, "link", refuse_link)
    states = []
    for step in range(10):
        folder = tmp_path / str(step)
        path, previous = folder / "last.pt", folder / "last_previous.pt"
        write_text(path, "second")
        write_text(previous, "first")

        def body(path: Path = path, previous: Path = previous, step: int = step) -> None:
            die_before(step)
            with replacing(path, previous) as partial:
                partial.write_text("third")

        status = in_child(body, tmp_path / "report")
        states.append((text_or_nothing(path), text_or_nothing(previous)))
        if status == 0:
            break
        assert status == KILLED
        remove_partials(folder)
        assert {file.name for file in folder.iterdir()} <= {"last.pt", "last_previous.pt"}
    # before fsync, link, the two renames, fsync of the folder, at the end; the first state is that of no save at all
    if links:
        expected = [("second", "first")] * 3 + [("third", "first")] + [("third", "second")] * 2
    else:
        expected = [("second", "first")] * 3 + [("", "second")] + [("third", "second")] * 2
    assert states == expected


def refuse_link(*_: Any) -> None:
    raise OSError(errno.EPERM, "Operation not permitted")


def test_error_at_every_step_keeps_the_files_and_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, expected in (("fsync", "second"), ("link", "second"), ("replace", "second")):
        path, previous = tmp_path / name / "a.txt", tmp_path / name / "b.txt"
        write_text(path, "second")
        write_text(previous, "first")
        with monkeypatch.context() as patched:
            patched.setattr(os, name, fail_to_write)
            with pytest.raises(InputError, match=r"a.txt: cannot be written \(Input/output error, \d+ MB free\).*Cure"):
                write_with_previous(path, previous)
        assert (path.read_text(), previous.read_text()) == (expected, "first")
        assert len(list(path.parent.iterdir())) == 2


def write_with_previous(path: Path, previous: Path) -> None:
    with replacing(path, previous) as partial:
        partial.write_text("third")


def fail_to_write(*_: Any) -> None:
    raise OSError(errno.EIO, "Input/output error")


def test_full_disk_keeps_the_old_file_and_says_so(tmp_path: Path) -> None:
    def body() -> None:
        mount_small_disk(tmp_path, "1m")
        save_tensors(tmp_path / "m.pt", {"w": torch.ones(100_000)})
        for elements in (165_000, 200_000, 1_000_000):
            with pytest.raises(InputError, match=r"m.pt: cannot be written \(No space left on device, \d MB free\)"):
                save_tensors(tmp_path / "m.pt", {"w": torch.zeros(elements)}, previous=tmp_path / "previous.pt")
            assert [path.name for path in tmp_path.iterdir()] == ["m.pt"]
        assert torch.load(tmp_path / "m.pt", weights_only=True)["w"].sum() == 100_000
        save_tensors(tmp_path / "m.pt", {"w": torch.zeros(100_000)}, previous=tmp_path / "previous.pt")
        assert torch.load(tmp_path / "m.pt", weights_only=True)["w"].sum() == 0
        make_read_only(tmp_path)
        for name in ("m.pt", "new/m.pt"):
            with pytest.raises(InputError, match=r"cannot be written \(Read-only file system"):
                save_tensors(tmp_path / name, {})

    assert in_child(body, tmp_path.with_suffix(".report")) == 0


def test_file_larger_than_the_process_may_write(tmp_path: Path) -> None:
    def body() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        save_tensors(tmp_path / "m.pt", {"w": torch.ones(1_000)})
        for elements in (25_000, 200_000):
            with pytest.raises(InputError, match=r"cannot be written \(File too large"):
                save_tensors(tmp_path / "m.pt", {"w": torch.zeros(elements)})
        assert [path.name for path in tmp_path.iterdir()] == ["m.pt"]
        assert torch.load(tmp_path / "m.pt", weights_only=True)["w"].sum() == 1_000

    assert in_child(body, tmp_path.with_suffix(".report")) == 0


def test_folder_removed_in_the_middle_of_a_write_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"a.txt: cannot be written \(No such file or directory"):
        remove_folder_in_the_middle(tmp_path / "run" / "a.txt")


def test_folder_that_may_not_be_written_is_said_and_another_file_is_not(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"a.txt: cannot be written \(Permission denied, \d+ MB free\)"):
        refuse_while_writing(tmp_path / "a.txt", own=True)
    with pytest.raises(PermissionError, match=r"other\.txt"):
        refuse_while_writing(tmp_path / "a.txt", own=False)


def refuse_while_writing(path: Path, own: bool) -> None:
    with replacing(path) as partial:
        raise PermissionError(errno.EACCES, "Permission denied", str(partial if own else path.with_name("other.txt")))


def remove_folder_in_the_middle(path: Path) -> None:
    with replacing(path) as partial:
        partial.write_text("half")
        partial.unlink()
        path.parent.rmdir()


def test_what_the_writer_itself_raises_stays_as_it_is(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), replacing(tmp_path / "copy.txt") as partial:
        partial.write_bytes((tmp_path / "absent.txt").read_bytes())


def test_appended_text_is_there_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "disk" / "log.jsonl"

    def body() -> None:
        path.parent.mkdir()
        mount_small_disk(path.parent, "8k")  # two pages
        append_text(path, "a" * 3000 + "\n")
        with pytest.raises(InputError, match=r"log.jsonl: cannot be written \(No space left on device"):
            append_text(path, "b" * 9000 + "\n")
        assert path.read_text() == "a" * 3000 + "\n"  # not the part that there was room for
        append_text(path, "c\n")
        assert path.read_text().endswith("a\nc\n")

    assert in_child(body, tmp_path / "report") == 0


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_cache(tmp_path / "check.json", "{}")
    assert (tmp_path / "check.json").read_text() == "{}"

    def body() -> None:
        mount_small_disk(tmp_path, "64k")
        make_read_only(tmp_path)
        write_cache(tmp_path / "check.json", "{1}")
        assert "check.json: cannot be written (Read-only file system" in caplog.text
        assert "a later run does this work again" in caplog.text

    report = tmp_path.with_name(f"{tmp_path.name}-report")
    assert in_child(body, report) == 0


def test_libraries_that_hide_the_number_of_an_error_are_understood(tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(0, 255, (200, 200, 3)).astype(np.uint8)

    def body() -> None:
        mount_small_disk(tmp_path, "64k")
        for name, save in (
            ("a.npy", lambda partial: np.save(partial, array)),
            ("a.png", lambda partial: Image.fromarray(array).save(partial)),
            ("a.bin", lambda partial: array.tofile(partial)),
        ):
            with (
                pytest.raises(InputError, match=rf"{name}: cannot be written .*Cure"),
                replacing(tmp_path / name) as partial,
            ):
                save(partial)
        assert not list(tmp_path.iterdir())

    assert in_child(body, tmp_path.with_name(f"{tmp_path.name}-report")) == 0
