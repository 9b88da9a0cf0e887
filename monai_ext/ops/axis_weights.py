"""Which inputs an output reads along one axis, and with which weights.

Cubic B-splines: Unser, "Splines: a perfect fit for signal and image processing", 1999. Prefilter and spline are put
into one set of weights here, so that every order is one banded matrix per axis.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

TIE_SHIFT = 2.0**-16  # voxels; decides between equal shares of labels, see `label_weights`
LABEL_UNIT = 2**17  # weights of labels are multiples of its reciprocal: products of three fit a float64 exactly

_POLE = math.sqrt(3.0) - 2.0  # of the cubic B-spline's inverse filter
_SPLINE_REACH = 14  # voxels each side; |pole| ** 14 = 1e-8 is below the resolution of float32


@dataclass(frozen=True)
class AxisWeights:
    """Output `i` is the sum over `t` of `weights[i, t] * input[first[i] + t]`.

    Attributes:
        n_in: voxels of the input.
        first: `[n_out]` int64, never decreasing; `first + taps <= n_in`.
        weights: `[n_out, taps]` float64, rows sum to 1.
    """

    n_in: int
    first: np.ndarray
    weights: np.ndarray

    @property
    def n_out(self) -> int:
        return len(self.first)

    @property
    def taps(self) -> int:
        return int(self.weights.shape[1])

    def part(self, outputs: slice) -> tuple[slice, AxisWeights]:
        """Inputs that some of the outputs read, and the weights of these outputs on them alone."""
        first = self.first[outputs]
        start, stop = int(first[0]), int(first[-1]) + self.taps
        return slice(start, stop), AxisWeights(stop - start, first - start, self.weights[outputs])


def axis_weights(n_in: int, n_out: int, order: int) -> AxisWeights:
    """Weights of order 0 (nearest), 1 (linear) or 3 (cubic B-spline); of equal sizes each voxel is copied."""
    return _clipped(n_in, n_out, *_taps(_centres(n_in, n_out), order))


def label_weights(n_in: int, n_out: int, order: int) -> AxisWeights:
    """Weights of order 0 or 1 for label maps, multiples of `1 / LABEL_UNIT`.

    Outputs lie higher by `TIE_SHIFT`: of classes whose shares would be equal, the one at the higher coordinate has
    more. As all sums of products are exact in float64, no rounding ever decides.
    """
    taps, weights = _taps(_centres(n_in, n_out) + TIE_SHIFT, order)
    if order == 1:
        weights[:, 1] = np.round(weights[:, 1] * LABEL_UNIT) / LABEL_UNIT
        weights[:, 0] = 1 - weights[:, 1]
    return _clipped(n_in, n_out, taps, weights)


def _centres(n_in: int, n_out: int) -> np.ndarray:
    return (np.arange(n_out) + 0.5) * (n_in / n_out) - 0.5


def _clipped(n_in: int, n_out: int, taps: np.ndarray, weights: np.ndarray) -> AxisWeights:
    """On an axis that ends: an index beyond the border means the border voxel."""
    if n_in == n_out:
        return AxisWeights(n_in, np.arange(n_in), np.ones((n_in, 1)))
    width = min(taps.shape[1], n_in)
    first = np.clip(taps[:, 0], 0, n_in - width)
    clipped = np.zeros((n_out, width))
    np.add.at(clipped, (np.arange(n_out)[:, None], np.clip(taps, 0, n_in - 1) - first[:, None]), weights)
    return AxisWeights(n_in, first, clipped)


def _taps(centres: np.ndarray, order: int) -> tuple[np.ndarray, np.ndarray]:
    """Inputs that each output reads and their weights, `[outputs, taps]`, on an unlimited axis."""
    if order == 0:
        return np.floor(centres + 0.5).astype(np.int64)[:, None], np.ones((len(centres), 1))
    first = np.floor(centres).astype(np.int64)
    fraction = (centres - first)[:, None]
    if order == 1:
        return first[:, None] + np.arange(2), np.concatenate([1 - fraction, fraction], axis=1)
    # Coefficients are the samples filtered by sqrt(3) * pole ** |k|, the value is four of them weighted by the spline.
    steps = np.arange(1 - _SPLINE_REACH, _SPLINE_REACH + 1)
    weights = np.zeros((len(centres), len(steps)))
    for knot in range(-1, 3):
        weights += _cubic_spline(fraction - knot) * math.sqrt(3.0) * _POLE ** np.abs(steps - knot)
    return first[:, None] + steps, weights / weights.sum(axis=1, keepdims=True)


def _cubic_spline(distance: np.ndarray) -> np.ndarray:
    d = np.abs(distance)
    return np.where(d < 1, 2 / 3 - d**2 + d**3 / 2, np.where(d < 2, (2 - d) ** 3 / 6, 0.0))
