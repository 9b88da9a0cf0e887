from __future__ import annotations

import json
from itertools import permutations, product

import nibabel
import numpy as np
import pytest

from monai_ext.datasets.geometry import Geometry, check_same_geometry, geometry_difference
from monai_ext.errors import InputError

AXIS_CODES = [
    "".join(code) for order in permutations(("LR", "PA", "IS")) for code in product(*(tuple(pair) for pair in order))
]


def affine_of(code: str, spacing: tuple[float, float, float], origin: tuple[float, float, float]) -> np.ndarray:
    """Affine of a file whose axes point to `code`, with the spacing of each file axis."""
    affine = np.zeros((4, 4))
    for axis, letter in enumerate(code):
        row = {"L": 0, "R": 0, "P": 1, "A": 1, "I": 2, "S": 2}[letter]
        affine[row, axis] = spacing[axis] if letter in "RAS" else -spacing[axis]
    affine[:3, 3] = origin
    affine[3, 3] = 1
    return affine


def rotation(degrees: tuple[float, float, float]) -> np.ndarray:
    return np.asarray(nibabel.eulerangles.euler2mat(*np.deg2rad(degrees)))


def test_there_are_48_orientations() -> None:
    assert len(set(AXIS_CODES)) == 48


@pytest.mark.parametrize("code", AXIS_CODES)
def test_canonical_array_has_the_same_value_at_the_same_place_in_the_body(code: str) -> None:
    stored = np.arange(4 * 5 * 6).reshape(4, 5, 6)
    affine = affine_of(code, (1.0, 2.0, 3.0), (-7.0, 11.0, 13.0))
    geometry = Geometry.from_affine(affine, stored.shape)
    canonical = geometry.to_canonical(stored)
    assert geometry.orientation == code
    assert canonical.shape == geometry.shape
    to_voxel = np.linalg.inv(affine)
    for z, y, x in product(*(range(n) for n in geometry.shape)):
        place = geometry.canonical_affine() @ [x, y, z, 1]
        i, j, k = np.rint(to_voxel @ place)[:3].astype(int)
        assert canonical[z, y, x] == stored[i, j, k]
    diagonal = np.diag(geometry.canonical_affine())[:3]
    np.testing.assert_allclose(diagonal[::-1], geometry.spacing)  # positive: RAS+
    np.testing.assert_array_equal(geometry.to_file(canonical), stored)


def test_oblique_axes_go_to_the_closest_canonical_axis() -> None:
    affine = affine_of("PIR", (0.5, 0.75, 2.0), (1.0, 2.0, 3.0))
    affine[:3, :3] = rotation((20, -15, 10)) @ affine[:3, :3]
    stored = np.random.default_rng(0).normal(size=(4, 5, 6))
    geometry = Geometry.from_affine(affine, stored.shape)
    assert geometry.orientation == "PIR"
    np.testing.assert_allclose(geometry.spacing, (0.75, 0.5, 2.0))
    np.testing.assert_array_equal(geometry.to_file(geometry.to_canonical(stored)), stored)


def test_two_dimensional_file_is_a_volume_of_one_slice() -> None:
    stored = np.arange(12).reshape(4, 3)
    geometry = Geometry.from_affine(affine_of("LPS", (0.5, 0.25, 1.0), (0, 0, 0)), stored.shape)
    assert geometry.shape == (1, 3, 4)
    assert geometry.spacing == (1.0, 0.25, 0.5)
    np.testing.assert_array_equal(geometry.to_canonical(stored)[0], stored[::-1, ::-1].T)
    np.testing.assert_array_equal(geometry.to_file(geometry.to_canonical(stored)), stored)


def test_dictionary_survives_json() -> None:
    fields = (("qform_code", 1.0), ("pixdim_1", 0.1))
    geometry = Geometry.from_affine(affine_of("LPS", (0.1, 0.7, 3.0), (1, 2, 3)), (4, 5, 6), fields)
    assert Geometry.from_dict(json.loads(json.dumps(geometry.to_dict()))) == geometry


@pytest.mark.parametrize(
    ("affine", "message"),
    [
        (np.diag([1.0, 1.0, 0.0, 1.0]), "spacing of zero"),
        (np.diag([1.0, 1.0, np.nan, 1.0]), "not finite"),
        (np.array([[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]]), "singular"),
    ],
)
def test_invalid_affine_is_refused(affine: np.ndarray, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Geometry.from_affine(affine, (4, 5, 6))


def test_small_voxels_are_not_mistaken_for_a_singular_affine() -> None:
    assert Geometry.from_affine(np.diag([4e-6, 4e-6, 5e-5, 1.0]), (4, 5, 6)).spacing == (5e-5, 4e-6, 4e-6)


def test_same_grid_in_another_axis_order_is_no_difference() -> None:
    a = Geometry.from_affine(np.diag([1.0, 2.0, 3.0, 1.0]), (4, 5, 6))
    flipped = np.diag([-1.0, 2.0, 3.0, 1.0])
    flipped[0, 3] = 3.0
    assert geometry_difference(a, Geometry.from_affine(flipped, (4, 5, 6))) == ""


@pytest.mark.parametrize(
    ("shift", "spacing", "shape", "message"),
    [
        (0.0005, 3.0, (4, 5, 6), ""),  # within a thousandth of the largest spacing
        (0.1, 3.0, (4, 5, 6), "position or direction"),
        (0.0, 3.1, (4, 5, 6), "spacing 1x2x3 mm against 1x2x3.1 mm"),
        (0.0, 3.0, (4, 5, 7), "shape 4x5x6 against 4x5x7"),
    ],
)
def test_difference_names_what_differs(shift: float, spacing: float, shape: tuple[int, ...], message: str) -> None:
    a = Geometry.from_affine(np.diag([1.0, 2.0, 3.0, 1.0]), (4, 5, 6))
    other = np.diag([1.0, 2.0, spacing, 1.0])
    other[0, 3] = shift
    b = Geometry.from_affine(other, shape)
    difference = geometry_difference(a, b)
    assert difference.startswith(message)
    assert bool(difference) == bool(message)
    if message:
        with pytest.raises(InputError, match=r"b: differs from a in .*Cure: "):
            check_same_geometry(a, b, "a", "b")
    else:
        check_same_geometry(a, b, "a", "b")
