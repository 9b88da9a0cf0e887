"""Packed bundles, from where to where: whose configs are packed, and what of a failed unpacking stays."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from monai_ext.errors import InputError
from monai_ext.export import packed_archive, packed_check
from monai_ext.export.export_command import export_model
from monai_ext.export.packed_archive import unpack_zip, write_zip
from packed_models import refusal


def test_configs_of_the_models_own_bundle(places: dict[str, Path], tmp_path: Path) -> None:
    """However the model of a bundle is named, the configs beside it are packed; those of another bundle never."""
    bundles = Path(__file__).parents[2] / "bundles"
    own = tmp_path / "mein Bündel"
    shutil.copytree(bundles / "nnunet", own)
    config = own / "configs" / "inference.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"_remark_": "changed here"}))
    (own / "models").mkdir()
    for name in ("model.pt", "plan.json"):
        shutil.copy(places["nnunet"] / name, own / "models")
    for number, place in enumerate((own, own / "models", own / "models" / "model.pt")):
        export_model(place, "packed", tmp_path / str(number))
        folder = unpack_zip(tmp_path / str(number) / "nnunet.zip", tmp_path / f"unpacked{number}")
        assert json.loads((folder / "configs" / "inference.json").read_text())["_remark_"] == "changed here"
    with pytest.raises(InputError, match=r"is the bundle unet_em, the model is of nnunet\. Cure: --bundle_dir"):
        export_model(own, "packed", tmp_path / "other", bundle_dir=bundles / "unet_em")
    with pytest.raises(InputError, match="is a file, not a folder"):
        export_model(own, "packed", config)
    assert not (tmp_path / "other").exists()


def test_a_bundle_that_is_looked_at_does_not_run(zip_file: Path) -> None:
    """`--run false` reaches the command as a text."""
    assert "--run false: is neither True nor False" in refusal(zip_file, run="false")


def test_nothing_stays_of_what_cannot_be_unpacked(zip_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk fills up while the bundle is unpacked for good, or the zip changes after it was checked."""
    place = zip_file.parent / "place"
    for target, kept in ((place / "new", False), (place, True)):
        monkeypatch.setattr(packed_archive, "_write", full_below(target))
        assert "No space left" in refusal(zip_file, unpack=target, run=False)
        monkeypatch.undo()
        assert target.exists() is kept
        place.mkdir(exist_ok=True)
    assert list(place.iterdir()) == []
    checked = packed_check._check_test

    def exchanged(listing: Any) -> None:
        checked(listing)
        folder = unpack_zip(zip_file, zip_file.parent / "unpacked")
        (folder / "LICENSE").write_text("other")
        write_zip(folder, zip_file)

    monkeypatch.setattr(packed_check, "_check_test", exchanged)
    assert "LICENSE: has changed since the export" in refusal(zip_file, unpack=place, run=False)
    assert list(place.iterdir()) == []


def full_below(folder: Path) -> Callable[..., None]:
    """Writing as it is, on a disk that has no room for weights below a folder."""
    write = packed_archive._write

    def write_or_fail(source: Any, target: Path, claimed: int) -> None:
        if target.suffix == ".pt" and target.is_relative_to(folder):
            raise InputError(f"{target}: cannot be written (No space left on device). Cure: free space")
        write(source, target, claimed)

    return write_or_fail


def test_a_change_that_keeps_the_size(zip_file: Path) -> None:
    folder = unpack_zip(zip_file, zip_file.parent / "unpacked")
    config = folder / "configs" / "inference.json"
    config.write_text(config.read_text().replace("0", "1", 1))
    write_zip(folder, zip_file)
    assert "configs/inference.json: has changed since the export" in refusal(zip_file, run=False)


def test_a_zip_that_ends_behind_the_weights(zip_file: Path) -> None:
    """Weights are a zip themselves, which readers of zips find at the end of what is left."""
    with zipfile.ZipFile(zip_file) as archive:
        entry = archive.getinfo("nnunet/models/plan.json")
    zip_file.write_bytes(zip_file.read_bytes()[: entry.header_offset])
    with zipfile.ZipFile(zip_file) as archive:
        assert archive.namelist()
    assert "is no zip, cut off or damaged (has other bytes before or behind)" in refusal(zip_file)
