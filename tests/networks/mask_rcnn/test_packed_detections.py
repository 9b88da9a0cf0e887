"""Detections in one tensor."""

from __future__ import annotations

import pytest
import torch

from monai_ext.networks.mask_rcnn.packed_detections import pack_detections, unpack_detections
from monai_ext.networks.mask_rcnn.structures import Detections


def some(count: int, size: int = 3) -> Detections:
    random = torch.Generator().manual_seed(count)
    return Detections(
        torch.rand(count, 4, generator=random) * 100,
        torch.rand(count, generator=random),
        torch.randint(1, 9, (count,), generator=random),
        torch.rand(count, size, size, generator=random),
    )


def test_there_and_back() -> None:
    given = [some(2), some(0), some(5)]
    packed = pack_detections(given, 3)
    assert packed.shape == (3, 6 + 9, 5)
    assert packed.dtype == torch.float32
    assert packed[0, :4, 1].tolist() == given[0].boxes[1].tolist()
    assert packed[2, 6:, 4].tolist() == given[2].masks[4].flatten().tolist()
    for one, other in zip(unpack_detections(packed), given, strict=True):
        for found, expected in zip(one, other, strict=True):
            assert found.dtype == expected.dtype
            assert torch.equal(found, expected)


def test_nothing_found() -> None:
    packed = pack_detections([some(0)], 3)
    assert packed.shape == (1, 15, 1)
    assert not packed.any()
    assert unpack_detections(packed)[0].masks.shape == (0, 3, 3)


def test_wrong_arguments() -> None:
    with pytest.raises(ValueError, match="4 x 4"):
        pack_detections([some(1)], 4)
    with pytest.raises(ValueError, match="at least one image"):
        pack_detections([], 3)
    for shape in ((2, 16, 3), (15, 3), (2, 6, 3)):
        with pytest.raises(ValueError, match=r"\[B, 6 \+ M \* M, D\]"):
            unpack_detections(torch.zeros(shape))
