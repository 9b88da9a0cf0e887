"""A model repository for Triton Inference Server, made of a trained model.

Layout and names are those of Triton's documentation: `<model>/config.pbtxt`, `<model>/<version>/model.{onnx,pt,py}`.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from monai_ext.atomic_files import explained, make_folder, partial_name, sync_folder
from monai_ext.errors import Problems
from monai_ext.serving.serving_options import BACKENDS, PIPELINES, ServingOptions, check_options
from monai_ext.serving.triton_config import FREE, Batching, ServedModel, ServedTensor, WarmUp, config_text

_MODEL_PY = '''"""Loaded by Triton's Python backend; what it does lies in the package."""

from monai_ext.serving.{module} import {kind} as TritonPythonModel  # noqa: F401
'''
WARM_UP_FOLDER = "warmup"


def write_repository(model: Any, repository: str | Path, options: ServingOptions, **export: Any) -> list[Path]:
    """Export a trained model and write a model repository, or add models or a version to one.

    A version appears with all its files at once: a server that polls the folder never sees half of one.

    Args:
        model: `TrainedModel` of the bundles `nnunet`, `unet_em` or `se_resnext101`.
        repository: folder, made where it is missing.
        options: see the class.
        export: options of `export_segmenter` or `export_classifier`, such as precision, quantize, dynamic, images.

    Returns:
        Folders of the models.

    Raises:
        InputError: an option is impossible, a version is there already or its model has another configuration, or
            what the export says.
    """
    repository = Path(repository)
    check_options(model, repository, options, export)
    make_folder(repository.absolute().parent)
    scratch = partial_name(repository.absolute())  # beside it: renamed into place, and no model to a polling server
    made: list[ServedModel] = []
    with _removed(scratch):
        scratch.mkdir()
        classifier = model.bundle == "se_resnext101"
        for output in ("probabilities",) if classifier else options.outputs:
            if options.backends:
                made += _networks(model, scratch, options, output, export)
        if options.pipeline and model.bundle in PIPELINES:
            made.append(_pipeline(model, scratch, options, export))
        _check_places(repository, scratch, made, options)
        make_folder(repository)
        for served in made:
            _move(scratch / served.name, repository / served.name, options)
    return [repository / served.name for served in made]


def _networks(
    model: Any, scratch: Path, options: ServingOptions, output: str, export: dict[str, Any]
) -> list[ServedModel]:
    formats = [name for name in ("torchscript", "onnx") if name in options.backends]
    if "python" in options.backends and "onnx" not in formats:
        formats.append("onnx")
    folder = scratch / f".{output}"
    manifest = _export(model, folder, formats, output, export)
    files = {entry["format"]: entry["file"] for entry in reversed(manifest["artefacts"])}  # 8-bit files come first
    shape = [FREE if size == "dynamic" else size for size in manifest["input"]["shape"][1:]]
    source = ServedTensor(manifest["input"]["name"], manifest["input"]["dtype"], tuple(shape))
    classes = tuple(model.plan.classes) if model.bundle == "se_resnext101" else ()
    result = _result(model, output, free=FREE in shape)
    known = manifest["input"]["shape"][1:2] + _window(model)
    served = []
    for backend in options.backends:
        suffix = "__0" if backend == "torchscript" else ""  # how its backend tells the place of a tensor by its name
        inputs = (ServedTensor(source.name + suffix, source.dtype, source.dims),)
        outputs = (
            ServedTensor(output + suffix, result.dtype, result.dims, "classes.txt" if classes and not suffix else ""),
        )
        entry = ServedModel(
            f"{_name(model, options)}_{backend}_{output}",
            BACKENDS[backend],
            inputs,
            outputs,
            options.batching,
            options.instances,
            options.device,
            _parameters(backend, options),
            tuple(
                WarmUp(f"{size} of zeros", size, {inputs[0].name: tuple(known)}, {})
                for size in sorted({1, max(1, options.batching.max_batch_size)})
            ),
        )
        place = _new_model(scratch, entry, options.version)
        if classes:
            (scratch / entry.name / "classes.txt").write_text("\n".join(classes) + "\n", encoding="utf-8")
        kind = "torchscript" if backend == "torchscript" else "onnx"
        shutil.copyfile(folder / files[kind], place / ("model.pt" if kind == "torchscript" else "model.onnx"))
        if backend == "python":
            _write_model_py(place, "triton_network", "BatchedNetwork")
        served.append(entry)
    return served


def _pipeline(model: Any, scratch: Path, options: ServingOptions, export: dict[str, Any]) -> ServedModel:
    from monai_ext.evaluation.postprocessing import POSTPROCESSING_FILE
    from monai_ext.serving.triton_pipeline import EXPORT_FOLDER

    inputs, output, drawn, kind = _volume(model.plan) if model.bundle == "nnunet" else _slices(model.plan)
    name = "volume" if model.bundle == "nnunet" else "slices"
    dims = {tensor: array.shape for tensor, array in drawn.items()}
    served = ServedModel(
        f"{_name(model, options)}_{name}",
        "python",
        inputs,
        (output,),
        Batching(0),  # volumes differ in size; the windows of one are batched by the predictor
        options.instances,
        options.device,
        # of a folder that holds both files, the predictor would take the one in float32
        {**_parameters("python", options), "precision": "int8" if export.get("quantize") == "int8" else ""},
        (WarmUp(name, 1, dims, {tensor: f"{tensor}_raw" for tensor in drawn}),),
    )
    place = _new_model(scratch, served, options.version)
    _export(model, place / EXPORT_FOLDER, ["onnx"], "logits", export)
    _write_model_py(place, "triton_pipeline", kind)
    if (decided := model.folder / POSTPROCESSING_FILE).is_file():
        shutil.copyfile(decided, place / EXPORT_FOLDER / POSTPROCESSING_FILE)
    folder = scratch / served.name / WARM_UP_FOLDER
    folder.mkdir()
    for tensor, array in drawn.items():
        array.astype(np.float32).tofile(folder / f"{tensor}_raw")
    return served


Described = tuple[tuple[ServedTensor, ...], ServedTensor, dict[str, np.ndarray], str]


def _volume(plan: Any) -> Described:
    """Inputs, output, values for the warm-up and class of the pipeline of volumes."""
    from monai_ext.preprocessing.case_preprocessing import class_values
    from monai_ext.serving.triton_pipeline import IMAGE, LABELS, SPACING

    size = (1, *plan.patch_size) if plan.spatial_dims == 2 else tuple(plan.patch_size)
    # zeros would be cut away as background
    drawn = {IMAGE: np.random.default_rng(0).normal(100, 20, (plan.num_channels, *size)), SPACING: np.ones(3)}
    inputs = (ServedTensor(IMAGE, "float32", (plan.num_channels, FREE, FREE, FREE)),)
    labels = ServedTensor(LABELS, "uint8" if max(class_values(plan)) < 256 else "uint16", (FREE, FREE, FREE))
    return (*inputs, ServedTensor(SPACING, "float32", (3,))), labels, drawn, "VolumePipeline"


def _slices(plan: Any) -> Described:
    """The same of the pipeline of slices."""
    from monai_ext.serving.triton_pipeline import IMAGE, PROBABILITIES

    # grey values of another scale than the training's are refused
    low, high = plan.value_range
    drawn = {IMAGE: np.random.default_rng(0).uniform(low, high, (1, *plan.input_size))}
    free = (FREE, FREE, FREE)
    return (
        (ServedTensor(IMAGE, "float32", free),),
        ServedTensor(PROBABILITIES, "float32", free),
        drawn,
        "SlicesPipeline",
    )


def _write_model_py(place: Path, module: str, kind: str) -> None:
    (place / "model.py").write_text(_MODEL_PY.format(module=module, kind=kind), encoding="utf-8")


def _export(model: Any, folder: Path, formats: Sequence[str], output: str, options: dict[str, Any]) -> dict[str, Any]:
    if model.bundle == "se_resnext101":
        from monai_ext.export.classifier import export_classifier

        return export_classifier(model.network, model.plan, folder, formats, **options)
    from monai_ext.export.segmenter import export_segmenter

    return export_segmenter(model, folder, formats, output=output, **options)


def _window(model: Any) -> list[int]:
    name = {"nnunet": "patch_size", "unet_em": "input_size", "se_resnext101": "image_size"}[model.bundle]
    return list(getattr(model.plan, name))


def _result(model: Any, output: str, free: bool) -> ServedTensor:
    """The network's output, its sizes without the batch."""
    if model.bundle == "se_resnext101":
        return ServedTensor(output, "float32", (model.plan.num_classes,))
    size = list(model.plan.output_size) if model.bundle == "unet_em" else _window(model)
    size = [FREE] * len(size) if free else size
    if output == "labels":
        return ServedTensor(output, "uint8", (1, *size))
    return ServedTensor(output, "float32", (2 if model.bundle == "unet_em" else model.plan.num_classes, *size))


def _parameters(backend: str, options: ServingOptions) -> dict[str, str]:
    """What each backend reads of `threads` and `device`."""
    if backend == "python":
        return {"providers": {"cpu": "cpu", "gpu": "cuda"}[options.device], "threads": str(options.threads)}
    if backend == "torchscript":
        return {"INFERENCE_MODE": "true"} | ({"INTRA_OP_THREAD_COUNT": str(options.threads)} if options.threads else {})
    return {"intra_op_thread_count": str(options.threads)} if options.threads else {}


def _new_model(scratch: Path, served: ServedModel, version: int) -> Path:
    place = scratch / served.name / str(version)
    place.mkdir(parents=True)
    (scratch / served.name / "config.pbtxt").write_text(config_text(served), encoding="utf-8")
    return place


def _check_places(repository: Path, scratch: Path, made: Sequence[ServedModel], options: ServingOptions) -> None:
    if options.overwrite:
        return
    problems = Problems(f"--output_dir {repository}")
    for served in made:
        place = repository / served.name
        if not place.exists():
            continue
        if (place / str(options.version)).exists():
            free = 1 + max(int(path.name) for path in place.iterdir() if path.name.isdecimal())
            problems.add(served.name, f"has a version {options.version}", f"--version {free}, or --overwrite True")
            continue
        for file in _shared_files(scratch / served.name, options.version):
            held = place / file
            if not held.is_file() or held.read_bytes() != (scratch / served.name / file).read_bytes():
                problems.add(
                    held,
                    "differs from the new version's: all versions share one",
                    "another --name, or --overwrite True",
                )
    problems.raise_if_any()


def _shared_files(folder: Path, version: int) -> list[Path]:
    """Of a model's folder all files but the version's: configuration, names of classes, values of the warm-up."""
    files = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return [file for file in files if file.parts[0] != str(version)]


def _move(source: Path, place: Path, options: ServingOptions) -> None:
    """Put a model, or its version, in place by renaming; what is replaced goes to the folder of `source` first."""
    if place.exists() and not options.overwrite:
        (source / str(options.version)).rename(place / str(options.version))
        sync_folder(place)
        return
    replaced = source.with_name(f".replaced-{source.name}")
    if place.exists():
        place.rename(replaced)
    try:
        source.rename(place)
    except OSError:
        if replaced.exists():
            replaced.rename(place)
        raise
    sync_folder(place.parent)


def _name(model: Any, options: ServingOptions) -> str:
    return options.name or re.sub(r"[^a-z0-9_]+", "_", str(model.plan.dataset).lower()).strip("_") or model.bundle


@contextmanager
def _removed(folder: Path) -> Iterator[None]:
    try:
        with explained(folder):
            yield
    finally:
        shutil.rmtree(folder, ignore_errors=True)
