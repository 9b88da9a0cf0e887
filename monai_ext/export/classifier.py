"""Export of a trained classifier: every file is run back and compared with the network before it is listed."""

from __future__ import annotations

import copy
import logging
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from monai_ext.errors import Problems
from monai_ext.export.artefact_check import ArtefactCheck
from monai_ext.export.comparison import Runner
from monai_ext.export.deployed_classifier import DeployedClassifier
from monai_ext.export.formats import FORMATS, check_formats, package_versions, require_packages
from monai_ext.export.half_precision import PRECISIONS, HalfPrecision
from monai_ext.export.integer_graph import write_integer_graph
from monai_ext.export.manifest import write_manifest
from monai_ext.export.onnx_model import INPUT, export_onnx
from monai_ext.export.static_int8 import quantise_statically
from monai_ext.export.tensorrt_engine import ENGINE, build_engine
from monai_ext.export.torchscript import export_torchscript
from monai_ext.networks.fake_quantisation import fixed_quantisation, is_fake_quantised, set_quantising
from monai_ext.networks.folded_norm import fold_norms
from monai_ext.planning.class_plan import ClassPlan

QUANTIZE = ("none", "qat", "ptq")
# of `with_fake_quantisation`. Gates: two layers on one value per channel, and fused ops read their weights themselves;
# last norms of a block: without rounding there, the convolutions before them would run in float
QAT_OPTIONS = {"skip": r"\bse_layer\b", "norms": r"\b(conv3|project)\.adn\.N$"}
FLOAT_TOLERANCE = 1e-4  # of the largest output; sums in another order, over some hundred layers, give about 1e-6
HALF_TOLERANCES = {"float16": 1e-2, "bfloat16": 1e-1}  # three and two digits
INT8_TOLERANCE = 0.05  # mean over probabilities: a broken file is worse than that, a good one is judged by `score`
CALIBRATION_BATCH = 16

logger = logging.getLogger(__name__)


def export_classifier(
    network: nn.Module,
    plan: ClassPlan,
    folder: str | Path,
    formats: Sequence[str] = FORMATS,
    calibration_images: torch.Tensor | Iterable[torch.Tensor] | None = None,
    quantize: str = "none",
    symmetric: bool = True,
    probabilities: bool = True,
    temperature: float = 1.0,
    score: Callable[[Runner], float] | None = None,
    max_score_drop: float = 0.01,
    float_tolerance: float = FLOAT_TOLERANCE,
    int8_tolerance: float = INT8_TOLERANCE,
    precision: str = "float32",
) -> dict[str, Any]:
    """Write `model.ts`, `model.onnx`, `model_int8.onnx`, `model.engine`, as asked for, and `manifest.json`.

    Every file takes images as they are stored, `[B, C, *image_size]` (uint8 where the plan's values are 0 to 255,
    otherwise float32; TorchScript takes both), resized and cut as the plan says, and gives probabilities `[B, K]`.
    Batch norms are folded into the convolutions.

    Args:
        network: trained network of the plan, on any device; not changed.
        plan: of the network.
        folder: made where it is missing; files of the same names are replaced.
        formats: any of `torchscript`, `onnx` and `tensorrt`.
        calibration_images: images `[N, C, *image_size]` of the training set, with values of image files, or batches of
            them. Ranges of `ptq` come from them, and the files are compared on the first of them; without them on
            seeded noise.
        quantize: `none`; `ptq` writes an 8-bit ONNX file besides the float one; `qat` takes a network that was trained
            with `with_fake_quantisation`, whose files all round as in training, ONNX in integers.
        symmetric: of `ptq`: int8 activations around zero instead of uint8.
        probabilities: False leaves softmax or sigmoid out.
        temperature: logits are divided by it before.
        score: called with a function from images to outputs, for the network and every file, for example the accuracy
            on the validation set; higher is better.
        max_score_drop: by how much a file's score may be below the network's.
        float_tolerance: largest difference of an output, relative to the largest output where that is above 1.
        int8_tolerance: the same of the mean difference; a single image near the boundary of classes says little.
        precision: of files that are not in 8 bits: `float32`, `float16`, or `bfloat16` (TorchScript only). For 16 bits
            the tolerance is that of their digits, if it is larger.

    Returns:
        The manifest.

    Raises:
        InputError: an option is unknown or lacks what it needs, onnx or onnxruntime is not installed, or a file differs
            more or scores less than allowed; the manifest is written only after all files have passed.
    """
    folder = Path(folder)
    batches = _batches(calibration_images)
    _check_options(network, plan, formats, batches, quantize, precision)
    reference = copy.deepcopy(network).cpu().float().eval()
    if quantize == "qat":
        set_quantising(reference)
        folded = fixed_quantisation(reference, fold_norms)
    else:
        folded = fold_norms(reference)
        if precision != "float32":
            folded = HalfPrecision(folded, PRECISIONS[precision])

    def deployed(module: nn.Module) -> nn.Module:
        wrapped = DeployedClassifier(
            module, plan.mean, plan.std, plan.value_range, plan.multi_label, probabilities, temperature
        )
        return wrapped.eval().requires_grad_(False)

    expected, module = deployed(reference), deployed(folded)
    tests = _test_batches(plan, batches)
    tolerances = {"float32": float_tolerance, "int8 simulated": int8_tolerance, "int8": int8_tolerance}
    tolerances |= {name: max(float_tolerance, half) for name, half in HALF_TOLERANCES.items()}
    check = ArtefactCheck(folder, expected, tests, tolerances, score, max_score_drop)
    artefacts = []
    if "torchscript" in formats:
        path = folder / "model.ts"
        about = {"classes": list(plan.classes), "image_size": list(plan.image_size), "multi_label": plan.multi_label}
        export_torchscript(module, path, about=about, texts={"plan.json": plan.to_json()})
        artefacts.append(check(path, "torchscript", "int8 simulated" if quantize == "qat" else precision))
    if "onnx" in formats:
        output = "probabilities" if probabilities else "logits"
        example = tests[0]
        if quantize == "qat":
            with tempfile.TemporaryDirectory() as scratch:
                traced = export_onnx(module, Path(scratch) / "traced.onnx", example, output)
                layers = write_integer_graph(traced, folder / "model_int8.onnx")
            logger.info("export: %d layers of the ONNX file give 8-bit outputs", layers)
        else:
            export_onnx(module, folder / "model.onnx", example, output)
            artefacts.append(check(folder / "model.onnx", "onnx", precision))
        if quantize == "ptq":
            quantise_statically(folder / "model.onnx", folder / "model_int8.onnx", batches, symmetric)
        if quantize != "none":
            artefacts.append(check(folder / "model_int8.onnx", "onnx", "int8"))
    if "tensorrt" in formats:
        with tempfile.TemporaryDirectory() as scratch:
            source = export_onnx(module, Path(scratch) / "model.onnx", tests[0])
            build_engine(source, folder / ENGINE, tests[0].shape[1:], precision)
        artefacts.append(check(folder / ENGINE, "tensorrt", precision))
    manifest = {
        "format_version": 1,
        "bundle": "se_resnext101",
        "plan": asdict(plan),
        "input": {
            "name": INPUT,
            "dtype": str(_dtype(plan)).removeprefix("torch."),
            "shape": ["batch", plan.channels, *plan.image_size],
            "preparation": f"{plan.interpolation} with antialiasing, shorter side to {plan.resize_size}, centre cut; "
            "values as in the image file, normalised inside",
        },
        "output": {
            "name": "probabilities" if probabilities else "logits",
            "shape": ["batch", plan.num_classes],
            "activation": ("sigmoid" if plan.multi_label else "softmax") if probabilities else "none",
            "temperature": temperature,
        },
        "quantize": quantize,
        "symmetric": symmetric if quantize == "ptq" else None,
        "calibration_images": sum(map(len, batches)),
        "compared_on": f"{sum(map(len, tests))} " + ("calibration images" if batches else "images of noise"),
        "network_score": check.network_score,
        "versions": package_versions(formats),
    }
    return write_manifest(folder, manifest, artefacts)


