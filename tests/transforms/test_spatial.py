"""What is drawn for a patch, and the box that must be read for it."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monai_ext.errors import InputError
from monai_ext.ops.patch_affine.affine_matrix import affine_matrix
from monai_ext.transforms.spatial import SpatialDraw, source_box


@pytest.mark.parametrize(
    ("patch", "flat", "ranges"),
    [
        ((40, 56, 40), False, [30, 30, 30]),
        ((16, 64, 64), False, [180, 0, 0]),
        ((20, 60, 60), False, [30, 30, 30]),
        ((1, 56, 40), True, [180, 0, 0]),
        ((1, 64, 40), True, [15, 0, 0]),
    ],
)
def test_default_angles_are_those_of_nnunet(patch, flat: bool, ranges: list[float]) -> None:
    assert SpatialDraw().angle_ranges(patch, flat) == ranges


def test_angles_given() -> None:
    assert SpatialDraw(rotation_range=(10, 20, 5)).angle_ranges((8, 8, 8), False) == [10, 20, 5]
    assert SpatialDraw(rotation_range=7, slicewise=True).angle_ranges((8, 8, 8), False) == [7, 0, 0]
    with pytest.raises(InputError, match="1 or 3 numbers"):
        SpatialDraw(rotation_range=(10, 20)).angle_ranges((8, 8, 8), False)


def test_shares_and_ranges_of_the_draws() -> None:
    draw, random = SpatialDraw(), np.random.RandomState(0)
    drawn = [draw.draw(random, (32, 32, 32)) for _ in range(4000)]
    angles = np.array([d["angles"] for d in drawn if d and any(d["angles"])])
    scales = np.array([d["scale"] for d in drawn if d and d["scale"] != [1, 1, 1]])
    # shares 0.2, 0.2 and 0.64 of 4000, standard errors at most 0.0076: four of them
    assert abs(len(angles) / 4000 - 0.2) < 0.03
    assert abs(len(scales) / 4000 - 0.2) < 0.03
    assert abs(sum(not d for d in drawn) / 4000 - 0.64) < 0.03
    assert np.abs(angles).max() <= 30
    assert np.all(np.abs(angles).max(0) > 28)
    assert scales.min() >= 0.7
    assert scales.max() <= 1.4
    # uniform: mean 1.05, standard error 0.2 / sqrt(800) = 0.007
    assert abs(scales.mean() - 1.05) < 0.03
    assert np.all(scales == scales[:, :1])
    json.dumps(drawn)


def test_slicewise_never_leaves_the_plane() -> None:
    draw = SpatialDraw(rotation_prob=1, scale_prob=1, scale_per_axis=True)
    drawn = draw.draw(np.random.RandomState(0), (8, 64, 64))
    assert drawn["angles"][1:] == [0, 0]
    assert drawn["angles"][0] != 0
    assert drawn["scale"][0] == 1
    assert drawn["scale"][1] != drawn["scale"][2]
    assert affine_matrix(drawn["angles"], drawn["scale"])[0].tolist() == [1, 0, 0]


def test_matrix_is_rotation_times_scale() -> None:
    turn = affine_matrix((20, -70, 130), (1, 1, 1))
    # float64 rounding
    np.testing.assert_allclose(turn @ turn.T, np.eye(3), atol=1e-14)
    assert np.linalg.det(turn) == pytest.approx(1)
    np.testing.assert_allclose(affine_matrix((20, -70, 130), (2, 3, 4)), turn @ np.diag([2, 3, 4]), atol=1e-14)


angle = st.floats(-180, 180)
edge = st.integers(1, 12)


@settings(max_examples=60, deadline=None)
@given(st.tuples(angle, angle, angle), st.floats(0.5, 2), st.tuples(edge, edge, edge))
def test_box_holds_every_position_and_its_neighbours(angles, scale: float, patch) -> None:
    matrix, start = affine_matrix(angles, [scale] * 3), (-3, 0, 7)
    first, size = source_box(matrix, start, patch)
    offsets = np.stack(np.meshgrid(*[np.arange(n) - (n - 1) / 2 for n in patch], indexing="ij")).reshape(3, -1)
    positions = matrix @ offsets + (np.array(start) + (np.array(patch) - 1) / 2)[:, None]
    assert np.all(np.floor(positions.min(1)) >= first)
    assert np.all(np.floor(positions.max(1)) + 1 <= np.array(first) + np.array(size) - 1)
    assert min(size) >= 2
    # not more than a voxel of slack on each side
    assert np.all(np.array(size) <= np.ceil(np.ptp(positions, axis=1)) + 4)
