"""Files appear whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from monai_ext.atomic_files import remove_partials, replacing, save_tensors, write_text


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
