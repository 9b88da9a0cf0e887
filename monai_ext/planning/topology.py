"""Which levels a U-Net gets: strides, kernels and a legal patch, from spacing and patch size alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

MIN_EDGE = 4


@dataclass(frozen=True)
class Topology:
    """Levels of a U-Net; every inner tuple has one entry per axis.

    Attributes:
        strides: per level; level 0 is all ones.
        kernels: per level, same length; the bottleneck's kernel is 3 on every axis.
        patch_size: the given patch, padded up to a multiple of `divisor`.
        divisor: total stride per axis.
    """

    strides: tuple[tuple[int, ...], ...]
    kernels: tuple[tuple[int, ...], ...]
    patch_size: tuple[int, ...]
    divisor: tuple[int, ...]

    @property
    def bottleneck(self) -> tuple[int, ...]:
        """Edge of the deepest feature map in voxels."""
        return tuple(p // d for p, d in zip(self.patch_size, self.divisor, strict=True))


def nnunet_topology(
    spacing: Sequence[float], patch_size: Sequence[float], min_edge: int = MIN_EDGE, max_pools: int | None = None
) -> Topology:
    """Pool the finest axes first, until spacing is even or an edge would fall below `min_edge`.

    The rule of nnU-Net (Isensee et al. 2021, as in nnunetv2 2.8.1): an axis is halved if its edge is at least
    `2 * min_edge` and its spacing is below twice the finest spacing of such axes; a lone axis needs `3 * min_edge`.
    A kernel is 1 along an axis until its spacing comes below twice the finest one, and 3 from there on.

    Args:
        spacing: mm per axis.
        patch_size: wanted patch in voxels; median shapes may end in .5.
        min_edge: smallest edge of a feature map along an axis that is halved.
        max_pools: most halvings per axis, None for no limit.
    """
    spacings, edges = [float(s) for s in spacing], [float(p) for p in patch_size]
    dims = len(spacings)
    pools, kernel = [0] * dims, [1] * dims
    strides, kernels = [(1,) * dims], []
    while True:
        large = [a for a in range(dims) if edges[a] >= 2 * min_edge]
        finest = min((spacings[a] for a in large), default=0.0)
        halved = [a for a in large if spacings[a] / finest < 2 and (max_pools is None or pools[a] < max_pools)]
        if not halved or (len(halved) == 1 and edges[halved[0]] < 3 * min_edge):
            break
        kernel = [3 if k == 3 or s / min(spacings) < 2 else 1 for k, s in zip(kernel, spacings, strict=True)]
        kernels.append(tuple(kernel))
        strides.append(tuple(2 if a in halved else 1 for a in range(dims)))
        for a in halved:
            pools[a] += 1
            spacings[a] *= 2
            edges[a] = math.ceil(edges[a] / 2)
    return _topology(strides, kernels, patch_size)


def msd_topology(spacing: Sequence[float], patch_size: Sequence[int], max_levels: int = 6) -> Topology:
    """Halve every axis within twice the finest spacing while its edge is at least 8, five times at most.

    The rule of the nnU-Net in NVIDIA DeepLearningExamples (spring 2021). It differs from `nnunet_topology` in that
    the finest spacing is taken over all axes, exactly twice counts as near, an axis alone goes on down to an edge
    of 8, a kernel may be 3 early and 1 later, and the depth is capped.

    Args:
        spacing: mm per axis.
        patch_size: voxels.
        max_levels: most levels, bottleneck included.
    """
    spacings, edges = [float(s) for s in spacing], [int(p) for p in patch_size]
    dims = len(spacings)
    strides, kernels = [(1,) * dims], []
    while len(strides) < max_levels:
        near = [s / min(spacings) <= 2 for s in spacings]
        stride = tuple(2 if n and e >= 8 else 1 for n, e in zip(near, edges, strict=True))
        if max(stride) == 1:
            break
        strides.append(stride)
        kernels.append(tuple(3 if n else 1 for n in near))
        spacings = [s * k for s, k in zip(spacings, stride, strict=True)]
        edges = [e // k for e, k in zip(edges, stride, strict=True)]
    return _topology(strides, kernels, patch_size)


def _topology(strides: list[tuple[int, ...]], kernels: list[tuple[int, ...]], patch_size: Sequence[float]) -> Topology:
    divisor = tuple(math.prod(level) for level in zip(*strides, strict=True))
    padded = tuple(math.ceil(p / d) * d for p, d in zip(patch_size, divisor, strict=True))
    return Topology(tuple(strides), (*kernels, (3,) * len(divisor)), padded, divisor)
