"""Every kind of file that is written gets the permissions of the umask: shared folders stay shared, private ones so."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import monai_ext
from monai_ext.atomic_files import save_tensors, write_text
from monai_ext.datasets.em_writing import write_stack
from monai_ext.datasets.geometry import Geometry
from monai_ext.datasets.image_files import write_label_map, write_probabilities
from monai_ext.datasets.label_files import write_label_file
from monai_ext.datasets.png_labels import write_png_labels
from monai_ext.evaluation.overlay_picture import save_picture
from monai_ext.export.manifest import write_manifest
from monai_ext.file_lock import FileLock
from monai_ext.preprocessing.case_writing import write_case

GEOMETRY = Geometry.from_affine(np.eye(4), (4, 3, 2))
FLAT = Geometry.from_affine(np.eye(4), (4, 3))
LABELS = np.zeros((2, 3, 4), np.uint8)


def write_log(folder: Path) -> None:
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(folder) as writer:
        writer.add_scalar("a", 1.0, 0)


def hold(folder: Path) -> None:
    lock = FileLock(folder / ".lock", "a test")
    lock.acquire()
    lock.release()


WRITERS: dict[str, Callable[[Path], object]] = {
    "text": lambda f: write_text(f / "a.csv", "a"),
    "checkpoint": lambda f: save_tensors(f / "a.pt", {"a": torch.ones(2)}),
    "label map": lambda f: write_label_map(f / "a.nii.gz", LABELS, GEOMETRY),
    "probabilities": lambda f: write_probabilities(f / "p.nii", LABELS[None], GEOMETRY),
    "png labels": lambda f: write_png_labels(f / "a.png", LABELS[:1], FLAT),
    "label file": lambda f: write_label_file(f / "a.tif", LABELS[0]),
    "stack": lambda f: write_stack(f / "a.tif", LABELS),
    "picture": lambda f: save_picture(f / "a.png", np.zeros((4, 4, 3), np.uint8)),
    "case": lambda f: write_case(f, "a", LABELS[None].astype(np.float32), LABELS, {}, {}),
    "manifest": lambda f: write_manifest(f, {"name": "net"}, []),
    "tensorboard": write_log,
    "lock": hold,
}


@pytest.mark.skipif(os.name != "posix", reason="there are no permissions of this kind")
@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o007, 0o660), (0o077, 0o600)])
@pytest.mark.parametrize("kind", WRITERS)
def test_files_and_folders(tmp_path: Path, kind: str, umask: int, mode: int) -> None:
    folder = tmp_path / "new" / "folder"
    before = os.umask(umask)
    try:
        folder.mkdir(parents=True)
        WRITERS[kind](folder)
    finally:
        os.umask(before)
    written = [path for path in folder.rglob("*") if path.is_file()]
    assert written
    assert {path.stat().st_mode & 0o777 for path in written} == {mode}
    assert all(path.stat().st_mode & 0o777 == 0o777 & ~umask for path in folder.rglob("*") if path.is_dir())


def test_nothing_sets_permissions_by_itself() -> None:
    # files of `tempfile` are private, those of `os.open` as its argument says; a rename would keep that
    suspicious = re.compile(r"chmod|umask\(|mkstemp|NamedTemporaryFile|os\.open\((?!.*O_RDONLY|.*0o666)")
    found = [
        f"{path.name}: {line.strip()}"
        for path in Path(monai_ext.__file__).parent.rglob("*.py")
        if path.name != "triton_server.py"  # makes a program of the server runnable, in a folder for its own use
        for line in path.read_text(encoding="utf-8").splitlines()
        if suspicious.search(line)
    ]
    assert found == []
