"""Sampling against grid_sample and the argmax of interpolated indicators."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from monai_ext.transforms import linear_sampling
from monai_ext.transforms.linear_sampling import sample_patch
from monai_ext.transforms.spatial import affine_matrix


def reference(volume: torch.Tensor, matrix: np.ndarray, centre: list[float], size: tuple[int, ...]) -> torch.Tensor:
    """Linear interpolation of `[C, d, h, w]` float64 by torch."""
    offsets = torch.meshgrid(*[torch.arange(n, dtype=torch.float64) - (n - 1) / 2 for n in size], indexing="ij")
    positions = torch.einsum("ij,j...->...i", torch.from_numpy(matrix), torch.stack(offsets)) + torch.tensor(centre)
    edges = torch.tensor(volume.shape[1:]) - 1.0
    grid = (2 * positions / edges - 1).flip(-1)[None]
    return F.grid_sample(volume[None], grid, mode="bilinear", align_corners=True, padding_mode="border")[0]


@pytest.mark.parametrize("angles", [(20, -25, 10), (0, 0, 0), (75, 0, 0), (0, 90, 0)], ids=str)
@pytest.mark.parametrize("classes", [1, 2, 3, 7])
@pytest.mark.parametrize("slab", [1, 1 << 17], ids=["planes", "whole"])
def test_image_and_label(angles, classes: int, slab: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear_sampling, "_SLAB", slab)
    generator = torch.Generator().manual_seed(classes)
    image = torch.randn(2, 20, 22, 24, generator=generator)
    # blocks of 2 make cells of one, two and many classes
    coarse = torch.randint(0, classes, (10, 11, 12), generator=generator, dtype=torch.uint8)
    label = coarse.repeat_interleave(2, 0).repeat_interleave(2, 1).repeat_interleave(2, 2)[None]
    matrix, centre, size = affine_matrix(angles, (0.9, 1.1, 1.2)), [9.3, 10.6, 11.7], (9, 8, 7)
    out, target = sample_patch(image, label, matrix, centre, size)
    # positions are rounded to float32 (1e-6 voxel), neighbouring values differ by a few units
    torch.testing.assert_close(out.double(), reference(image.double(), matrix, centre, size), atol=2e-5, rtol=0)
    shares = reference(F.one_hot(label[0].long()).movedim(-1, 0).double(), matrix, centre, size)
    best = shares.sort(0, descending=True).values
    # where the two best classes are level to rounding, either may win
    clear = torch.ones(size, dtype=torch.bool) if len(best) == 1 else best[0] - best[1] > 1e-4
    assert clear.float().mean() > 0.9
    assert target is not None
    assert torch.equal(target[0][clear].long(), shares.argmax(0)[clear])


def test_a_tie_goes_to_the_smaller_class() -> None:
    label = torch.tensor([5, 2], dtype=torch.int64).expand(1, 2, 2, 2)
    _, target = sample_patch(torch.zeros(1, 2, 2, 2), label, np.eye(3), [0.5, 0.5, 0.5], (1, 1, 1))
    assert target is not None
    assert target.item() == 2


def test_a_third_class_can_win_between_smallest_and_largest() -> None:
    label = torch.tensor([0, 1, 1, 1, 1, 1, 1, 3], dtype=torch.uint8).view(1, 2, 2, 2)
    _, target = sample_patch(torch.zeros(1, 2, 2, 2), label, np.eye(3), [0.5, 0.5, 0.5], (1, 1, 1))
    assert target is not None
    assert target.item() == 1
