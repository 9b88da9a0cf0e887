"""`python -m monai_ext export`: a trained model of any bundle in the formats that servers read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from monai_ext.benchmark.measurement_rows import format_table
from monai_ext.evaluation.postprocessing import POSTPROCESSING_FILE, Postprocessing
from monai_ext.export.detector import export_detector
from monai_ext.export.export_folder import replaced_export
from monai_ext.export.export_options import checked_options, require_switch
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
SHOWN = (
    "file",
    "precision",
    "bytes",
    "max_difference",
    "mean_difference",
    "tolerance",
    "agreement",
    "latency_ms",
    "network_latency_ms",
)


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
        InputError: the folder holds an export, the bundle's export lacks an option or takes another value, or what
            the export says; an earlier export stays then.
    """
    require_switch("overwrite", overwrite)
    if is_packed(formats):
        export_packed_and_report(place, formats, folder, overwrite, **options)
        return
    model = open_model(place)
    folder = Path(folder) if str(folder) else model.folder / "export"
    export = EXPORTERS[model.bundle]
    options = checked_options(export, model.bundle, options)
    names = tuple(name.strip() for name in formats.split(","))
    decided = model.folder / POSTPROCESSING_FILE
    is_apart = folder.resolve() != model.folder.resolve()
    with replaced_export(folder, overwrite) as scratch:
        manifest = export(model, scratch, names, **options)
        if is_apart and decided.is_file():  # the export may be moved away from the model
            Postprocessing.load(decided).save(scratch / POSTPROCESSING_FILE)
    if is_apart and not decided.is_file():
        (folder / POSTPROCESSING_FILE).unlink(missing_ok=True)  # of an earlier export
    print(format_table([_row(artefact) for artefact in manifest["artefacts"]], SHOWN, left=2))
    print(f"compared on {manifest['compared_on']}; {folder.resolve() / MANIFEST}")


def _row(artefact: dict[str, Any]) -> dict[str, Any]:
    """What a person reads of an entry of the manifest: four digits, and five of shares that are nearly 1."""
    digits = {"agreement": 5}
    return {
        name: f"{value:.{digits.get(name, 4)}g}" if isinstance(value, float) else value
        for name, value in artefact.items()
    }
