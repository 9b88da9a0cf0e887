"""The folder of an export: an earlier one stays until a new one is whole, and two do not mix."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from monai_ext.errors import InputError
from monai_ext.export.export_folder import LOCK_FILE, replaced_export
from monai_ext.export.manifest import MANIFEST
from monai_ext.file_lock import FileLock


def export(folder: Path, overwrite: bool = False, **files: str) -> None:
    with replaced_export(folder, overwrite) as scratch:
        for name, content in files.items():
            (scratch / name.replace("_", ".")).write_text(content)
        (scratch / MANIFEST).write_text(json.dumps(sorted(files)))


def end_early(folder: Path, error: type[BaseException]) -> None:
    with replaced_export(folder, overwrite=True) as scratch:
        (scratch / "model.ts").write_text("half")
        raise error


def content(folder: Path) -> dict[str, str]:
    return {file.name: file.read_text() for file in folder.iterdir()}


def test_files_of_the_earlier_export_go_and_others_stay(tmp_path: Path) -> None:
    folder = tmp_path / "a b" / "ü"
    export(folder, model_onnx="1", model_ts="1")
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match=r"holds an export already \(model.ts, model.onnx, manifest.json\). Cure:"):
        export(folder, model_ts="2")
    export(folder, overwrite=True, model_ts="2")
    assert content(folder) == {"model.ts": "2", MANIFEST: '["model_ts"]', "notes.txt": "mine"}


def test_a_file_of_somebody_else_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_text("mine")
    with pytest.raises(InputError, match=r"holds an export already \(model.onnx\)"):
        export(tmp_path, model_onnx="1")
    assert content(tmp_path) == {"model.onnx": "mine"}
    with pytest.raises(InputError, match="is a file, not a folder"):
        export(tmp_path / "model.onnx", model_onnx="1")


@pytest.mark.parametrize("error", [InputError, KeyboardInterrupt])
def test_an_export_that_ends_early_changes_nothing(tmp_path: Path, error: type[BaseException]) -> None:
    export(tmp_path / "out", model_ts="1")
    before = content(tmp_path / "out")
    for folder in (tmp_path / "out", tmp_path / "new" / "deep"):
        with pytest.raises(error):
            end_early(folder, error)
    assert content(tmp_path / "out") == before
    assert not (tmp_path / "new").exists()


def test_a_kill_between_two_files_leaves_no_manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No list is left that says of files of two exports that they belong together; the next export clears up."""
    export(tmp_path, model_onnx="1", model_ts="1")
    moved: list[Path] = []
    replace = os.replace

    def killed(source: Any, target: Any) -> None:
        if moved:
            raise KeyboardInterrupt
        moved.append(Path(target))
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr("monai_ext.export.export_folder.os.replace", killed)
        with pytest.raises(KeyboardInterrupt):
            export(tmp_path, overwrite=True, model_onnx="2", model_ts="2")
    assert len(moved) == 1
    assert not (tmp_path / MANIFEST).exists()
    (tmp_path / ".0123abcd-export").mkdir()  # as a process that was killed leaves it
    export(tmp_path, overwrite=True, model_onnx="3")
    assert content(tmp_path) == {"model.onnx": "3", MANIFEST: '["model_onnx"]'}


def test_two_at_once(tmp_path: Path) -> None:
    lock = FileLock(tmp_path / LOCK_FILE, "the folder")
    lock.acquire()
    try:
        with pytest.raises(InputError, match=r"the folder of this export, is in use by process \d+"):
            export(tmp_path, model_ts="1")
        assert not (tmp_path / "model.ts").exists()
    finally:
        lock.release(remove=True)
    export(tmp_path, model_ts="1")
    assert (tmp_path / "model.ts").read_text() == "1"


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(InputError, match="Cure: "):
            export(tmp_path, model_ts="1")
    finally:
        tmp_path.chmod(0o700)
