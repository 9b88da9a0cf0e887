"""Activation counts, shrinking and batches."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from monai_ext.networks.plan_unet import PlanUNet
from monai_ext.planning.patch_size import (
    MemoryTarget,
    choose_batch,
    choose_patch,
    count_activations,
    level_features,
    start_patch,
)
from monai_ext.planning.topology import nnunet_topology

GRIDS = st.integers(2, 3).flatmap(
    lambda dims: st.tuples(
        st.lists(st.floats(0.1, 12), min_size=dims, max_size=dims),
        st.lists(st.integers(2, 1200).map(lambda n: n / 2), min_size=dims, max_size=dims),
    )
)


@pytest.mark.parametrize(("base", "dims", "last"), [(32, 3, 320), (32, 2, 512), (16, 3, 320), (400, 3, 400)])
def test_features_double_up_to_the_cap(base: int, dims: int, last: int) -> None:
    features = level_features(7, base, dims)
    assert features[0] == base
    assert features[-1] == last
    assert all(b == min(2 * a, last) for a, b in pairwise(features))


def test_counts_of_the_peer_at_128_cubed() -> None:
    topology = nnunet_topology((1, 1, 1), (128, 128, 128))
    features = level_features(6, 32, 3)
    # read from the peer's own estimate: 453 M plain, 557 M with the residual encoder
    assert round(count_activations(topology, features, 3) / 1e6) == 453
    assert round(count_activations(topology, features, 3, residual=True) / 1e6) == 557


@pytest.mark.parametrize(
    ("spacing", "patch"), [((1, 1, 1), (24, 16, 16)), ((5, 1, 1), (8, 32, 32)), ((1, 2), (40, 24))]
)
def test_count_is_what_the_network_computes(spacing: tuple[float, ...], patch: tuple[int, ...]) -> None:
    topology = nnunet_topology(spacing, patch)
    features = level_features(len(topology.strides), 4, len(patch))
    network = PlanUNet(len(patch), 1, 3, topology.strides, topology.kernels, features).eval()
    seen = 0

    def count(module: torch.nn.Module, inputs: object, output: torch.Tensor) -> None:
        nonlocal seen
        seen += output.numel()

    convolutions = torch.nn.Conv2d | torch.nn.Conv3d | torch.nn.ConvTranspose2d | torch.nn.ConvTranspose3d
    for module in network.modules():
        if isinstance(module, convolutions):
            module.register_forward_hook(count)
    with torch.no_grad():
        network(torch.zeros(1, 1, *topology.patch_size))
    assert seen == count_activations(topology, features, 3)


def test_start_is_a_cube_in_mm_clipped_to_the_median() -> None:
    assert start_patch((1, 1, 1), (500, 500, 500)) == (256, 256, 256)
    assert start_patch((1, 1, 1), (500, 100.5, 500)) == (256, 100.5, 256)
    start = start_patch((2, 1, 1), (999, 999, 999))
    assert start == (161, 323, 323)


@pytest.mark.parametrize("shape", [(3, 3, 3), (7, 7, 7), (1, 1, 1), (11, 4, 4), (5, 5)])
def test_tiny_images_still_get_two_levels(shape: tuple[int, ...]) -> None:
    choice = choose_patch((1.0,) * len(shape), shape, MemoryTarget(len(shape), 2))
    assert len(choice.topology.strides) == 2
    assert min(choice.topology.bottleneck) >= 4
    assert max(choice.topology.patch_size) <= 16


@given(GRIDS, st.sampled_from([0.05, 1.0, 8.0, 40.0]), st.sampled_from(["plain", "residual_l"]))
def test_any_dataset_fits_or_cannot_shrink(
    grid: tuple[list[float], list[float]], memory_gb: float, reference: str
) -> None:
    spacing, median = grid
    memory = MemoryTarget(len(spacing), 3, memory_gb=memory_gb, reference=reference)
    choice = choose_patch(spacing, median, memory)
    topology = choice.topology
    assert all(p % d == 0 for p, d in zip(topology.patch_size, topology.divisor, strict=True))
    assert len(topology.strides) >= 2
    if choice.cost > memory.patch_budget:
        # stuck: one total stride less on any axis leaves under 4 voxels, a single level, or no smaller legal patch
        for axis, (size, divisor) in enumerate(zip(topology.patch_size, topology.divisor, strict=True)):
            shorter = [p - divisor if a == axis else p for a, p in enumerate(topology.patch_size)]
            legal = nnunet_topology(spacing, shorter)
            smaller = len(legal.strides) > 1 and math.prod(legal.patch_size) < math.prod(topology.patch_size)
            assert size - divisor < 4 or not smaller


def test_more_memory_never_means_a_smaller_patch() -> None:
    volumes = []
    for memory_gb in (1, 2, 4, 8, 16, 32, 64):
        choice = choose_patch((1.5, 0.8, 0.8), (300, 500, 500), MemoryTarget(3, 3, memory_gb=memory_gb))
        volumes.append(math.prod(choice.topology.patch_size))
    assert volumes == sorted(volumes)
    assert volumes[0] < volumes[-1]


def test_batch_is_bounded_by_memory_data_limit_and_two() -> None:
    memory = MemoryTarget(3, 3)
    # 560 M / 56 M * 2 = 20 by memory; 0.05 * 1e8 voxels / 40^3 = 78 by data
    assert choose_batch(56e6, (40, 40, 40), 1e8, memory).size == 20
    assert choose_batch(56e6, (40, 40, 40), 1e7, memory).size == 8
    assert choose_batch(56e6, (40, 40, 40), 1e8, memory, limit=5).size == 5
    assert choose_batch(56e6, (40, 40, 40), 1e8, memory, dataset_share=1e-6).size == 2
    assert choose_batch(56e8, (40, 40, 40), 1e8, memory).size == 2
