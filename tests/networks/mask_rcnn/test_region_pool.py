"""Features of regions."""

from __future__ import annotations

import torch

from monai_ext.networks.mask_rcnn.region_pool import RegionPool, as_rois


def test_level_and_place() -> None:
    # every cell holds its own column, in pixels of the image
    maps = [
        ((torch.arange(64 // s) + 0.5) * s + 1000 * level).expand(2, 3, 64 // s, -1).contiguous()
        for level, s in enumerate((2, 4, 8, 16, 32))
    ]
    boxes = [torch.tensor([[10.0, 10, 20, 20]]), torch.tensor([[20.0, 20, 48, 48], [8.0, 8, 56, 56]])]
    pooled = RegionPool((2, 4, 8, 16), canonical_size=28.0, canonical_level=4)(maps, as_rois(boxes), 7)
    assert pooled.shape == (3, 3, 7, 7)
    assert pooled.is_contiguous(memory_format=torch.channels_last)
    middle = pooled[:, 0].mean((1, 2))
    torch.testing.assert_close(middle, torch.tensor([15.0, 2034.0, 2032.0]))
    level_of_last = RegionPool((2, 4, 8, 16), canonical_size=20.0)(maps, as_rois(boxes), 1)[2, 0]
    torch.testing.assert_close(level_of_last, torch.tensor([[3032.0]]))


def test_rois() -> None:
    found = as_rois([torch.zeros(0, 4), torch.ones(2, 4), torch.full((1, 4), 5.0)])
    assert found.tolist() == [[1, 1, 1, 1, 1], [1, 1, 1, 1, 1], [2, 5, 5, 5, 5]]
