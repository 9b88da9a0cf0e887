"""Export of a trained Mask R-CNN: every file must find what the network finds."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812

from monai_ext.engines.instance_inference import input_cases
from monai_ext.engines.instance_samples import WholeInstances
from monai_ext.errors import InputError, Problems
from monai_ext.export.artefact_check import latency_ms, listed
from monai_ext.export.deployed_detector import OUTPUTS, DeployedDetector
from monai_ext.export.detection_comparison import Detect, compare_detections
from monai_ext.export.formats import FORMATS, check_formats, package_versions, require_packages
from monai_ext.export.half_precision import PRECISIONS
from monai_ext.export.manifest import write_manifest
from monai_ext.export.onnx_model import INPUT, OPSET, export_onnx, onnx_runner_of_all
from monai_ext.export.segmentation_inputs import drawn_patches
from monai_ext.export.torchscript import export_torchscript, torchscript_runner
from monai_ext.export.trained_model import TrainedModel
from monai_ext.networks.mask_rcnn.structures import Detections
from monai_ext.planning.instance_plan import InstancePlan

# of parts of the image, scores and mask probabilities; and the share of detections that must have a counterpart: one
# whose score or overlap is at a limit comes or goes by rounding
TOLERANCES = {"float32": (2e-3, 0.98), "float16": (0.1, 0.9), "bfloat16": (0.4, 0.6)}
COMPARED = 3

logger = logging.getLogger(__name__)


def export_detector(
    model: TrainedModel,
    folder: str | Path,
    formats: Sequence[str] = FORMATS,
    precision: str = "float32",
    dynamic: bool = True,
    images: str | Path = "",
    tolerance: float = 0.0,
    opset: int = OPSET,
) -> dict[str, Any]:
    """Write `model.ts` and `model.onnx`, as asked for, and `manifest.json` into a folder.

    Files take one normalised image `[1, C, H, W]` float32 and give boxes, scores, labels and masks of its objects, see
    `DeployedDetector`. TorchScript holds all of it; ONNX has its own operators for suppression and RoIAlign.

    Args:
        model: of the bundle `mask_rcnn`.
        folder: made where it is missing.
        formats: any of `torchscript` and `onnx`.
        precision: of layers and features: `float32`, `float16`, or `bfloat16` (TorchScript only).
        dynamic: images of any size; False takes those of the plan's `image_size` alone.
        images: picture, or folder of pictures, to compare on; empty takes drawn images.
        tolerance: largest difference of box corners (in parts of the image), scores and mask probabilities; 0 takes
            that of the precision.
        opset: version of ONNX's operators.

    Returns:
        The manifest.

    Raises:
        InputError: an option is unknown or does not fit another, a package is missing, or a file differs more than
            allowed; the manifest is written only after all files have passed.
    """
    folder = Path(folder)
    _check_options(model, formats, precision)
    plan: InstancePlan = model.plan
    network: Any = model.network
    pictures = _pictures(plan, images, dynamic)

    def expected(image: torch.Tensor) -> Detections:
        height, width = image.shape[2:]
        padded = F.pad(image, (0, -width % plan.size_divisor, 0, -height % plan.size_divisor))
        return network.detect(padded, torch.tensor([[height, width]]))[0]

    with torch.no_grad():
        count = sum(len(expected(picture).scores) for picture in pictures)
    if not count:
        raise InputError(
            f"export of {model.ckpt_path}: the network finds nothing in the {len(pictures)} images that files are "
            "compared on, which would say nothing of them. Cure: --images with pictures that hold objects"
        )
    network_latency = latency_ms(expected, pictures[0])
    artefacts = []

    def check(path: Path, kind: str, detect: Detect) -> None:
        found = compare_detections(expected, detect, pictures)
        largest, share = TOLERANCES[precision]
        limit = tolerance or largest
        if found.max_difference > limit or found.agreement < share:
            raise InputError(
                f"{path.name}: detections differ from the network's by {found.max_difference:.3g}, allowed are "
                f"{limit:g}; {100 * found.agreement:.1f} % are the network's, needed are {100 * share:g} %. "
                "Cure: --precision float32, a larger --tolerance, or --images with pictures like those of the training"
            )
        logger.info("export: %s, largest difference %.2g, %.1f %% of the detections are the network's",
                    path.name, found.max_difference, 100 * found.agreement)  # fmt: skip
        latencies = latency_ms(detect, pictures[0]), network_latency
        artefacts.append(listed(path, kind, precision, found, limit, latencies))

    for kind in FORMATS:
        if kind not in formats:
            continue
        module = DeployedDetector(network, plan.size_divisor, kind, not dynamic, PRECISIONS[precision]).eval()
        if kind == "torchscript":
            path = folder / "model.ts"
            about = {"bundle": model.bundle, "outputs": list(OUTPUTS)}
            texts = {"plan.json": plan.to_json()}
            export_torchscript(module, path, pictures[0], "trace", about, texts)
            run: Any = torchscript_runner(path)
        else:
            path = folder / "model.onnx"
            outputs = dict.fromkeys(OUTPUTS, "objects")
            export_onnx(module, path, pictures[0], outputs, (2, 3) if dynamic else (), opset)
            run = onnx_runner_of_all(path)

        def detect(image: torch.Tensor, run: Any = run) -> Detections:
            return Detections(*run(image))

        check(path, kind, detect)
    size = ["dynamic", "dynamic"] if dynamic else list(plan.image_size)
    manifest = {
        "format_version": 1,
        "bundle": model.bundle,
        "plan": asdict(plan),
        "input": {"name": INPUT, "dtype": "float32", "shape": [1, plan.channels, *size]},
        "outputs": [
            {"name": "boxes", "dtype": "float32", "shape": ["objects", 4]},
            {"name": "scores", "dtype": "float32", "shape": ["objects"]},
            {"name": "labels", "dtype": "int64", "shape": ["objects"]},
            {"name": "masks", "dtype": "float32", "shape": ["objects", plan.mask_size, plan.mask_size]},
        ],
        "opset": opset,
        # names of files and folders may be those of patients
        "compared_on": f"{count} detections in {len(pictures)} {'of the given' if images else 'drawn'} images",
        "versions": package_versions(formats),
    }
    return write_manifest(folder, manifest, artefacts)


def _pictures(plan: InstancePlan, place: str | Path, dynamic: bool) -> list[torch.Tensor]:
    """Images `[1, C, H, W]` as the plan prepares them; unless `dynamic` cut or padded with zeros to its size."""
    height, width = plan.image_size
    if not place:
        images = list(drawn_patches(plan.channels, (height, width), COMPARED - 1).split(1))
        # another size shows whether it is free; no multiple of the strides
        return [*images, images[0][:, :, : height - 5, : (2 * width) // 3 + 1]] if dynamic else images
    cases = input_cases(str(place))
    samples = WholeInstances(cases, plan)
    images = [samples[number]["image"][None] for number in range(0, len(cases), -(-len(cases) // COMPARED))]
    if dynamic:
        return images
    cut = [image[:, :, :height, :width] for image in images]
    return [F.pad(image, (0, width - image.shape[3], 0, height - image.shape[2])) for image in cut]


def _check_options(model: TrainedModel, formats: Sequence[str], precision: str) -> None:
    problems = Problems(f"export of {model.ckpt_path}")
    if "tensorrt" in formats:
        problems.add(
            f"--format {','.join(formats)}",
            "engines of detectors are not made here: how much they give is known only when they have run",
            "--format onnx, and trtexec or a server's TensorRT provider for its operators",
        )
    others = [name for name in formats if name != "tensorrt"]
    if others or not formats:
        check_formats(problems, others, precision, FORMATS)
    problems.raise_if_any()
    require_packages(formats)
