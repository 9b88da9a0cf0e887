"""Anchors: places, shapes and order."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from monai_ext.networks.mask_rcnn.anchors import KEPT_GRIDS, AnchorGrid


@pytest.mark.real_data
def test_equals_torchvision(data_folder: Path) -> None:
    golden = np.load(data_folder / "golden" / "detection_ops.npz")
    height, width = golden["anchors.image_hw"]
    strides = (8, 16, 32)
    grid = AnchorGrid(((32,), (64,), (128,)), strides=strides, round=True)
    found = torch.cat(grid([(height // s, width // s) for s in strides]))
    assert torch.equal(found, torch.from_numpy(golden["anchors.output"]))


def test_area_ratio_and_centre() -> None:
    grid = AnchorGrid(((8, 12), (32,)), ratios=(0.5, 2.0), strides=(4, 8), offset=0.5)
    assert grid.per_cell == (4, 2)
    first, second = grid([(3, 5), (2, 2)])
    assert first.shape == (3 * 5 * 4, 4)
    assert second.shape == (8, 4)
    assert first.dtype == torch.float32
    w, h = (first[:, 2:] - first[:, :2]).unbind(1)
    torch.testing.assert_close((w * h).sqrt()[:4], torch.tensor([8.0, 12.0, 8.0, 12.0]))
    torch.testing.assert_close((h / w)[:4], torch.tensor([0.5, 0.5, 2.0, 2.0]))
    centres = (first[:, 2:] + first[:, :2]) / 2
    # row 1, column 3 of 5
    torch.testing.assert_close(centres.view(3, 5, 4, 2)[1, 3], torch.tensor([14.0, 6.0]).expand(4, 2))


def test_number_for_a_large_image() -> None:
    grid = AnchorGrid([(32 * 2**level,) for level in range(5)])
    assert sum(len(level) for level in grid([(1024 // s, 1024 // s) for s in grid.strides])) == 261_888


def test_grids_are_kept_but_not_without_end() -> None:
    grid = AnchorGrid(((8,),), strides=(4,))
    first = grid([(2, 3)])[0]
    assert grid([(2, 3)])[0] is first
    for size in range(1, KEPT_GRIDS + 1):
        grid([(size, 1)])
    assert len(grid._grids) == KEPT_GRIDS
    again = grid([(2, 3)])[0]
    assert again is not first
    assert torch.equal(again, first)


def test_no_cells() -> None:
    assert AnchorGrid(((8,),), strides=(4,))([(0, 3)])[0].shape == (0, 4)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"sizes": ((8,), (16,))}, "one sequence per stride"),
        ({"sizes": ((),)}, "needs a size"),
        ({"sizes": ((0,),)}, "positive"),
        ({"ratios": (-1.0,)}, "positive"),
        ({"strides": ()}, "one sequence"),
        ({"offset": 1.0}, "offset"),
    ],
)
def test_wrong_arguments(changed: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        AnchorGrid(**{"sizes": ((8,),), "strides": (4,), **changed})


def test_wrong_number_of_levels() -> None:
    with pytest.raises(ValueError, match="2 feature maps for 1 levels"):
        AnchorGrid(((8,),), strides=(4,))([(2, 2), (1, 1)])
