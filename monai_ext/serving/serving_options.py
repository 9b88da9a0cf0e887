"""What a person chooses of a model repository, and what of it is impossible."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from monai_ext.errors import Problems
from monai_ext.serving.triton_config import DEVICES, Batching

BUNDLES = ("nnunet", "unet_em", "se_resnext101")
# names of the command line to Triton's
BACKENDS = {"onnx": "onnxruntime", "torchscript": "pytorch", "python": "python"}
PIPELINES = ("nnunet", "unet_em")  # bundles that have one
OUTPUTS = ("labels", "probabilities")


@dataclass(frozen=True)
class ServingOptions:
    """What a person chooses.

    Attributes:
        name: first part of all models' names; empty takes the dataset's.
        backends: of the networks, any of `onnx`, `torchscript` and `python` (ONNX Runtime in Triton's Python backend).
        outputs: of segmentation networks, any of `labels` and `probabilities`; classifiers have probabilities.
        pipeline: also a model that takes a whole volume and gives its label map (nnunet), or takes a stack of slices
            and gives probabilities (unet_em).
        version: number of the version's folder.
        batching: of the networks.
        instances: copies of each model.
        device: `cpu` or `gpu`.
        threads: of a processor, per copy; 0 takes as many as there are.
        overwrite: replace models of the same names with all their versions.
    """

    name: str = ""
    backends: tuple[str, ...] = ("onnx", "torchscript")
    outputs: tuple[str, ...] = OUTPUTS
    pipeline: bool = True
    version: int = 1
    batching: Batching = field(default_factory=Batching)
    instances: int = 1
    device: str = "cpu"
    threads: int = 0
    overwrite: bool = False


def check_options(model: Any, repository: Path, options: ServingOptions, export: dict[str, Any]) -> None:
    """Compare what was asked for with what there is.

    Args:
        model: `TrainedModel`.
        repository: folder that is to be written.
        options: see the class.
        export: options of the export.

    Raises:
        InputError: with everything that is impossible.
    """
    problems = Problems(f"serve-repository {model.ckpt_path}")
    for name in sorted(export.keys() - _export_options(model.bundle)):
        problems.add(f"--{name}", "unknown", f"of the export: {', '.join(sorted(_export_options(model.bundle)))}")
    if model.bundle not in BUNDLES:
        problems.add(
            f"bundle {model.bundle}",
            "gives lists of objects, whose number differs from image to image",
            f"one of {', '.join(BUNDLES)}; or python -m monai_ext export --format torchscript",
        )
    if repository.exists() and not repository.is_dir():
        problems.add(f"--output_dir {repository}", "is a file", "a folder")
    if options.name and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", options.name):
        problems.add(f"--name {options.name}", "is no name of a folder", "letters, digits, _ - .")
    for key, given, known in (("backends", options.backends, BACKENDS), ("outputs", options.outputs, OUTPUTS)):
        if unknown := [name for name in given if name not in known]:
            problems.add(f"--{key} {','.join(unknown)}", "is not known", f"some of {', '.join(known)}")
    if not options.outputs or (not options.backends and not (options.pipeline and model.bundle in PIPELINES)):
        problems.add("--backends and --outputs", "leave nothing to serve", "--backends onnx, --outputs labels")
    if options.device not in DEVICES:
        problems.add(f"--device {options.device}", "is not known", " or ".join(DEVICES))
    for key, switch in (("pipeline", options.pipeline), ("overwrite", options.overwrite)):
        if not isinstance(switch, bool):
            problems.add(f"--{key} {switch}", "is neither True nor False", f"--{key} True")
    batching = options.batching
    for key, value, least in (
        ("version", options.version, 1),
        ("instances", options.instances, 1),
        ("threads", options.threads, 0),
        ("max_batch_size", batching.max_batch_size, 1),
        ("queue_delay_us", batching.queue_delay_us, 0),
    ):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            problems.add(f"--{key} {value}", f"must be a whole number of at least {least}", f"--{key} {least}")
    wrong = [size for size in batching.preferred if not isinstance(size, int) or size < 1]
    if wrong or (isinstance(batching.max_batch_size, int) and max((*batching.preferred, 0)) > batching.max_batch_size):
        problems.add(
            f"--preferred {','.join(map(str, batching.preferred))}",
            f"must be whole numbers from 1 to max_batch_size {batching.max_batch_size}",
            "--preferred 2,4 --max_batch_size 4",
        )
    problems.raise_if_any()


def _export_options(bundle: str) -> set[str]:
    """What a person may ask of the export of a bundle."""
    if bundle == "se_resnext101":
        return {"precision", "float_tolerance"}
    return {"precision", "quantize", "dynamic", "images", "tolerance", "opset"}
