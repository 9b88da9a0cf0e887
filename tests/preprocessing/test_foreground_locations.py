from __future__ import annotations

import numpy as np

from monai_ext.preprocessing.foreground_locations import MOST_LOCATIONS, find_locations


def test_small_classes_are_complete() -> None:
    label = np.random.default_rng(0).choice([0, 1, 2, 4], size=(7, 8, 9)).astype(np.int16)
    locations = find_locations(label, [1, 2, 3], "a")
    assert sorted(locations) == [1, 2]  # 3 is absent, 4 was not asked for
    for value, voxels in locations.items():
        assert voxels.dtype == np.int32
        np.testing.assert_array_equal(voxels, np.argwhere(label == value))


def test_large_classes_are_drawn() -> None:
    label = np.zeros((101, 110, 120), dtype=np.uint8)
    label[:, :, :20] = 1
    label[1:, :, 20:] = 2
    locations = find_locations(label, [1, 2], "a")
    assert len(locations[1]) == MOST_LOCATIONS
    assert len(locations[2]) == 100 * 110 * 100 / 100  # a hundredth is more than 10 000
    for value, voxels in locations.items():
        assert (label[tuple(voxels.T)] == value).all()
        assert len(np.unique(voxels, axis=0)) == len(voxels)
    np.testing.assert_array_equal(locations[1], find_locations(label, [1], "a")[1])
    assert not np.array_equal(locations[1], find_locations(label, [1], "b")[1])


def test_no_foreground() -> None:
    assert find_locations(np.zeros((3, 3, 3), dtype=np.uint8), [1, 2], "a") == {}
    assert find_locations(np.ones((3, 3, 3), dtype=np.uint8), [], "a") == {}
