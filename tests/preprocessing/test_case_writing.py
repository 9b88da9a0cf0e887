from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from monai_ext.datasets.image_files import Geometry
from monai_ext.preprocessing import case_writing
from monai_ext.preprocessing.case_preprocessing import Placement
from monai_ext.preprocessing.case_store import CaseStore
from monai_ext.preprocessing.case_writing import write_case
from monai_ext.preprocessing.storage_errors import FULL, StorageError
from monai_ext.preprocessing.unfinished_writes import remove_leftovers

SHAPE = (8, 9, 10)
GEOMETRY = Geometry.from_affine(np.diag([1.0, 2.0, 3.0, 1.0]), (10, 9, 8))
PLACEMENT = Placement(SHAPE, ((0, 8), (0, 9), (0, 10)), SHAPE)


def write(folder: Path, name: str = "a", value: float = 0, label: bool = True) -> np.ndarray:
    image = np.random.default_rng(0).normal(value, 1, (2, *SHAPE)).astype(np.float32)
    description = {"geometry": GEOMETRY.to_dict(), "placement": PLACEMENT.to_dict()}
    labels = np.ones(SHAPE, dtype=np.uint8) if label else None
    write_case(folder, name, image, labels, {1: np.zeros((5, 3), dtype=np.int32)}, description)
    return image


def hidden(folder: Path) -> list[str]:
    return [p.name for p in folder.rglob("*") if p.name.startswith(".")]


def test_replaces_an_older_version(tmp_path: Path) -> None:
    write(tmp_path)
    mapped = CaseStore(tmp_path).load("a").image
    old = np.array(mapped)
    new = write(tmp_path, value=9)
    np.testing.assert_array_equal(CaseStore(tmp_path).load("a").image, new)
    np.testing.assert_array_equal(mapped, old)  # who reads the old version goes on reading it
    assert hidden(tmp_path) == []


@pytest.mark.parametrize("existing", [False, True])
@pytest.mark.parametrize("when", [1, 2])
def test_interrupted_writes_leave_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, existing: bool, when: int
) -> None:
    if existing:
        write(tmp_path)
    calls = []
    real = os.replace

    def interrupted(source: Path, target: Path) -> None:
        calls.append(target)
        if len(calls) == when:
            raise KeyboardInterrupt
        real(source, target)

    monkeypatch.setattr(os, "replace", interrupted)
    if when == 2 and not existing:
        write(tmp_path)  # a new case needs one rename only
    else:
        with pytest.raises(KeyboardInterrupt):
            write(tmp_path, value=9)
    monkeypatch.undo()
    for name in CaseStore(tmp_path).names:
        CaseStore(tmp_path).verify(name)
    remove_leftovers(tmp_path)
    assert hidden(tmp_path) == []


@pytest.mark.skipif(os.name != "posix", reason="sends a POSIX signal")
def test_killed_writer_leaves_no_case_and_is_cleaned_up(tmp_path: Path) -> None:
    program = f"""
import os, signal, sys
sys.path.insert(0, {str(Path(case_writing.__file__).parents[2])!r})
import numpy as np
from monai_ext.preprocessing import case_writing
case_writing._put_in_place = lambda *paths: os.kill(os.getpid(), signal.SIGKILL)
case_writing.write_case(case_writing.Path({str(tmp_path)!r}), "a", np.zeros((1, 4, 4, 4), np.float32), None, {{}}, {{}})
"""
    killed = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    assert CaseStore(tmp_path).names == []
    assert len(list(tmp_path.iterdir())) == 1
    assert len(remove_leftovers(tmp_path)) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", sorted(FULL))
def test_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    write(tmp_path)

    def full(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(
        StorageError, match=rf"{tmp_path}: no space left.*case b.*needs 0\.0 MB.*free.*Cure: .*store_dir"
    ):
        write(tmp_path, "b")
    assert CaseStore(tmp_path).names == ["a"]
    assert hidden(tmp_path) == []


def test_file_size_limit(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource", reason="needs a POSIX file-size limit")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4000, hard))
    try:
        with pytest.raises(StorageError, match="no space left"):
            write(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert list(tmp_path.iterdir()) == []


def fill(folder: Path) -> None:
    for number in range(20):
        write(folder, f"case_{number}")


def test_really_full_disk(tmp_path: Path) -> None:
    mounted = tmp_path / "small"
    mounted.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(mounted)]
    try:
        made = subprocess.run(command, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        made = False
    if not made:
        pytest.skip("needs the right to mount a small tmpfs")
    try:
        with pytest.raises(StorageError, match="Cure"):
            fill(mounted)
        assert hidden(mounted) == []
        names = CaseStore(mounted).names
        assert names
        for name in names:
            CaseStore(mounted).verify(name)
    finally:
        subprocess.run(["umount", str(mounted)], check=True)


def test_folder_without_rights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "denied")

    monkeypatch.setattr(np, "save", denied)
    with pytest.raises(StorageError, match=r"cannot be written.*Cure"):
        write(tmp_path)
