"""An exported segmentation network as the manifest of its folder describes it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from monai_ext.errors import InputError, Problems
from monai_ext.export.manifest import MANIFEST, read_manifest
from monai_ext.planning.em_plan import EmPlan
from monai_ext.planning.plan import Plan
from monai_ext.planning.plan_file import plan_from_dict
from monai_ext.planning.plan_kinds import bundle_of
from monai_ext.serving.onnx_session import open_session

OUTPUTS = ("logits", "probabilities", "labels")
PRECISIONS = ("float32", "float16", "int8")  # in the order of preference
FORMAT_VERSION = 1
MEMBRANE_CLASSES = 2  # membrane and what it encloses
TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
LEAST_PROBABILITY = 1e-30  # its logarithm is finite, and no class with it is ever chosen
_EXPORT = "python -m monai_ext export RUN --format onnx"


@dataclass(frozen=True)
class ServedSegmenter:
    """An open network; calling it maps windows `[N, C, *S]` float32 to finite scores `[N, K, *S]` float32.

    Scores are logits, or logarithms of probabilities, which are logits up to a constant per voxel. Blending,
    interpolation and the choice of the largest do not notice the constant. Of a network that gives label maps they are
    votes, 1 for the class of a voxel and 0 for the others; where windows overlap the larger share wins. A call raises
    `InputError` if the runtime fails or a score is not finite.

    Attributes:
        file: of the network.
        plan: of the model, one of nnU-Net or of UNet-EM.
        output: what the file gives: `logits`, `probabilities` or `labels`.
        precision: `float32`, `float16` or `int8`.
        session: of ONNX Runtime.
    """

    file: Path
    plan: Any
    output: str
    precision: str
    session: Any

    @property
    def num_classes(self) -> int:
        """Channels of the scores, background included."""
        return MEMBRANE_CLASSES if isinstance(self.plan, EmPlan) else int(self.plan.num_classes)

    @property
    def window(self) -> list[int]:
        """Channels and spatial size that the plan gives the network."""
        if isinstance(self.plan, EmPlan):
            return [1, *self.plan.input_size]
        return [self.plan.num_channels, *self.plan.patch_size]

    def __call__(self, windows: np.ndarray) -> np.ndarray:
        source = self.session.get_inputs()[0]
        try:
            (result,) = self.session.run(None, {source.name: windows.astype(TYPES[source.type], copy=False)})
        except Exception as error:  # ONNX Runtime's errors have no base of their own
            reason = " ".join(str(error).split())[:300]
            raise InputError(
                f"{self.file}: onnxruntime failed on windows {list(windows.shape)} ({reason}). "
                "Cure: more memory, --providers cpu, or export again"
            ) from error
        if self.output == "labels":
            classes = np.arange(self.num_classes).reshape(1, -1, *[1] * (windows.ndim - 2))
            return (np.asarray(result) == classes).astype(np.float32)
        scores = np.asarray(result, np.float32)
        if not (np.isfinite(scores.min()) and np.isfinite(scores.max())):  # either is NaN where one score is
            raise InputError(
                f"{self.file}: gives scores that are NaN or infinite in {self.precision}, of which no label can be "
                "chosen. Cure: --precision float32; if it is that already, look at the grey values of the image"
            )
        return scores if self.output == "logits" else np.log(np.maximum(scores, LEAST_PROBABILITY))


def open_segmenter(
    folder: str | Path, precision: str = "", providers: str = "cpu", threads: int = 0, bundle: str = "nnunet"
) -> ServedSegmenter:
    """Open the network of an export of the bundle `nnunet` or `unet_em`.

    Args:
        folder: of `manifest.json`; or one that holds such a folder, `export`.
        precision: `float32`, `float16` or `int8`, where several were exported; empty takes the first that is there.
        providers: `cpu`, `cuda` or `tensorrt`.
        threads: per operator; 0 takes as many as there are.
        bundle: of which the export must be.

    Raises:
        InputError: no export is there, its plan is missing or of another bundle, no file has the precision, or file,
            manifest and plan do not fit each other; and as `open_session`.
    """
    folder = export_folder(folder)
    where = folder / MANIFEST
    manifest = read_manifest(folder)
    plan = _plan(manifest, where, bundle)
    file, precision = _file(manifest, where, precision)
    output = manifest.get("output", {}).get("name") if isinstance(manifest.get("output"), dict) else None
    if output not in OUTPUTS:
        raise InputError(f"{where}: output {output!r} is none of {', '.join(OUTPUTS)}. Cure: export again, {_EXPORT}")
    session = open_session(folder / file, providers, threads)
    served = ServedSegmenter(folder / file, plan, output, precision, session)
    _check_shapes(served)
    return served


def bundle_of_export(folder: str | Path) -> str:
    """Name of the bundle whose model was exported, by its plan; empty if it is none's.

    Raises:
        InputError: no export is there, or it has no plan.
    """
    folder = export_folder(folder)
    return bundle_of(_plan_content(read_manifest(folder), folder / MANIFEST))


def export_folder(folder: str | Path) -> Path:
    """The folder that holds `manifest.json`: this one, or `export` or `models/export` in it.

    Raises:
        InputError: none of them holds one.
    """
    folder = Path(folder)
    for place in (folder, folder / "export", folder / "models" / "export"):
        if (place / MANIFEST).is_file():
            return place
    what = f"holds no {MANIFEST}" if folder.is_dir() else "is no folder"
    raise InputError(f"{folder}: {what}. Cure: export the model first, {_EXPORT}, and give the folder it writes")


def _plan_content(manifest: dict[str, Any], where: Path) -> dict[str, Any]:
    version = manifest.get("format_version")
    if version != FORMAT_VERSION:
        raise InputError(f"{where}: format_version {version!r} is not {FORMAT_VERSION}. Cure: export again, {_EXPORT}")
    content = manifest.get("plan")
    if not isinstance(content, dict) or not content:
        raise InputError(f"{where}: holds no plan, without which no image can be prepared. Cure: export again")
    return content


def _plan(manifest: dict[str, Any], where: Path, bundle: str) -> Plan | EmPlan:
    content = _plan_content(manifest, where)
    found = bundle_of(content)
    if found != bundle:
        raise InputError(
            f"{where}: is a model of {found or 'no known bundle'}, this takes one of {bundle}. "
            "Cure: the inference of that bundle, python -m monai.bundle run --config_file configs/inference.json"
        )
    if bundle == "nnunet":
        return Plan.from_dict(content, f"{where}, plan")
    plan = plan_from_dict(EmPlan, content, f"{where}, plan")
    plan.check(f"{where}, plan")
    return plan


def _file(manifest: dict[str, Any], where: Path, precision: str) -> tuple[str, str]:
    """Name and precision of the file to serve."""
    found = {
        entry["precision"]: entry["file"]
        for entry in manifest["artefacts"]
        if entry.get("format") == "onnx" and isinstance(entry.get("precision"), str)
    }
    if not found:
        raise InputError(f"{where}: lists no ONNX file. Cure: export again, {_EXPORT}")
    # the manifest lists 8-bit files first; a person who asks for nothing gets what the network computes
    chosen = precision or next((name for name in PRECISIONS if name in found), next(iter(found)))
    if chosen not in found:
        option = {"int8": "--quantize int8"}.get(chosen, f"--precision {chosen}")
        cure = f", or export again with {option}" if chosen in PRECISIONS else ""
        raise InputError(f"--precision {chosen}: {where} lists {', '.join(found)}. Cure: one of these{cure}")
    return found[chosen], chosen


def _check_shapes(served: ServedSegmenter) -> None:
    """The file must take the channels and windows of the plan, and give its classes."""
    problems = Problems(str(served.file))
    sources, results = served.session.get_inputs(), served.session.get_outputs()
    wanted = ["batch", *served.window]
    shape = list(sources[0].shape) if len(sources) == 1 else []
    fits = len(shape) == len(wanted) and all(
        not isinstance(size, int) or size == want for size, want in zip(shape[1:], wanted[1:], strict=True)
    )
    cure = f"the file that was exported with this plan; or export again, {_EXPORT}"
    if not fits or sources[0].type not in TYPES:
        found = ", ".join(f"{source.type} {source.shape}" for source in sources)
        problems.add("input", f"is {found}, the plan's windows are {wanted}", cure)
    elif isinstance(shape[0], int):
        problems.add("input", f"has a fixed batch of {shape[0]}", f"export again, {_EXPORT}")
    classes = results[0].shape[1] if len(results[0].shape) == len(wanted) else None
    expected = 1 if served.output == "labels" else served.num_classes
    if len(results) != 1 or (classes != expected and (classes is None or isinstance(classes, int))):
        problems.add("output", f"has {classes} channels, {served.output} of this plan have {expected}", cure)
    problems.raise_if_any()
