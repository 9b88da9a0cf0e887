"""Sliding windows in numpy: even spread, Gaussian blending, mirrored copies, and scores as soon as they are final.

Windows, weights and their order are those of `monai_ext.inferers.WindowInferer` (nnU-Net's, Isensee et al., Nature
Methods 2021); there torch does the work, here it is not needed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import chain, combinations, product

import numpy as np

from monai_ext.errors import InputError
from monai_ext.inferers.window_positions import check_overlap, window_positions

BLENDS = ("gaussian", "constant")
SIGMA_SCALE = 0.125  # of the window's size
Network = Callable[[np.ndarray], np.ndarray]


class WindowBlend:
    """Predicts windows and adds up their scores with weights that sum to one at every voxel.

    Args:
        network: maps windows `[N, C, *roi]` float32 to scores `[N, K, *roi]` float32.
        roi_size: window size per axis, in voxels; 2 axes predict stacks slice by slice.
        batch_size: slices of a stack, or mirrored copies of windows, per call of the network.
        overlap: shared fraction of neighbouring windows, in [0, 1).
        blend: `gaussian` or `constant`.
        mirror_axes: axes along which windows are also predicted mirrored, all combinations of them.

    Raises:
        InputError: overlap outside [0, 1), unknown blend, batch size below 1.
    """

    def __init__(
        self,
        network: Network,
        roi_size: Sequence[int],
        batch_size: int = 2,
        overlap: float = 0.5,
        blend: str = "gaussian",
        mirror_axes: Sequence[int] = (),
    ) -> None:
        check_overlap(overlap)
        if blend not in BLENDS:
            raise InputError(f"blend: unknown value {blend!r}. Cure: use one of {', '.join(BLENDS)}")
        if batch_size < 1:
            raise InputError(f"batch_size: must be at least 1, got {batch_size}. Cure: 1 takes the least memory")
        self.network = network
        self.roi_size = tuple(roi_size)
        self.batch_size = int(batch_size)
        self.overlap = overlap
        self.blend = blend
        self.flips = list(chain.from_iterable(combinations(mirror_axes, n) for n in range(len(mirror_axes) + 1)))

    def slabs(self, volume: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        """Blended scores of a volume `[C, d, h, w]` in order: first row of the first axis, scores `[K, n, h, w]`."""
        if len(self.roi_size) == 3:
            for first, scores in self._final_rows(volume[None]):
                yield first, scores[0]
            return
        for first in range(0, volume.shape[1], self.batch_size):
            slices = np.moveaxis(volume[:, first : first + self.batch_size], 1, 0)
            blocks = [scores for _, scores in self._final_rows(slices)]
            yield first, np.moveaxis(np.concatenate(blocks, 2), 0, 1)

    def _final_rows(self, items: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        """For items `[B, C, *S]`: rows that no later window reaches, `[B, K, n, *rest]`, and the first of them."""
        shape = items.shape[2:]
        missing = [max(roi - size, 0) for roi, size in zip(self.roi_size, shape, strict=True)]
        if any(missing):
            items = np.pad(items, [(0, 0), (0, 0), *((n // 2, n - n // 2) for n in missing)])
        positions = window_positions(items.shape[2:], self.roi_size, self.overlap)
        weights = shared_weights(items.shape[2:], self.roi_size, positions, self.blend, len(self.flips))
        inside = tuple(slice(n // 2, n // 2 + size) for n, size in zip(missing, shape, strict=True))
        even: dict[bytes, np.ndarray] = {}
        sums: np.ndarray | None = None  # scores of the rows from `base` on, as many as a window has
        base = 0
        for start, row_weights in zip(positions[0], weights[0], strict=True):
            if sums is not None and start > base:
                yield from self._cut(sums[:, :, : start - base], base, inside)
                sums = _moved_up(sums, start - base)
                base = start
            rest = product(*(range(len(starts)) for starts in positions[1:]))
            for place in rest:
                corner = [starts[i] for starts, i in zip(positions[1:], place, strict=True)]
                box = tuple(slice(a, a + n) for a, n in zip((start, *corner), self.roi_size, strict=True))
                scores = self._scores(items[(slice(None), slice(None), *box)], even)
                if sums is None:
                    sums = np.zeros((*scores.shape[:3], *items.shape[3:]), np.float32)
                vectors = [row_weights, *(axis[i] for axis, i in zip(weights[1:], place, strict=True))]
                sums[(slice(None), slice(None), slice(None), *box[1:])] += scores * outer_weights(vectors)
        assert sums is not None
        yield from self._cut(sums, base, inside)

    def _cut(self, sums: np.ndarray, base: int, inside: tuple[slice, ...]) -> Iterator[tuple[int, np.ndarray]]:
        """Without the padding; nothing where all rows lie in it."""
        first, stop = max(base, inside[0].start), min(base + sums.shape[2], inside[0].stop)
        if stop > first:
            rows = sums[:, :, first - base : stop - base]
            yield first - inside[0].start, rows[(slice(None), slice(None), slice(None), *inside[1:])]

    def _scores(self, windows: np.ndarray, even: dict[bytes, np.ndarray]) -> np.ndarray:
        """Scores `[B, K, *roi]` of windows `[B, C, *roi]`, summed over their mirrored copies.

        A window of one value per channel (air, what was cropped away) is predicted once a volume.
        """
        if len(windows) == 1:
            first = windows[(slice(None), slice(None), *[slice(0, 1)] * len(self.roi_size))]
            if (windows == first).all():
                key = first.tobytes()
                if key not in even:
                    even.clear()  # a volume of many such values must not fill the memory
                    even[key] = self._predicted(windows)
                return even[key]
        return self._predicted(windows)

    def _predicted(self, windows: np.ndarray) -> np.ndarray:
        total: np.ndarray | None = None
        for flip in self.flips:
            axes = tuple(axis + 2 for axis in flip)
            copies = np.ascontiguousarray(np.flip(windows, axes))
            parts = [self.network(copies[n : n + self.batch_size]) for n in range(0, len(copies), self.batch_size)]
            scores = np.flip(parts[0] if len(parts) == 1 else np.concatenate(parts), axes)
            total = scores if total is None else total + scores
        assert total is not None
        return total


def shared_weights(
    shape: Sequence[int], window: Sequence[int], positions: Sequence[Sequence[int]], blend: str, copies: int = 1
) -> list[np.ndarray]:
    """Weights of all windows, one `[len(positions[i]), window[i]]` float32 per axis, which sum to one at every voxel.

    See `monai_ext.inferers.windows.shared_weights`.
    """
    shared = []
    for size, roi, starts in zip(shape, window, positions, strict=True):
        axis = gaussian_axis(roi) if blend == "gaussian" else np.ones(roi)
        places = np.asarray(starts)[:, None] + np.arange(roi)
        total = np.zeros(size)
        np.add.at(total, places, np.broadcast_to(axis, places.shape))
        shared.append((axis / total[places]).astype(np.float32))
    shared[0] /= np.float32(copies)
    return shared


def gaussian_axis(size: int) -> np.ndarray:
    """Gaussian along one axis of a window, peak 1 at `size // 2`; `[size]` float64."""
    return np.exp(-0.5 * ((np.arange(size, dtype=np.float64) - size // 2) / (SIGMA_SCALE * size)) ** 2)


def outer_weights(vectors: Sequence[np.ndarray]) -> np.ndarray:
    """Product `[*window]` float32 of one vector per axis; what underflows stays at the smallest normal number."""
    weights = vectors[0]
    for vector in vectors[1:]:
        weights = weights[..., None] * vector
    return np.maximum(weights, np.finfo(np.float32).tiny)


def _moved_up(sums: np.ndarray, rows: int) -> np.ndarray:
    """The rows from `rows` on, followed by zeros."""
    result = np.zeros_like(sums)
    result[:, :, : sums.shape[2] - rows] = sums[:, :, rows:]
    return result
