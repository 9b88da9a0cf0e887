"""Both topology rules: known networks, golden numbers, and what holds for any spacing and patch."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monai_ext.planning.topology import msd_topology, nnunet_topology

SPACINGS = st.floats(0.05, 20, allow_nan=False)
GRIDS = st.integers(2, 3).flatmap(
    lambda dims: st.tuples(
        st.lists(SPACINGS, min_size=dims, max_size=dims), st.lists(st.integers(1, 600), min_size=dims, max_size=dims)
    )
)


@pytest.mark.real_data
def test_agrees_with_300_topologies_of_the_peer(data_folder: Path) -> None:
    golden = json.loads((data_folder / "golden" / "nnunet_topology.json").read_text())
    assert len(golden) == 300
    for row in golden:
        topology = nnunet_topology(row["spacing"], row["patch_in"])
        assert [list(s) for s in topology.strides] == row["strides"], row
        assert [list(k) for k in topology.kernels] == row["kernels"], row
        assert list(topology.patch_size) == row["patch_out"], row
        assert list(topology.divisor) == row["divisible_by"], row


def test_isotropic_cube_has_six_levels() -> None:
    topology = nnunet_topology((1, 1, 1), (128, 128, 128))
    assert topology.strides == ((1, 1, 1), *[(2, 2, 2)] * 5)
    assert topology.kernels == ((3, 3, 3),) * 6
    assert topology.bottleneck == (4, 4, 4)


def test_coarse_axis_waits_until_the_others_catch_up() -> None:
    topology = nnunet_topology((5.0, 0.8, 0.8), (32, 192, 192))
    # 5.0 / 0.8 = 6.25, then 3.1, then 1.6 < 2: two levels without axis 0
    assert [s[0] for s in topology.strides] == [1, 1, 1, 2, 2, 2]
    assert [k[0] for k in topology.kernels] == [1, 1, 3, 3, 3, 3]


def test_twice_the_finest_spacing_is_far_for_nnunet_and_near_for_the_msd_rule() -> None:
    assert nnunet_topology((2, 1, 1), (32, 32, 32)).strides[1] == (1, 2, 2)
    assert msd_topology((2, 1, 1), (32, 32, 32)).strides[1] == (2, 2, 2)


def test_lone_axis_needs_three_minimal_edges() -> None:
    assert len(nnunet_topology((1, 1), (11, 7)).strides) == 1
    assert nnunet_topology((1, 1), (12, 7)).strides == ((1, 1), (2, 1))


@pytest.mark.parametrize(("max_pools", "levels"), [(0, 1), (2, 3), (None, 6)])
def test_max_pools_caps_the_depth(max_pools: int | None, levels: int) -> None:
    assert len(nnunet_topology((1, 1, 1), (128, 128, 128), max_pools=max_pools).strides) == levels


@given(GRIDS, st.sampled_from(["nnunet", "msd"]))
def test_any_grid_gives_a_legal_network(grid: tuple[list[float], list[int]], rule: str) -> None:
    spacing, patch = grid
    topology = nnunet_topology(spacing, patch) if rule == "nnunet" else msd_topology(spacing, patch)
    assert len(topology.kernels) == len(topology.strides)
    assert set(topology.strides[0]) == {1}
    assert set(topology.kernels[-1]) == {3}
    assert all(max(stride) == 2 for stride in topology.strides[1:])
    for axis, size in enumerate(topology.patch_size):
        total = math.prod(stride[axis] for stride in topology.strides)
        assert topology.divisor[axis] == total
        assert size % total == 0
        assert 0 <= size - patch[axis] < total
        assert total == 1 or size // total >= 4


@given(GRIDS)
def test_nnunet_kernels_never_shrink_with_depth(grid: tuple[list[float], list[int]]) -> None:
    topology = nnunet_topology(*grid)
    for upper, lower in zip(topology.kernels[:-1], topology.kernels[1:], strict=True):
        assert all(a <= b for a, b in zip(upper, lower, strict=True))


@given(GRIDS, st.floats(0.1, 10))
def test_only_ratios_of_spacings_matter(grid: tuple[list[float], list[int]], factor: float) -> None:
    spacing, patch = grid
    # powers of two scale floats exactly, so that no ratio changes by rounding
    exact = 2.0 ** round(math.log2(factor))
    assert nnunet_topology([s * exact for s in spacing], patch) == nnunet_topology(spacing, patch)
