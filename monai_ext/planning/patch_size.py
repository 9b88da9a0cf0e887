"""Patch and batch that fit a memory target, judged by counting activations."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from monai_ext.planning.topology import MIN_EDGE, Topology, nnunet_topology

START_VOXELS = {2: 2048**2, 3: 256**3}
MAX_FEATURES = {2: 512, 3: 320}
MIN_BATCH = 2
RESIDUAL_BLOCKS = (1, 3, 4, 6)


@dataclass(frozen=True)
class Reference:
    """What one planner of the peer (nnunetv2 2.8.1) takes as full memory.

    Attributes:
        cost: activations of one sample that fit `gigabytes` at the reference batch, for 2 and 3 dimensions.
        gigabytes: memory the costs were measured for.
        residual: the cost is that of a residual encoder with a light decoder instead of the plain U-Net.
        dataset_share: most of the training set's voxels that the peer lets one batch hold.
    """

    cost: dict[int, float]
    gigabytes: float
    residual: bool
    dataset_share: float


REFERENCE_BATCH = {2: 12, 3: 2}
REFERENCES = {
    "plain": Reference({2: 85e6, 3: 560e6}, 8, False, 0.05),
    "residual": Reference({2: 135e6, 3: 680e6}, 8, True, 0.05),
    "residual_m": Reference({2: 135e6, 3: 680e6}, 8, True, 1.0),
    "residual_l": Reference({2: 380e6, 3: 2100e6}, 24, True, 1.0),
    "residual_xl": Reference({2: 560e6, 3: 3600e6}, 40, True, 1.0),
}


def level_features(levels: int, base_features: int, spatial_dims: int) -> tuple[int, ...]:
    """Channels per level: doubled from level to level, at most 320 in 3D and 512 in 2D (or the base, if larger)."""
    most = max(MAX_FEATURES[spatial_dims], base_features)
    return tuple(min(base_features * 2**level, most) for level in range(levels))


def count_activations(topology: Topology, features: Sequence[int], num_classes: int, residual: bool = False) -> int:
    """Output values of all convolutions of one forward pass of one patch.

    Plain U-Net: two convolutions per encoder level; a transposed one and two more per decoder level; one head at full
    resolution. Residual encoder: a stem, two convolutions per block (1, 3, 4, 6, 6, ... blocks) and one shortcut where
    width or resolution changes; a transposed convolution and one more per decoder level.
    """
    edges = list(topology.patch_size)
    total = features[0] * math.prod(edges) if residual else 0
    previous = features[0]
    for level, (stride, width) in enumerate(zip(topology.strides, features, strict=True)):
        edges = [e // s for e, s in zip(edges, stride, strict=True)]
        volume = math.prod(edges)
        decoder_convs = 0 if level == len(features) - 1 else (2 if residual else 3)
        if residual:
            blocks = RESIDUAL_BLOCKS[min(level, len(RESIDUAL_BLOCKS) - 1)]
            projections = int(width != previous or max(stride) > 1)
            total += width * volume * (2 * blocks + projections)
        else:
            total += width * volume * 2
        total += width * volume * decoder_convs
        previous = width
    return total + num_classes * math.prod(topology.patch_size)


@dataclass(frozen=True)
class PatchChoice:
    """A patch with its topology and cost; `start` is the patch before shrinking."""

    topology: Topology
    features: tuple[int, ...]
    cost: int
    start: tuple[int, ...]
    reductions: int


@dataclass(frozen=True)
class MemoryTarget:
    """Memory to fill and the network that fills it.

    Attributes:
        spatial_dims: 2 or 3.
        num_classes: network outputs.
        base_features: channels of level 0.
        memory_gb: GPU memory to aim at.
        reference: name of an entry of `REFERENCES`.
    """

    spatial_dims: int
    num_classes: int
    base_features: int = 32
    memory_gb: float = 8.0
    reference: str = "plain"

    @property
    def budget(self) -> float:
        """Activations that fill the memory at the reference batch; linear in `memory_gb`."""
        reference = REFERENCES[self.reference]
        return reference.cost[self.spatial_dims] * self.memory_gb / reference.gigabytes

    @property
    def patch_budget(self) -> float:
        """Most activations one sample may have while the patch is chosen.

        The plain planner lets a batch of `MIN_BATCH` fill the budget, the residual ones a sample.
        """
        if REFERENCES[self.reference].residual:
            return self.budget
        return self.budget * REFERENCE_BATCH[self.spatial_dims] / MIN_BATCH

    def evaluate(self, spacing: Sequence[float], patch: Sequence[float]) -> tuple[Topology, tuple[int, ...], int]:
        """Return topology, features and activations of a patch."""
        topology = nnunet_topology(spacing, patch)
        features = level_features(len(topology.strides), self.base_features, self.spatial_dims)
        cost = count_activations(topology, features, self.num_classes, REFERENCES[self.reference].residual)
        return topology, features, cost


def start_patch(spacing: Sequence[float], median_shape: Sequence[float]) -> tuple[float, ...]:
    """Largest sensible patch: a cube (256^3) or square (2048^2) in mm, clipped to the median shape.

    Unlike the peer's, an image too small to be halved even once (all edges below 8, say) is given edges of 8, then 16:
    the loader pads the image, and the network keeps two levels instead of failing.
    """
    voxels = START_VOXELS[len(spacing)]
    scale = (voxels * math.prod(spacing)) ** (1 / len(spacing))
    patch = tuple(float(min(round(scale / s), m)) for s, m in zip(spacing, median_shape, strict=True))
    for edge in (2 * MIN_EDGE, 4 * MIN_EDGE):
        if len(nnunet_topology(spacing, patch).strides) > 1:
            break
        patch = tuple(max(p, float(edge)) for p in patch)
    return patch


def choose_patch(spacing: Sequence[float], median_shape: Sequence[float], target: MemoryTarget) -> PatchChoice:
    """Shrink the start patch along its relatively longest axis until the network fits the memory target.

    One reduction takes off what the axis' total stride is after the reduction, so that the patch stays legal and
    shrinks by the smallest step (nnU-Net's rule). Where the peer would go on to an empty patch, no axis is shrunk
    below an edge of 4 and two levels are kept: if nothing can give way any more, the patch stays over the target.

    Args:
        spacing: mm per axis.
        median_shape: voxels per axis, .5 allowed.
        target: memory and network.
    """
    topology, features, cost = target.evaluate(spacing, start_patch(spacing, median_shape))
    start, reductions = topology.patch_size, 0
    while cost > target.patch_budget:
        smaller = _reduce(spacing, median_shape, topology)
        if smaller is None:
            break
        topology, features, cost = target.evaluate(spacing, smaller)
        reductions += 1
    return PatchChoice(topology, features, cost, start, reductions)


def _reduce(spacing: Sequence[float], median_shape: Sequence[float], topology: Topology) -> tuple[int, ...] | None:
    """One step smaller patch, or None if no axis can give way."""
    patch = topology.patch_size
    ratios = [p / m for p, m in zip(patch, median_shape, strict=True)]
    # of equal ratios the last axis gives way, as in the peer
    for axis in sorted(range(len(patch)), key=lambda a: (ratios[a], a), reverse=True):
        tentative = _shortened(patch, axis, topology.divisor[axis])
        if tentative[axis] < MIN_EDGE:
            continue
        after = nnunet_topology(spacing, tentative)
        for candidate in (_shortened(patch, axis, after.divisor[axis]), tentative):
            if candidate[axis] < MIN_EDGE:
                continue
            legal = nnunet_topology(spacing, candidate)
            if len(legal.strides) > 1 and math.prod(legal.patch_size) < math.prod(patch):
                return candidate
    return None


def _shortened(patch: Sequence[int], axis: int, by: int) -> tuple[int, ...]:
    return tuple(p - by if a == axis else p for a, p in enumerate(patch))


@dataclass(frozen=True)
class BatchChoice:
    """Batch size and what bounds it: `by_memory`, `by_data` (share of the training set) and `limit`."""

    size: int
    by_memory: int
    by_data: int
    limit: int


def choose_batch(
    cost: float,
    patch_size: Sequence[int],
    training_voxels: float,
    target: MemoryTarget,
    dataset_share: float = 0.05,
    limit: int = 0,
) -> BatchChoice:
    """Fill the memory target, but let one batch hold at most `dataset_share` of the training set's voxels.

    Args:
        cost: activations of one sample.
        patch_size: voxels per axis.
        training_voxels: voxels of all training cases at target spacing.
        target: memory and network.
        dataset_share: between 0 and 1.
        limit: largest batch, 0 for none. At least 2 is taken in any case.
    """
    by_memory = round(target.budget / cost * REFERENCE_BATCH[target.spatial_dims])
    by_data = round(training_voxels * dataset_share / math.prod(patch_size))
    size = min(by_memory, by_data, limit) if limit else min(by_memory, by_data)
    return BatchChoice(max(size, MIN_BATCH), by_memory, by_data, limit)