def _check_options(
    network: nn.Module,
    plan: ClassPlan,
    formats: Sequence[str],
    batches: list[torch.Tensor],
    quantize: str,
    precision: str,
) -> None:
    problems = Problems("export of a classifier")
    check_formats(problems, formats, precision, key="--export_format")
    if precision != "float32" and quantize != "none":
        problems.add(f"--precision {precision}", "does not go with 8 bits", "--precision float32")
    if "tensorrt" in formats and quantize == "qat":
        problems.add("--format tensorrt", "is not made of a network trained with qat", "--format onnx")
    if quantize not in QUANTIZE:
        problems.add(f"quantize {quantize!r}", "is not known", f"one of {', '.join(QUANTIZE)}")
    if quantize == "ptq" and "onnx" not in formats:
        problems.add("quantize 'ptq'", "makes an ONNX file, which is not among the formats", "add onnx to them")
    if quantize == "ptq" and not batches:
        problems.add("quantize 'ptq'", "has no calibration images", "some hundred images of the training set")
    if quantize == "qat" and not is_fake_quantised(network):
        problems.add("quantize 'qat'", "is for a network that was trained so, this one was not", "quantize ptq")
    if quantize != "qat" and is_fake_quantised(network):
        problems.add(f"quantize {quantize!r}", "does not fit a network trained with qat", "quantize qat")
    shape = (plan.channels, *plan.image_size)
    wrong = next((tuple(batch.shape) for batch in batches if tuple(batch.shape[1:]) != shape), None)
    if wrong is not None:
        problems.add(f"calibration images of shape {wrong}", "do not fit the plan", f"images [N, {shape}]")
    problems.raise_if_any()
    require_packages(formats)


def _dtype(plan: ClassPlan) -> torch.dtype:
    return torch.uint8 if tuple(plan.value_range) == (0.0, 255.0) else torch.float32


def _batches(images: torch.Tensor | Iterable[torch.Tensor] | None) -> list[torch.Tensor]:
    if images is None:
        return []
    given = images.split(CALIBRATION_BATCH) if isinstance(images, torch.Tensor) else images
    return [torch.as_tensor(batch) for batch in given if len(batch)]


def _test_batches(plan: ClassPlan, batches: list[torch.Tensor]) -> list[torch.Tensor]:
    """A single image and some more: a file whose batch size is not free fails on the second."""
    if batches:
        images = torch.cat(batches[:2])[:CALIBRATION_BATCH].to(_dtype(plan))
    else:
        low, high = plan.value_range
        noise = torch.rand(4, plan.channels, *plan.image_size, generator=torch.Generator().manual_seed(0))
        images = (low + (high - low) * noise).to(_dtype(plan))
    return [images[:1], images[1:]] if len(images) > 1 else [images]
