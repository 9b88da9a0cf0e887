"""The network of `inference_ort.json`: the exported file of a trained model, held against the model's plan."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from monai_ext.engines.trained_models import find_models
from monai_ext.errors import InputError, Problems
from monai_ext.export.manifest import MANIFEST, read_manifest
from monai_ext.file_digest import file_sha256
from monai_ext.inferers.onnx_network import OnnxNetwork
from monai_ext.networks.ensemble import ProbabilityMean, SigmoidMean

FOLDER, FILE = "export", "model.onnx"

logger = logging.getLogger(__name__)


def onnx_network(
    plan: Any,
    ckpt_path: str | Sequence[str],
    bundle_root: str,
    onnx_path: str = "",
    providers: str = "cpu",
    threads: int = 0,
    device: torch.device | str = "cpu",
) -> nn.Module:
    """The exported network of a trained model, or the mean of those of several.

    Args:
        plan: of the model, of any bundle of segmentation or classification.
        ckpt_path: model, or models of a cross-validation, as in `find_models`.
        bundle_root: of the running bundle.
        onnx_path: file, or folder with `model.onnx`, of a single model; empty takes `export/model.onnx` beside each
            model.
        providers, threads: see `OnnxNetwork`.
        device: whose index is that of the provider's GPU.

    Raises:
        InputError: there is no file, it has changed since its export, was made of another model, or cannot be run.
    """
    models = find_models(ckpt_path, bundle_root)
    if onnx_path and len(models) > 1:
        raise InputError(
            f"--onnx_path {onnx_path}: is one file, ckpt_path gives {len(models)} models. "
            "Cure: leave it empty and export every model, or one ckpt_path"
        )
    index = torch.device(device).index or 0
    networks = [_of_model(plan, model, onnx_path, providers, threads, index) for model in models]
    if len(networks) == 1:
        return networks[0]
    return (SigmoidMean if getattr(plan, "multi_label", False) else ProbabilityMean)(networks)


def window_size(network: nn.Module) -> list[int]:
    """Spatial size that the file of a network is fixed to, empty where it is free."""
    size = list(next(part for part in network.modules() if isinstance(part, OnnxNetwork)).spatial_size)
    if size:
        logger.info("windows of %s, to which the file is fixed; an export with --dynamic True takes any", size)
    return size


def stored_images(
    batch: Mapping[str, Any], device: torch.device | str | None = None, non_blocking: bool = False, **_: Any
) -> tuple[torch.Tensor, None]:
    """`prepare_batch` for exported classifiers, which normalise by themselves: images as the loader gives them."""
    images = torch.as_tensor(batch["image"])
    return (images if device is None else images.to(device, non_blocking=non_blocking)), None


def no_activation(cam: bool) -> None:
    """What draws activation maps: nothing does.

    Raises:
        InputError: they are asked for.
    """
    if cam:
        raise InputError("--cam True: needs gradients, which ONNX files do not have. Cure: inference.json alone")


def _of_model(plan: Any, model: str, onnx_path: str, providers: str, threads: int, index: int) -> OnnxNetwork:
    path = Path(onnx_path) if onnx_path else Path(model).parent / FOLDER
    path = path if path.suffix == ".onnx" else path / FILE
    if not path.is_file():
        others = sorted(str(file) for file in path.parent.glob("*.onnx"))
        cure = f"--onnx_path {others[0]}, or " if others else ""
        raise InputError(
            f"{path}: does not exist. Cure: {cure}python -m monai_ext export {Path(model).parent} --format onnx"
        )
    manifest = _manifest(path)
    problems = Problems(f"{path} and {model}")
    _check_plan(manifest.get("plan", {}), plan, problems)
    # exports of earlier versions do not tell
    if manifest.get("model_sha256", "") not in ("", file_sha256(model)):
        problems.add("weights", "of the export are not those of the model, trained anew since", "export it again")
    output = manifest.get("output", {})
    network = OnnxNetwork(
        path,
        providers,
        threads,
        output.get("name", ""),
        float(output.get("temperature", 1.0)),
        getattr(plan, "multi_label", False),
        index,
    )
    _check_sizes(network, plan, problems)
    problems.raise_if_any()
    logger.info("%s by ONNX Runtime, %s, %s threads", path, providers, threads or torch.get_num_threads())
    return network


def _manifest(path: Path) -> dict[str, Any]:
    """What the export wrote about a file; empty, with a warning, for a file that came otherwise."""
    if (path.parent / MANIFEST).is_file():
        manifest = read_manifest(path.parent)
        if path.name in [entry["file"] for entry in manifest["artefacts"]]:
            return manifest
    logger.warning("%s: is in no manifest of an export; only the shapes of its input and output are checked", path)
    return {}


def _check_plan(exported: Mapping[str, Any], plan: Any, problems: Problems) -> None:
    own = json.loads(json.dumps(asdict(plan)))
    for name, value in exported.items():
        # fields that a later version added, and explanations, shape nothing
        if name in own and name not in ("why", "version") and own[name] != value:
            problems.add(
                f"plan, {name}",
                f"is {value!r} in the export and {own[name]!r} beside the model",
                "export this model again, or the ckpt_path that was exported",
            )


def _check_sizes(network: OnnxNetwork, plan: Any, problems: Problems) -> None:
    channels = getattr(plan, "num_channels", getattr(plan, "channels", 1))
    classes = getattr(plan, "num_classes", 2)
    for name, found, wanted in (
        ("input channels", network.channels, channels),
        ("classes", network.classes, classes),
        ("spatial axes", network.spatial_dims, getattr(plan, "spatial_dims", 2)),
    ):
        if found not in (0, wanted):
            problems.add(name, f"are {found} in the file, {wanted} in the plan", "the file of this model")
