"""What is listed, and what is noticed when files change."""

from __future__ import annotations

from pathlib import Path

import pytest

from monai_ext.errors import InputError
from monai_ext.export.manifest import MANIFEST, Artefact, read_manifest, write_manifest
from monai_ext.file_digest import file_sha256


def artefact(path: Path) -> Artefact:
    return Artefact(
        path.name, "onnx", "float32", file_sha256(path), path.stat().st_size, 1e-6, 1e-7, 1e-4, 1.0, 2.0, 3.0
    )


def test_manifest_comes_back(tmp_path: Path) -> None:
    (tmp_path / "a.onnx").write_bytes(b"one")
    written = write_manifest(tmp_path, {"classes": ("x", "y")}, [artefact(tmp_path / "a.onnx")])
    assert read_manifest(tmp_path) == written
    assert written["classes"] == ["x", "y"]
    assert written["artefacts"][0]["bytes"] == 3


def test_all_changed_and_missing_files_are_named(tmp_path: Path) -> None:
    for name in ("a.onnx", "b.ts", "c.onnx"):
        (tmp_path / name).write_bytes(name.encode())
    write_manifest(tmp_path, {}, [artefact(tmp_path / name) for name in ("a.onnx", "b.ts", "c.onnx")])
    (tmp_path / "a.onnx").write_bytes(b"other")
    (tmp_path / "b.ts").unlink()
    with pytest.raises(InputError, match=r"2 problems\n.*a\.onnx: has changed.*\n.*b\.ts: is listed but does not"):
        read_manifest(tmp_path)


@pytest.mark.parametrize("content", [None, "{", "{}", '{"artefacts": [1]}'])
def test_not_a_manifest(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / MANIFEST).write_text(content)
    with pytest.raises(InputError, match=r"manifest\.json: is not a manifest.*Cure: export again"):
        read_manifest(tmp_path)
