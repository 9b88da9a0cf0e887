"""`python -m monai_ext export`: a trained model of any bundle in the formats that servers read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from monai_ext.benchmark.measurement_rows import format_table
from monai_ext.errors import InputError
from monai_ext.export.manifest import MANIFEST
from monai_ext.export.segmenter import export_segmenter
from monai_ext.export.trained_model import open_model

SEGMENTERS = ("nnunet", "unet_em")
SHOWN = ("file", "precision", "bytes", "max_difference", "tolerance", "agreement", "latency_ms", "network_latency_ms")


def export_model(
    place: str | Path, formats: str, folder: str | Path = "", overwrite: bool = False, **options: Any
) -> None:
    """Export a model and print the report.

    Args:
        place: output folder of a training, its `model.pt`, or the folder of a bundle.
        formats: `torchscript`, `onnx`, or both with a comma.
        folder: of the files; empty takes `export` beside the model.
        overwrite: replace an earlier export.
        options: of the bundle's export.

    Raises:
        InputError: the folder holds an export, or what the export says.
    """
    model = open_model(place)
    folder = Path(folder) if str(folder) else model.folder / "export"
    if (folder / MANIFEST).exists() and not overwrite:
        raise InputError(f"{folder}: holds an export already. Cure: --overwrite True, or another --output_dir")
    if model.bundle not in SEGMENTERS:
        raise InputError(
            f"{place}: bundle {model.bundle} has a run id `export` of its own. Cure: monai.bundle run export"
        )
    names = tuple(name.strip() for name in formats.split(","))
    manifest = export_segmenter(model, folder, names, **options)
    print(format_table(manifest["artefacts"], SHOWN, left=2))
    print(f"compared on {manifest['compared_on']}; {folder.resolve() / MANIFEST}")
