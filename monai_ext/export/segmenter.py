"""Export of a trained segmentation network (nnU-Net, UNet-EM): every file is compared with the network first."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from monai_ext.errors import Problems
from monai_ext.export.artefact_check import ArtefactCheck
from monai_ext.export.deployed_segmenter import OUTPUTS, DeployedSegmenter
from monai_ext.export.formats import FORMATS, check_formats, package_versions, require_packages
from monai_ext.export.half_precision import PRECISIONS, HalfPrecision
from monai_ext.export.manifest import Artefact, write_manifest
from monai_ext.export.onnx_model import INPUT, OPSET, export_onnx
from monai_ext.export.segmentation_inputs import drawn_patches, em_tiles_of, patches_of
from monai_ext.export.slicewise_convolution import write_slicewise
from monai_ext.export.static_int8 import quantise_statically
from monai_ext.export.tensorrt_engine import ENGINE, build_engine
from monai_ext.export.torchscript import export_torchscript
from monai_ext.export.trained_model import TrainedModel
from monai_ext.file_digest import file_sha256
from monai_ext.networks.folded_norm import fold_norms

QUANTIZE = ("none", "int8")
# of the largest logit: sums in another order give 1e-5, Winograd's factors ten times that; 16 bits have 3 and 2 digits
TOLERANCES = {"float32": 1e-3, "float16": 1e-2, "bfloat16": 1e-1, "int8": 1e-1}
CALIBRATION_PATCHES = 16
COMPARED = 3
# of label maps, the share of labels that may differ: voxels between two classes as likely as each other
LABELS_TOLERANCE = {"float32": 1e-4, "float16": 2e-3, "bfloat16": 5e-3, "int8": 1e-2}


def export_segmenter(
    model: TrainedModel,
    folder: str | Path,
    formats: Sequence[str] = FORMATS,
    precision: str = "float32",
    quantize: str = "none",
    output: str = "logits",
    dynamic: bool = False,
    images: str | Path = "",
    tolerance: float = 0.0,
    opset: int = OPSET,
) -> dict[str, Any]:
    """Write `model.ts`, `model.onnx`, `model_int8.onnx`, `model.engine`, as asked for, and `manifest.json`.

    Files take patches as the plan prepares them, `[B, C, *S]` float32, B is free. With fixed sizes 3D convolutions of
    ONNX files become 2D ones of slices, which ONNX Runtime computes faster on processors.

    Args:
        model: of the bundles `nnunet` or `unet_em`.
        folder: made where it is missing.
        formats: any of `torchscript`, `onnx` and `tensorrt`.
        precision: `float32`, `float16`, or `bfloat16` (TorchScript only).
        quantize: `int8` also writes an ONNX file with 8-bit convolutions; ranges come from `images`.
        output: `logits`, `probabilities` or `labels`, see `DeployedSegmenter`.
        dynamic: free spatial sizes; multiples of what the network halves are the caller's care.
        images: scan, or folder of scans (of UNet-EM a TIFF of slices), to compare and calibrate on; empty compares on
            drawn patches.
        tolerance: largest difference relative to the largest output, of `labels` the largest share that differs; 0
            takes that of the precision.
        opset: version of ONNX's operators.

    Returns:
        The manifest.

    Raises:
        InputError: an option is unknown or does not fit another, a package is missing, or a file differs more than
            allowed; the manifest is written only after all files have passed.
    """
    folder = Path(folder)
    _check_options(model, formats, precision, quantize, output, dynamic, images)
    batches = _batches(model, images)
    expected = DeployedSegmenter(model.network, output).eval()
    network: nn.Module = fold_norms(model.network)
    if precision != "float32":
        network = HalfPrecision(network, PRECISIONS[precision])
    module = DeployedSegmenter(network, output).eval().requires_grad_(False)
    tolerances = dict(LABELS_TOLERANCE if output == "labels" else TOLERANCES)
    tolerances[precision] = tolerance or tolerances[precision]
    # a single patch, of a picture or a volume of one slice, is taken twice: the second batch size must be another one
    others = batches[1 : 1 + COMPARED] if len(batches) > 1 else torch.cat([batches, batches])
    check = ArtefactCheck(folder, expected, [batches[:1], others], tolerances)
    artefacts: list[Artefact] = []
    if "torchscript" in formats:
        path = folder / "model.ts"
        about = {"bundle": model.bundle, "output": output}
        export_torchscript(module, path, about=about, texts={"plan.json": model.plan.to_json()})
        artefacts.append(check(path, "torchscript", precision))
    if "onnx" in formats:
        path = folder / "model.onnx"
        spatial = tuple(range(2, batches.ndim)) if dynamic else ()
        export_onnx(module, path, batches[:1], output, (0, *spatial), opset)
        if quantize == "int8":
            integer = folder / "model_int8.onnx"
            write_slicewise(path, integer, "stacked")
            quantise_statically(
                integer, integer, batches.split(1), symmetric=False, operators=("Conv", "ConvTranspose")
            )
            artefacts.append(check(integer, "onnx", "int8"))
        if not dynamic:
            write_slicewise(path, path, "winograd")
        artefacts.append(check(path, "onnx", precision))
    if "tensorrt" in formats:
        with tempfile.TemporaryDirectory() as scratch:  # its own convolutions are better than those of slices
            source = export_onnx(module, Path(scratch) / "model.onnx", batches[:1], output, (0,), opset)
            build_engine(source, folder / ENGINE, batches.shape[1:], precision)
        artefacts.append(check(folder / ENGINE, "tensorrt", precision))
    manifest = {
        "format_version": 1,
        "bundle": model.bundle,
        "model_sha256": file_sha256(model.ckpt_path),
        "plan": asdict(model.plan),
        "input": {"name": INPUT, "dtype": "float32", "shape": ["batch", *(_shape(batches, dynamic))]},
        "output": {"name": output},
        "opset": opset,
        "quantize": quantize,
        # names of files and folders may be those of patients
        "compared_on": f"{min(len(batches), 1 + COMPARED)} patches of the given images" if images else "drawn patches",
        "versions": package_versions(formats),
    }
    return write_manifest(folder, manifest, artefacts)


def _shape(batches: torch.Tensor, dynamic: bool) -> list[int | str]:
    spatial: list[int | str] = ["dynamic"] * (batches.ndim - 2) if dynamic else list(batches.shape[2:])
    return [batches.shape[1], *spatial]


def _batches(model: TrainedModel, images: str | Path) -> torch.Tensor:
    if model.bundle == "nnunet":
        plan = model.plan
        if images:
            return patches_of(plan, images, CALIBRATION_PATCHES)
        return drawn_patches(plan.num_channels, plan.patch_size)
    if images:
        return em_tiles_of(model.plan, images, CALIBRATION_PATCHES)
    return drawn_patches(1, model.plan.input_size).clamp(-1, 1)


def _check_options(
    model: TrainedModel,
    formats: Sequence[str],
    precision: str,
    quantize: str,
    output: str,
    dynamic: bool,
    images: str | Path,
) -> None:
    problems = Problems(f"export of {model.ckpt_path}")
    check_formats(problems, formats, precision)
    if "tensorrt" in formats and dynamic:
        problems.add("--dynamic True", "does not go with tensorrt, whose engine is for one patch size", "leave it out")
    if quantize not in QUANTIZE:
        problems.add(f"--quantize {quantize}", "is not known", f"one of {', '.join(QUANTIZE)}")
    if quantize == "int8" and ("onnx" not in formats or dynamic or precision != "float32"):
        problems.add("--quantize int8", "is made of an ONNX file in float32 with fixed sizes", "--format onnx")
    if quantize == "int8" and not images:
        problems.add("--quantize int8", "has no images for the ranges", "--images with scans of the training set")
    if output not in OUTPUTS:
        problems.add(f"--output {output}", "is not known", f"one of {', '.join(OUTPUTS)}")
    problems.raise_if_any()
    require_packages(formats)
