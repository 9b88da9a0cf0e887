"""Rotation and scaling of a patch as a matrix."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np


def affine_matrix(angles: Sequence[float], scale: Sequence[float]) -> np.ndarray:
    """Rotations (degrees) about axes 0, 1, 2 times the scale per axis; `[3, 3]` float64.

    A single angle of 90 turns a cubic patch as `torch.rot90` with k = 1 does in the other two axes.
    """
    matrix = np.diag(np.asarray(scale, float))
    for axis in (2, 1, 0):
        a, b = [i for i in range(3) if i != axis]
        cosine, sine = math.cos(math.radians(angles[axis])), math.sin(math.radians(angles[axis]))
        turn = np.eye(3)
        turn[a, a], turn[a, b], turn[b, a], turn[b, b] = cosine, sine, -sine, cosine
        matrix = turn @ matrix
    return matrix
