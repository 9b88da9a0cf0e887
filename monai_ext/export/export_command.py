"""`python -m monai_ext export`: a trained model of any bundle in the formats that servers read."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

from monai_ext.benchmark.measurement_rows import format_table
from monai_ext.errors import InputError
from monai_ext.evaluation.postprocessing import POSTPROCESSING_FILE, Postprocessing
from monai_ext.export.detector import export_detector
from monai_ext.export.manifest import MANIFEST
from monai_ext.export.packed_command import export_packed_and_report, is_packed
from monai_ext.export.segmenter import export_segmenter
from monai_ext.export.trained_classifier import export_trained_classifier
from monai_ext.export.trained_model import open_model

EXPORTERS: dict[str, Callable[..., dict[str, Any]]] = {
    "nnunet": export_segmenter,
    "unet_em": export_segmenter,
    "se_resnext101": export_trained_classifier,
    "mask_rcnn": export_detector,
}
SHOWN = ("file", "precision", "bytes", "max_difference", "tolerance", "agreement", "latency_ms", "network_latency_ms")


def export_model(
    place: str | Path, formats: str, folder: str | Path = "", overwrite: bool = False, **options: Any
) -> None:
    """Export a model and print the report.

    Args:
        place: output folder of a training, its `model.pt`, or the folder of a bundle.
        formats: some of `torchscript`, `onnx` and `tensorrt` with commas, or `packed` alone.
        folder: of the files; empty takes `export` beside the model.
        overwrite: replace an earlier export.
        options: of the bundle's export.

    Raises:
        InputError: the folder holds an export, the bundle's export lacks an option, or what the export says.
    """
    if is_packed(formats):
        export_packed_and_report(place, formats, folder, overwrite, **options)
        return
    model = open_model(place)
    folder = Path(folder) if str(folder) else model.folder / "export"
    if (folder / MANIFEST).exists() and not overwrite:
        raise InputError(f"{folder}: holds an export already. Cure: --overwrite True, or another --output_dir")
    export = EXPORTERS[model.bundle]
    known = list(inspect.signature(export).parameters)[3:]
    if unknown := [f"--{name}" for name in options if name not in known]:
        raise InputError(
            f"{', '.join(unknown)}: no option of the export of {model.bundle}. "
            f"Cure: {', '.join(f'--{name}' for name in known)}"
        )
    names = tuple(name.strip() for name in formats.split(","))
    manifest = export(model, folder, names, **options)
    copy = folder / POSTPROCESSING_FILE  # the export may be moved away from the model
    if (decided := model.folder / POSTPROCESSING_FILE).is_file():
        Postprocessing.load(decided).save(copy)
    elif folder.resolve() != model.folder.resolve():
        copy.unlink(missing_ok=True)  # of an earlier export
    print(format_table(manifest["artefacts"], SHOWN, left=2))
    print(f"compared on {manifest['compared_on']}; {folder.resolve() / MANIFEST}")
