"""Target spacing, axis order and shapes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monai_ext.planning.fingerprint import Fingerprint
from monai_ext.planning.spacing import axis_order, median_shape, resampled_shape, target_spacing

MakeFingerprint = Callable[..., Fingerprint]


def test_isotropic_sets_take_the_median(make_fingerprint: MakeFingerprint) -> None:
    cases = make_fingerprint([(50, 50, 50)] * 3, [(1, 2, 1), (2, 1, 1), (1.5, 1.1, 1)]).cases
    assert target_spacing(cases).spacing == (1.5, 1.1, 1.0)


def test_coarse_axis_with_few_slices_takes_the_10th_percentile(make_fingerprint: MakeFingerprint) -> None:
    spacings = [(float(z), 0.8, 0.8) for z in range(3, 14)]
    found = target_spacing(make_fingerprint([(20, 300, 300)] * 11, spacings).cases)
    # the median is 8, the 10th percentile of 3, 4, ..., 13 is the second smallest
    assert found.spacing == (4.0, 0.8, 0.8)
    assert "spacing 8 > 3 x 0.8, 10th percentile 4 taken" in found.why


def test_coarse_axis_with_many_voxels_keeps_the_median(make_fingerprint: MakeFingerprint) -> None:
    spacings = [(float(z), 0.8, 0.8) for z in range(3, 14)]
    found = target_spacing(make_fingerprint([(100, 300, 300)] * 11, spacings).cases)
    assert found.spacing == (8.0, 0.8, 0.8)
    assert "a third of 300 or more" in found.why


def test_coarse_axis_never_becomes_finer_than_the_others(make_fingerprint: MakeFingerprint) -> None:
    spacings = [(0.1, 1.0, 1.0)] * 2 + [(9.0, 1.0, 1.0)] * 3
    found = target_spacing(make_fingerprint([(20, 300, 300)] * 5, spacings).cases)
    assert found.spacing == (1.0 + 1e-5, 1.0, 1.0)


@pytest.mark.parametrize(
    ("spacing", "order"),
    [((1, 1, 1), (0, 1, 2)), ((1, 1, 3), (2, 0, 1)), ((1, 3, 1), (1, 0, 2)), ((1, 3, 3), (1, 0, 2))],
)
def test_first_of_the_coarsest_axes_comes_first(spacing: tuple[float, ...], order: tuple[int, ...]) -> None:
    assert axis_order(spacing) == order


def test_median_shape_of_two_cases_may_be_a_half(make_fingerprint: MakeFingerprint) -> None:
    cases = make_fingerprint([(10, 20, 30), (11, 20, 30)], [(1.0, 1.0, 2.0)] * 2).cases
    assert median_shape(cases, (1.0, 2.0, 1.0)) == (10.5, 10.0, 60.0)


@given(st.integers(1, 500), st.floats(0.1, 10), st.floats(0.1, 10))
def test_resampled_edges_keep_the_millimetres(n: int, spacing: float, target: float) -> None:
    (found,) = resampled_shape((n,), (spacing,), (target,))
    assert found >= 1
    # half a target voxel of rounding; a single voxel may stand for less
    assert found == 1 or abs(found * target - n * spacing) <= target * (0.5 + 1e-6)
