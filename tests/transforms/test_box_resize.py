"""Resizing of a box: against Pillow and torch's own resizing, in 2D and 3D, and the way back."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from PIL import Image

from monai_ext.errors import InputError
from monai_ext.transforms.box_resize import (
    box_affine,
    check_interpolation,
    resize_box,
    resize_matrix,
    restore_box,
)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [(12, 31), (60, 25), (40, 50)])
def test_floats_are_resized_as_pillow_does(interpolation: str, size: tuple[int, int]) -> None:
    image = torch.rand(1, 50, 60, generator=torch.Generator().manual_seed(0))
    box = (5, 7, 45, 57)
    part = Image.fromarray(image[0, 5:45, 7:57].numpy())
    wanted = np.asarray(part.resize((size[1], size[0]), Image.Resampling[interpolation.upper()]))
    assert np.allclose(resize_box(image, box, size, interpolation)[0].numpy(), wanted, atol=2e-6)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize(("size", "new_size"), [(10, 4), (10, 25), (7, 7), (5, 1), (1, 6)])
def test_matrix_is_the_one_that_torch_applies(interpolation: str, size: int, new_size: int) -> None:
    eye = torch.eye(size)[:, None, None]
    # the unit vectors as images of one row, [1, 1, 1, size] each
    applied = F.interpolate(eye, (1, new_size), mode=interpolation, antialias=True)[:, 0, 0].T
    assert torch.allclose(resize_matrix(size, new_size, interpolation), applied, atol=1e-6)


def test_volumes_are_resized_along_every_axis() -> None:
    image = torch.rand(2, 9, 14, 11, generator=torch.Generator().manual_seed(0))
    box, size = (1, 2, 0, 9, 12, 11), (5, 13, 4)
    part = image[:, 1:9, 2:12]
    planes = F.interpolate(part, size[1:], mode="bilinear", antialias=True)
    lines = planes.permute(0, 2, 3, 1).reshape(-1, 1, 1, 8)
    wanted = F.interpolate(lines, (1, 5), mode="bilinear", antialias=True).reshape(2, 13, 4, 5).permute(0, 3, 1, 2)
    assert torch.allclose(resize_box(image, box, size), wanted, atol=1e-6)
    whole = resize_box((image * 255).byte(), box, size)
    assert whole.dtype == torch.uint8
    assert (whole - wanted * 255).abs().max() < 1.6  # the input was cut to whole numbers, the output rounded


def test_bicubic_does_not_wrap_around() -> None:
    image = torch.zeros(1, 4, 8, 8, dtype=torch.uint8)
    image[..., 4:] = 255
    out = resize_box(image, (0, 0, 0, 4, 8, 8), (7, 15, 15), "bicubic")
    line = out[0, 3, 7].int()
    assert (line[1:] >= line[:-1] - 20).all()  # overshoot is clamped, 255 + 9 would otherwise be 8


def test_a_box_of_the_right_size_is_copied() -> None:
    image = torch.arange(48.0).reshape(1, 6, 8)
    out = resize_box(image, (1, 2, 4, 6), (3, 4))
    assert torch.equal(out, image[:, 1:4, 2:6])
    out.zero_()
    assert image[0, 1, 2] == 10


@pytest.mark.parametrize("axes", [2, 3])
def test_restoring_puts_the_box_back(axes: int) -> None:
    shape, start, edges = (20, 24, 18)[:axes], (2, 5, 3)[:axes], (16, 12, 10)[:axes]
    grid = torch.meshgrid(*[torch.linspace(0, 1, n) for n in shape], indexing="ij")
    image = sum(grid)[None]  # linear, so that interpolation loses nothing but the border
    box = (*start, *(s + e for s, e in zip(start, edges, strict=True)))
    back = restore_box(resize_box(image, box, [2 * e for e in edges]), box, shape)
    place = (slice(None), *(slice(s, s + e) for s, e in zip(start, edges, strict=True)))
    assert back.shape == image.shape
    inner = (slice(None), *(slice(s + 2, s + e - 2) for s, e in zip(start, edges, strict=True)))
    assert (back[inner] - image[inner]).abs().max() < 1e-5
    assert (back[place] - image[place]).abs().max() < 0.05  # nothing is extrapolated beyond the box
    back[place] = 0
    assert not back.any()


def test_affine_maps_centres() -> None:
    affine = box_affine((10, 20, 30, 60), (40, 20))
    # the centre of the box stays the centre: 19.5 of 10..29 from 19.5 of 0..39
    assert torch.allclose(affine @ torch.tensor([19.5, 9.5, 1.0]).double(), torch.tensor([19.5, 39.5, 1.0]).double())
    # the outer edge of the first pixel stays that edge
    assert torch.allclose(affine @ torch.tensor([-0.5, -0.5, 1.0]).double(), torch.tensor([9.5, 19.5, 1.0]).double())


def test_unknown_interpolation() -> None:
    with pytest.raises(InputError, match=r"nearest.*Cure: one of bilinear, bicubic"):
        check_interpolation("X", "nearest")
