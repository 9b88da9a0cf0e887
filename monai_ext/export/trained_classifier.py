"""Export of a classifier that a training left, from the command line: weights, plan, temperature and pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from monai_ext.engines.calibration_file import calibration_beside
from monai_ext.engines.class_inference import input_cases
from monai_ext.engines.picture_samples import WholePictures
from monai_ext.errors import Problems
from monai_ext.export.classifier import FLOAT_TOLERANCE, INT8_TOLERANCE, export_classifier
from monai_ext.export.formats import FORMATS
from monai_ext.export.trained_model import TrainedModel
from monai_ext.networks.fake_quantisation import is_fake_quantised
from monai_ext.planning.class_plan import ClassPlan

QUANTIZE = ("none", "int8")
OUTPUTS = ("probabilities", "logits")
PICTURES = 128


def export_trained_classifier(
    model: TrainedModel,
    folder: str | Path,
    formats: Sequence[str] = FORMATS,
    precision: str = "float32",
    quantize: str = "none",
    output: str = "probabilities",
    images: str | Path = "",
    tolerance: float = 0.0,
    symmetric: bool = True,
) -> dict[str, Any]:
    """Write what `export_classifier` writes; probabilities are calibrated by the temperature beside the model.

    Args:
        model: of the bundle `se_resnext101`.
        folder: made where it is missing.
        formats: see `export_classifier`.
        precision: `float32`, `float16`, or `bfloat16` (TorchScript only).
        quantize: `int8` also writes an ONNX file in 8 bits; its ranges come from `images`, or from the training where
            that was quantisation-aware (then all files are in 8 bits).
        output: `probabilities` or `logits`.
        images: picture or volume, or folder of them, to compare and calibrate on; empty takes noise.
        tolerance: largest difference of an output; 0 takes that of the precision.
        symmetric: 8-bit activations around zero.

    Returns:
        The manifest.

    Raises:
        InputError: an option is unknown, an image cannot be read, or what `export_classifier` says.
    """
    problems = Problems(f"export of {model.ckpt_path}")
    is_quantised = is_fake_quantised(model.network)
    if quantize not in QUANTIZE:
        problems.add(f"--quantize {quantize}", "is not known", f"one of {', '.join(QUANTIZE)}")
    if output not in OUTPUTS:
        problems.add(f"--output {output}", "is not known for classifiers", f"one of {', '.join(OUTPUTS)}")
    if quantize == "int8" and not images and not is_quantised:
        problems.add("--quantize int8", "has no images for the ranges", "--images with pictures of the training set")
    problems.raise_if_any()
    how = "qat" if is_quantised else {"none": "none", "int8": "ptq"}[quantize]
    fitted = calibration_beside(model.ckpt_path)
    return export_classifier(
        model.network,
        model.plan,
        folder,
        tuple(formats),
        _pictures(model.plan, images) if images else None,
        how,
        symmetric,
        probabilities=output == "probabilities",
        temperature=fitted.temperature if fitted is not None else 1.0,
        float_tolerance=tolerance or FLOAT_TOLERANCE,
        int8_tolerance=tolerance or INT8_TOLERANCE,
        precision=precision,
    )


def _pictures(plan: ClassPlan, place: str | Path) -> torch.Tensor:
    """`[N, C, *image_size]`, evenly spread over what is there."""
    cases = input_cases(str(place), spatial_dims=plan.spatial_dims)
    chosen = cases[:: max(1, -(-len(cases) // PICTURES))]
    pictures = WholePictures(chosen, plan)
    return torch.stack([pictures[number]["image"] for number in range(len(pictures))])
