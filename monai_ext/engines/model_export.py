"""Export of the model that a training left, from the keys of its bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from monai_ext.engines.class_outputs import calibration_beside
from monai_ext.engines.class_preparation import ClassSource
from monai_ext.engines.picture_samples import WholePictures
from monai_ext.export.classifier import export_classifier
from monai_ext.planning.class_plan import ClassPlan

CALIBRATION_IMAGES = 128


def export_model(
    network: nn.Module,
    plan: ClassPlan,
    ckpt_path: str,
    folder: str,
    export_format: str,
    quantize: str,
    symmetric: bool,
    source: ClassSource,
) -> dict[str, Any]:
    """Write the files that `export_format` names into a folder and print what they are.

    Probabilities are calibrated by the temperature that lies beside the model. Files are compared with the network, and
    8-bit ranges taken, on evenly spaced training images.

    Raises:
        InputError: a file differs from the network, or a package is missing; see `export_classifier`.
    """
    cases = source.cases("train")
    chosen = [cases[i] for i in range(0, len(cases), -(-len(cases) // CALIBRATION_IMAGES))]
    pictures = WholePictures(chosen, plan)
    images = torch.stack([pictures[i]["image"] for i in range(len(pictures))])
    fitted = calibration_beside(ckpt_path)
    manifest = export_classifier(
        network,
        plan,
        folder,
        tuple(export_format.split("+")),
        images,
        quantize,
        symmetric,
        temperature=fitted.temperature if fitted is not None else 1.0,
    )
    for artefact in manifest["artefacts"]:
        print(f"{artefact['file']}: {Path(folder).resolve() / artefact['file']}")
    return manifest
