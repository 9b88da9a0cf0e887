"""Objects of a label map, against looking for each one."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from monai_ext.transforms.boxes_of_label_map import boxes_of_label_map


@pytest.mark.parametrize("dtype", [np.int32, np.uint16, np.int64])
def test_all_objects_with_gaps_and_pieces(dtype: type) -> None:
    random = np.random.default_rng(0)
    labels = np.zeros((37, 53), dtype=dtype)
    for number in (2, 3, 7, 40, 41):
        for _ in range(2):  # two pieces each, that may cover others
            y, x = random.integers(0, 33), random.integers(0, 48)
            labels[y : y + random.integers(1, 12), x : x + random.integers(1, 12)] = number
    found = boxes_of_label_map(labels)
    numbers = [n for n in range(1, 50) if (labels == n).any()]
    assert len(numbers) >= 4
    assert found.ids.tolist() == numbers
    assert (found.ids.dtype, found.boxes.dtype, found.areas.dtype) == (torch.int32, torch.float32, torch.int64)
    for number, box, area in zip(numbers, found.boxes.tolist(), found.areas.tolist(), strict=True):
        y, x = np.nonzero(labels == number)
        assert box == [x.min(), y.min(), x.max() + 1, y.max() + 1]
        assert area == len(y)


def test_no_object() -> None:
    found = boxes_of_label_map(torch.zeros((5, 6), dtype=torch.int32))
    assert [tuple(part.shape) for part in found] == [(0,), (0, 4), (0,)]
    assert boxes_of_label_map(np.zeros((0, 4), dtype=np.int32)).ids.numel() == 0
