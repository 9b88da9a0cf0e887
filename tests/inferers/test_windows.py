"""Window positions and blending weights: parity with nnU-Net's numbers, coverage, positivity."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from monai_ext.errors import InputError
from monai_ext.inferers.window_positions import window_positions
from monai_ext.inferers.windows import (
    constant_weights,
    gaussian_axis,
    gaussian_weights,
    shared_weights,
)


@pytest.mark.real_data
def test_positions_equal_the_120_golden_layouts(data_folder: Path) -> None:
    cases = json.loads((data_folder / "golden" / "nnunet_window_positions.json").read_text())
    assert len(cases) == 120
    for case in cases:
        assert window_positions(case["image"], case["tile"], 1 - case["step"]) == case["positions"], case


@pytest.mark.real_data
def test_gaussian_equals_the_golden_maps(data_folder: Path) -> None:
    golden = np.load(data_folder / "golden" / "nnunet_gaussian.npz")
    names = sorted({key.split(".")[0] for key in golden})
    assert names
    for name in names:
        window = tuple(int(size) for size in name.split("x"))
        weights = gaussian_weights(window)
        assert weights.dtype == torch.float32
        through_centre = weights[(slice(None), *(size // 2 for size in window[1:]))]
        # both are float32 roundings of the same Gaussian; the peer's comes from a filter with its own rounding
        np.testing.assert_allclose(through_centre.numpy(), golden[f"{name}.axis0_through_centre"], rtol=1e-5)
        low, high, total = golden[f"{name}.min_max_sum"]
        np.testing.assert_allclose(
            [weights.min().item(), weights.max().item(), weights.double().sum().item()], [low, high, total], rtol=1e-5
        )


def test_positions_by_hand() -> None:
    assert window_positions((100,), (64,), 0.5) == [[0, 18, 36]]
    assert window_positions((161,), (64,), 0.5) == [[0, 24, 48, 73, 97]]  # 72.75 is rounded, not cut
    assert window_positions((64, 10, 128), (64, 64, 64), 0.0) == [[0], [0], [0, 64]]


def test_overlap_with_inexact_binary_step_adds_no_window() -> None:
    # step (1 - 0.9) * 10 is exactly one voxel: 6 gaps, although 6 / 0.09999999999999998 / 10 exceeds 6
    assert window_positions((16,), (10,), 0.9) == [[0, 1, 2, 3, 4, 5, 6]]


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    axes=st.lists(st.tuples(st.integers(1, 300), st.integers(1, 128)), min_size=1, max_size=3),
    overlap=st.floats(0, 0.9),
)
def test_every_voxel_is_covered_and_windows_stay_inside(axes: list[tuple[int, int]], overlap: float) -> None:
    shape, window = zip(*axes, strict=True)
    for (size, extent), starts in zip(axes, window_positions(shape, window, overlap), strict=True):
        assert starts[0] == 0
        assert starts[-1] == max(size - extent, 0)
        gaps = np.diff(starts)
        assert (gaps >= 0).all()
        assert (gaps <= extent).all()  # no voxel between two windows
        if len(gaps):
            assert gaps.max() - gaps.min() <= 1  # even up to rounding
            # rounding may move a start by half a voxel at each end of a gap
            assert gaps.max() <= extent * (1 - overlap) + 1


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    window=st.lists(st.integers(1, 24), min_size=1, max_size=3), sigma_scale=st.floats(1e-3, 1.0, allow_subnormal=False)
)
def test_weights_are_positive_with_a_finite_reciprocal(window: list[int], sigma_scale: float) -> None:
    weights = gaussian_weights(window, sigma_scale)
    assert weights.shape == tuple(window)
    assert weights.max() == 1
    assert (weights > 0).all()
    assert weights.reciprocal().isfinite().all()


def test_underflow_becomes_the_smallest_remaining_value() -> None:
    weights = gaussian_weights((64,), sigma_scale=0.02)
    exact = gaussian_axis(64, sigma_scale=0.02)
    kept = exact >= torch.finfo(torch.float32).tiny
    assert not kept.all()  # otherwise this test would prove nothing
    assert torch.equal(weights[~kept], torch.full(((~kept).sum(),), exact[kept].min().item()))
    assert torch.equal(weights[kept], exact[kept].float())


def test_weights_are_the_product_of_one_gaussian_per_axis() -> None:
    z, y, x = (gaussian_axis(size) for size in (5, 8, 11))
    expected = torch.einsum("i,j,k->ijk", z, y, x).float()
    torch.testing.assert_close(gaussian_weights((5, 8, 11)), expected, rtol=1e-6, atol=0)  # one float32 rounding


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    axes=st.lists(st.tuples(st.integers(1, 60), st.integers(1, 24)), min_size=1, max_size=3),
    overlap=st.floats(0, 0.9),
    blend=st.sampled_from(["gaussian", "constant"]),
    copies=st.sampled_from([1, 8]),
)
def test_shared_weights_of_all_windows_add_up_to_one(
    axes: list[tuple[int, int]], overlap: float, blend: str, copies: int
) -> None:
    shape, window = zip(*[(max(axis), axis[1]) for axis in axes], strict=True)
    positions = window_positions(shape, window, overlap)
    shared = shared_weights(shape, window, positions, blend, copies)
    for axis, (size, roi, starts, rows) in enumerate(zip(shape, window, positions, shared, strict=True)):
        assert rows.shape == (len(starts), roi)
        assert rows.dtype == torch.float32
        assert (rows > 0).all()
        total = torch.zeros(size, dtype=torch.float64)
        for start, row in zip(starts, rows, strict=True):
            total[start : start + roi] += row.double()
        expected = 1 / copies if axis == 0 else 1.0
        torch.testing.assert_close(total, torch.full_like(total, expected), rtol=1e-6, atol=0)  # float32 roundings


def test_constant_weights_are_one() -> None:
    assert torch.equal(constant_weights((2, 3)), torch.ones(2, 3))


@pytest.mark.parametrize("overlap", [-0.1, 1.0, 2.0, float("nan")])
def test_bad_overlap_names_value_and_cure(overlap: float) -> None:
    with pytest.raises(InputError, match=r"overlap: must be at least 0 and below 1, got .*Cure: "):
        window_positions((10,), (4,), overlap)


def test_bad_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="as many axes"):
        window_positions((10, 10), (4,), 0.5)
    with pytest.raises(ValueError, match="at least 1"):
        window_positions((10,), (0,), 0.5)
    with pytest.raises(ValueError, match="positive"):
        gaussian_weights((4,), sigma_scale=0.0)
