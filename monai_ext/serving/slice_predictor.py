"""Slices to membrane probabilities with an exported UNet-EM: numpy and ONNX Runtime, no torch."""

from __future__ import annotations

import math
from itertools import product
from pathlib import Path

import numpy as np

from monai_ext.datasets.em_stack import read_em_images
from monai_ext.datasets.em_values import scaled_as_in_training
from monai_ext.errors import InputError
from monai_ext.inferers.window_positions import check_overlap, window_positions
from monai_ext.planning.em_plan import EmPlan
from monai_ext.planning.valid_sizes import input_size_for, smallest_input_size, valid_output_size
from monai_ext.serving.grid_resampling import resize_slices
from monai_ext.serving.itk_without_torch import itk_without_torch
from monai_ext.serving.served_segmenter import ServedSegmenter, open_segmenter
from monai_ext.serving.window_blend import BLENDS, gaussian_axis, outer_weights

LARGEST = 1036  # network input in pixels of a file with free sizes, as in `ValidTileInferer`
TILES = 4  # per call of the network


class SlicePredictor:
    """Predicts slices as the inference of the bundle `unet_em` does, with an ONNX file instead of torch.

    Of a file with fixed sizes tiles have the plan's `input_size`, which is the inference with `--roi_size` of that
    size; with free sizes slices go through in one piece if they are not too large, as they do there by default.

    Args:
        export_folder: what `python -m monai_ext export RUN --format onnx` wrote, or the run that holds it.
        providers: `cpu` (None), `cuda` or `tensorrt`: what ONNX Runtime computes on.
        threads: per operator; None takes OMP_NUM_THREADS, or as many as this process may use.
        precision: `float32`, `float16` or `int8`, where several were exported; empty takes the first that is there.
        overlap: shared fraction of neighbouring tiles, in [0, 1).
        blend: `gaussian` or `constant`.
        tta: average over flips and turns of 90 degrees.

    Raises:
        InputError: as `open_segmenter`; an option is unknown or out of range.
    """

    def __init__(
        self,
        export_folder: str | Path,
        providers: str | None = None,
        threads: int | None = None,
        precision: str = "",
        overlap: float = 0.25,
        blend: str = "gaussian",
        tta: bool = False,
    ) -> None:
        check_overlap(overlap)
        if blend not in BLENDS:
            raise InputError(f"blend: unknown value {blend!r}. Cure: use one of {', '.join(BLENDS)}")
        self.model: ServedSegmenter = open_segmenter(
            export_folder, precision, providers or "cpu", threads or 0, "unet_em"
        )
        self.plan: EmPlan = self.model.plan
        self.overlap, self.blend, self.tta = overlap, blend, tta
        self._fixed = all(isinstance(n, int) for n in self.model.session.get_inputs()[0].shape[2:])

    def predict(self, slices: np.ndarray | str | Path) -> np.ndarray:
        """Probability that a pixel is no membrane.

        Args:
            slices: `[N, H, W]` grey values as the training's files hold them, or a TIFF of N pages.

        Returns:
            `[N, H, W]` float32, 0 is membrane.

        Raises:
            InputError: the file cannot be read, slices are smaller than the receptive field, or their grey values are
                of another scale than the training's.
        """
        if isinstance(slices, np.ndarray):
            where = f"array of shape {slices.shape}"
            if slices.ndim != 3 or not slices.size:
                raise InputError(f"{where}: slices are [N, H, W]. Cure: a single one is [1, H, W], without channels")
        else:
            where = str(slices)
            with itk_without_torch([Path(slices)]):
                slices = read_em_images(slices)
        images = scaled_as_in_training(slices, self.plan, where)
        return np.stack([self._predict(image) for image in images])

    def _predict(self, image: np.ndarray) -> np.ndarray:
        """Probability of class 1 of a scaled slice `[H, W]`."""
        if self.tta and self.plan.geometry == "resize" and self.plan.input_size[0] != self.plan.input_size[1]:
            raise InputError("--tta True: resized slices can be turned only onto a square. Cure: --tta False")
        total: np.ndarray | None = None
        views = [(flip, turns) for flip in (False, True) for turns in range(4)] if self.tta else [(False, 0)]
        for flip, turns in views:
            view = np.rot90(image[:, ::-1] if flip else image, turns)
            found = np.rot90(self._probabilities(view), -turns)
            found = found[:, ::-1] if flip else found
            total = found.copy() if total is None else total + found
        assert total is not None
        mean = total / np.float32(len(views))
        if mean.shape != image.shape:
            mean = resize_slices(mean[None], image.shape)[0]
        return np.clip(mean, 0, 1)

    def _probabilities(self, image: np.ndarray) -> np.ndarray:
        """Of class 1: `[H, W]`, or of the network's output where slices are resized."""
        if self.plan.geometry == "resize":
            canvas = np.pad(resize_slices(image[None], self.plan.output_size)[0], self.plan.margin)
            return self._network(canvas[None])[0]
        tile = self._tile(image.shape)
        margin, levels = self.plan.margin, self.plan.levels
        padded_size = [max(size, n) + 2 * margin for size, n in zip(image.shape, tile, strict=True)]
        rows, columns = (_mirrored(-margin, n, size) for n, size in zip(padded_size, image.shape, strict=True))
        padded = image[np.ix_(rows, columns)]
        weights = np.ones(tile, np.float32)
        if self.blend == "gaussian":
            weights = outer_weights([gaussian_axis(n) for n in tile]).astype(np.float32)
        total = np.zeros(image.shape, np.float32)
        sums = np.zeros(image.shape, np.float32)
        starts = list(product(*window_positions(image.shape, tile, self.overlap)))
        inputs = [n + 2 * margin for n in tile]
        assert all(valid_output_size(n, levels) for n in inputs)
        for first in range(0, len(starts), TILES):
            batch = starts[first : first + TILES]
            found = self._network(np.stack([padded[y : y + inputs[0], x : x + inputs[1]] for y, x in batch]))
            for (y, x), output in zip(batch, found, strict=True):
                h, w = min(tile[0], image.shape[0] - y), min(tile[1], image.shape[1] - x)
                sums[y : y + h, x : x + w] += output[:h, :w] * weights[:h, :w]
                total[y : y + h, x : x + w] += weights[:h, :w]
        return sums / total

    def _network(self, tiles: np.ndarray) -> np.ndarray:
        """Tiles `[B, H, W]` to probabilities of class 1, `[B, h, w]`; of a file with label maps 0 or 1."""
        scores = self.model(np.ascontiguousarray(tiles[:, None], np.float32))
        if self.model.output == "labels":
            return scores[:, 1]
        with np.errstate(over="ignore"):  # of a difference above 88 the exponential is infinite, its share 0
            return (1 / (1 + np.exp(scores[:, 0] - scores[:, 1]))).astype(np.float32)

    def _tile(self, shape: tuple[int, ...]) -> tuple[int, int]:
        """Output pixels of a tile."""
        sizes = self.plan.input_size if self._fixed else tuple(self._fitting(n) for n in shape)
        height, width = (valid_output_size(size, self.plan.levels) for size in sizes)
        return height, width

    def _fitting(self, pixels: int) -> int:
        """Smallest network input that covers an axis with as few tiles as inputs up to `LARGEST` allow."""
        tiles = 1
        while True:
            # n tiles that share the fraction `overlap` reach over 1 + (n - 1) (1 - overlap) tiles
            size = input_size_for(math.ceil(pixels / (1 + (tiles - 1) * (1 - self.overlap))), self.plan.levels)
            if size <= max(LARGEST, smallest_input_size(self.plan.levels)):
                return size
            tiles += 1


def _mirrored(start: int, length: int, size: int) -> np.ndarray:
    """Pixels `[length]` in [0, size) that a window from `start` on sees; the border pixel is not repeated."""
    if size == 1:
        return np.zeros(length, np.int64)
    position = np.arange(start, start + length) % (2 * (size - 1))
    return np.minimum(position, 2 * (size - 1) - position)
