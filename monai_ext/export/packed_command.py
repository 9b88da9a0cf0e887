"""`python -m monai_ext export RUN --format packed`: options, and what is printed."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from monai_ext.errors import InputError
from monai_ext.export.packed_bundle import export_packed
from monai_ext.export.trained_model import open_model

PACKED = "packed"
OPTIONS = ("name", "images", "bundle_dir", "data_licence")


def is_packed(formats: str) -> bool:
    """Whether the packed format is among those asked for, with commas between them."""
    return PACKED in (name.strip() for name in formats.split(","))


def export_packed_and_report(
    place: str | Path, formats: str, folder: str | Path = "", overwrite: bool = False, **options: Any
) -> Path:
    """Pack a trained model and print how it is tested.

    Args:
        place: output folder of a training, its `model.pt`, or the folder of a bundle.
        formats: `packed` alone.
        folder: of the zip; empty takes `export` beside the model.
        overwrite: replace an earlier zip.
        options: `name`, `images`, `bundle_dir` and `data_licence` of `export_packed`.

    Raises:
        InputError: another format or option is there too, or what `export_packed` says.
    """
    if formats.strip() != PACKED:
        raise InputError(f"--format {formats}: packed comes alone. Cure: a command for packed, one for the others")
    unknown = [f"--{name}" for name in options if name not in OPTIONS]
    if unknown:
        known = ", ".join(f"--{name}" for name in OPTIONS)
        raise InputError(f"{', '.join(unknown)}: no option of --format packed. Cure: {known}")
    model = open_model(place)
    folder = Path(folder) if str(folder) else model.folder / "export"
    path = export_packed(model, folder, place, overwrite=overwrite, **{k: str(v) for k, v in options.items()})
    if options.get("images"):
        print(f"the zip holds {options['images']}: everybody who gets it can see that image, and what its header says")
    test = shlex.join(["python", "-m", "monai_ext", "verify", str(path)])
    print(f"{path.resolve()}: {path.stat().st_size / 1e6:.1f} MB; test it with: {test}")
    return path
