"""Tests of images that are enlarged in parts."""

from __future__ import annotations

import pytest
import torch

from monai_ext.inferers.enlarged_image import EnlargedImage


@pytest.mark.parametrize("size", [(30, 50), (60, 100), (71, 83), (31, 50)])
def test_parts_are_those_of_the_whole(size):
    values = torch.randint(0, 255, (3, 30, 50), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    image = EnlargedImage(values, size, lambda part: part.float() / 255, lambda part: part * 2 - 1)
    whole = torch.nn.functional.interpolate(values[None].float() / 255, size, mode="bilinear", align_corners=False)
    expected = whole[0] * 2 - 1
    assert image.shape == (1, 3, *size)
    for top, left, height, width in ((0, 0, *size), (0, 0, 1, 1), (7, 11, 16, 20), (size[0] - 9, size[1] - 1, 9, 1)):
        part = image.part(top, left, height, width)
        # float32 weights of torch against float64 ones
        torch.testing.assert_close(part, expected[:, top : top + height, left : left + width], rtol=0, atol=1e-4)


def test_only_the_pixels_of_a_part_are_converted():
    seen = []
    image = EnlargedImage(torch.zeros(1, 1000, 1000), (2000, 2000), lambda p: seen.append(p.shape) or p, lambda p: p)
    image.part(400, 600, 64, 32)
    assert seen == [(1, 34, 18)]


def test_images_are_not_made_smaller():
    with pytest.raises(ValueError, match="enlarged"):
        EnlargedImage(torch.zeros(1, 10, 10), (20, 9), torch.clone, torch.clone)
