"""Whole volumes to label maps with an exported nnU-Net: numpy, scipy and ONNX Runtime, no torch."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from monai_ext.datasets.geometry import Geometry
from monai_ext.datasets.image_files import read_image
from monai_ext.errors import InputError
from monai_ext.evaluation.postprocessing import POSTPROCESSING_FILE, Postprocessing
from monai_ext.preprocessing.case_preprocessing import class_values, preprocess, raw_grid, restore_stored_labels
from monai_ext.serving.grid_resampling import labels_of_slabs, resample_image
from monai_ext.serving.itk_without_torch import itk_without_torch
from monai_ext.serving.served_segmenter import ServedSegmenter, open_segmenter
from monai_ext.serving.window_blend import WindowBlend

SLICES = 32  # of a 2D model, per call of the network


@dataclass(frozen=True)
class Segmentation:
    """A predicted case.

    Attributes:
        labels: `[D, H, W]` uint8 (uint16 from class value 256 on), axes (z, y, x), canonical orientation.
        geometry: of the file, which writing the labels takes.
        seconds: what the steps `read`, `prepare`, `network` and `restore` took; `network` is windows and labels.
    """

    labels: np.ndarray
    geometry: Geometry
    seconds: dict[str, float]


class VolumePredictor:
    """Segments volumes as the inference of the bundle `nnunet` does, with an ONNX file instead of torch.

    Crop, normalisation, resampling, windows, blending, way back and post-processing are those of the plan in the
    export's manifest. One predictor serves any number of volumes, also from several threads at a time.

    Args:
        export_folder: what `python -m monai_ext export RUN --format onnx` wrote, or the run that holds it.
        providers: `cpu` (None), `cuda` or `tensorrt`: what ONNX Runtime computes on.
        threads: per operator; None takes OMP_NUM_THREADS, or as many as this process may use.
        precision: `float32`, `float16` or `int8`, where several were exported; empty takes the first that is there.
        overlap: shared fraction of neighbouring windows, in [0, 1).
        blend: `gaussian` or `constant`.
        tta: average over the mirrored versions that the plan allows.
        postprocess: apply `postprocessing.json`: of the run whose `export` the folder is, or the copy in the folder.

    Raises:
        InputError: as `open_segmenter`; an option is unknown; the post-processing is damaged or of other classes.
    """

    def __init__(
        self,
        export_folder: str | Path,
        providers: str | None = None,
        threads: int | None = None,
        precision: str = "",
        overlap: float = 0.5,
        blend: str = "gaussian",
        tta: bool = False,
        postprocess: bool = True,
    ) -> None:
        self.model: ServedSegmenter = open_segmenter(export_folder, precision, providers or "cpu", threads or 0)
        self.plan = self.model.plan
        self._blend = WindowBlend(
            self.model,
            self.plan.patch_size,
            SLICES if self.plan.spatial_dims == 2 else 1,
            overlap,
            blend,
            self.plan.mirror_axes if tta else (),
        )
        self.postprocessing = _postprocessing(self.model) if postprocess else None

    def predict(
        self, volume: np.ndarray | str | Path | Sequence[Path], spacing: Sequence[float] | None = None
    ) -> np.ndarray:
        """Label map of a volume on its own grid.

        Args:
            volume: `[C, D, H, W]` of any real type, axes (z, y, x) in canonical (RAS+) orientation; or an image file,
                a folder with a DICOM series, or one file per channel.
            spacing: of an array, (z, y, x) in mm; files bring their own.

        Returns:
            `[D, H, W]` uint8 (uint16 from class value 256 on), canonical orientation.

        Raises:
            InputError: the file cannot be read, or number of channels, axes, spacing or values do not fit the plan.
        """
        if isinstance(volume, np.ndarray):
            image, geometry = _array(volume, spacing)
            return self._segment(image, geometry, f"array of shape {tuple(volume.shape)}").labels
        if spacing is not None:
            raise InputError("spacing: a file brings its own. Cure: give it for arrays only")
        return self.predict_files([Path(volume)] if isinstance(volume, (str, Path)) else list(volume)).labels

    def predict_files(self, files: Sequence[Path]) -> Segmentation:
        """Label map of a case of one file, or of one file per channel, with what writing it takes; see `predict`."""
        begin = time.perf_counter()
        with itk_without_torch(files):
            image, geometry = read_image(files)
        return self._segment(image, geometry, str(files[0]), time.perf_counter() - begin)

    def _segment(self, image: np.ndarray, geometry: Geometry, where: str, read: float = 0.0) -> Segmentation:
        plan = self.plan
        if image.shape[0] != plan.num_channels:
            raise InputError(
                f"{where}: has {image.shape[0]} channels, the model needs {plan.num_channels} "
                f"({', '.join(plan.channels)}). Cure: give the channels in this order"
            )
        times = [time.perf_counter()]
        try:
            stored, _, placement = preprocess(image, geometry, plan, resample=resample_image)
        except InputError as error:  # which tells the channel
            raise InputError(f"{where}, {error}") from error
        times.append(time.perf_counter())
        shape, separate = raw_grid(placement, geometry, plan)
        labels = labels_of_slabs(self._blend.slabs(stored), placement.stored_shape, shape, separate)
        times.append(time.perf_counter())
        values = class_values(plan)
        if values != list(range(len(values))):
            labels = np.array(values, dtype=np.uint8 if max(values) < 256 else np.uint16)[labels]
        labels = restore_stored_labels(labels, placement, geometry, plan)
        if self.postprocessing is not None:
            labels = self.postprocessing.apply(labels)
        times.append(time.perf_counter())
        steps = [stop - start for start, stop in pairwise(times)]
        return Segmentation(
            labels, geometry, dict(zip(("read", "prepare", "network", "restore"), [read, *steps], strict=True))
        )


def _array(volume: np.ndarray, spacing: Sequence[float] | None) -> tuple[np.ndarray, Geometry]:
    if volume.ndim != 4 or 0 in volume.shape or volume.dtype.kind not in "fiub":
        raise InputError(
            f"array of shape {tuple(volume.shape)}, {volume.dtype}: a volume is [C, D, H, W] of real numbers, none of "
            "them 0. Cure: put channels first, also a single one"
        )
    if spacing is None or len(spacing) != 3 or not all(np.isfinite(s) and s > 0 for s in spacing):
        raise InputError(f"spacing {spacing}: must be three positive numbers. Cure: (z, y, x) in mm")
    affine = np.diag([*(float(s) for s in reversed(spacing)), 1.0])
    z, y, x = volume.shape[1:]
    return np.ascontiguousarray(volume, np.float32), Geometry.from_affine(affine, (x, y, z))


def _postprocessing(model: ServedSegmenter) -> Postprocessing | None:
    """What was decided for the model: beside the `model.pt` whose `export` this is, or beside the file."""
    above = model.file.parent.parent
    places = [*([above] if (above / "model.pt").is_file() else []), model.file.parent]
    path = next((place / POSTPROCESSING_FILE for place in places if (place / POSTPROCESSING_FILE).is_file()), None)
    if path is None:
        return None
    postprocessing = Postprocessing.load(path)
    kept = {value for values in postprocessing.keep_largest for value in values}
    unknown = sorted(kept - set(model.plan.foreground_classes.values()))
    if unknown:
        raise InputError(
            f"{path}: names the class values {unknown}, the plan has {model.plan.foreground_classes}. "
            "Cure: use the file of this model, or --postprocess False"
        )
    return postprocessing
