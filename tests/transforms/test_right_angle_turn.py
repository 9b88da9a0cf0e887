"""Right-angle turns, alone and with mirroring, on bytes."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from monai.transforms import Compose

from monai_ext.errors import InputError
from monai_ext.transforms.flips import RandMirrord
from monai_ext.transforms.right_angle_turn import RandRightAngleTurnd
from monai_ext.transforms.sample_seed import seed_transforms


def outcomes(chain: Compose, image: torch.Tensor, count: int) -> Counter[bytes]:
    found: Counter[bytes] = Counter()
    for number in range(count):
        out = seed_transforms(chain, 0, number)({"image": image})["image"]
        assert out.dtype == image.dtype
        assert out.is_contiguous()
        found[out.numpy().tobytes()] += 1
    return found


def test_four_turns_equally_often() -> None:
    image = torch.arange(18, dtype=torch.uint8).reshape(2, 3, 3)
    found = outcomes(Compose([RandRightAngleTurnd("image")]), image, 800)
    assert set(found) == {torch.rot90(image, k, (1, 2)).contiguous().numpy().tobytes() for k in range(4)}
    # chi squared with 3 degrees of freedom, 0.1 %
    assert sum((n - 200) ** 2 / 200 for n in found.values()) < 16.3


def test_with_mirroring_all_symmetries_of_the_square() -> None:
    image = torch.arange(27, dtype=torch.uint8).reshape(3, 3, 3)
    chain = Compose([RandMirrord("image", (1,)), RandRightAngleTurnd("image")])
    found = outcomes(chain, image, 800)
    assert len(found) == 8
    assert sum((n - 100) ** 2 / 100 for n in found.values()) < 24.3  # 7 degrees of freedom, 0.1 %


def test_a_rectangle_keeps_its_shape() -> None:
    image = torch.arange(6, dtype=torch.uint8).reshape(1, 2, 3)
    found = outcomes(Compose([RandRightAngleTurnd("image")]), image, 200)
    assert set(found) == {image.numpy().tobytes(), image.flip(1, 2).numpy().tobytes()}
    assert min(found.values()) > 65  # of 100; five standard deviations


def test_plane_of_a_volume() -> None:
    image = torch.arange(4 * 3 * 4, dtype=torch.uint8).reshape(1, 4, 3, 4)
    found = outcomes(Compose([RandRightAngleTurnd("image", (0, 2))]), image, 60)
    assert set(found) == {torch.rot90(image, k, (1, 3)).contiguous().numpy().tobytes() for k in range(4)}


def test_one_axis_is_refused() -> None:
    with pytest.raises(InputError, match="axes must be two"):
        RandRightAngleTurnd("image", (1, 1))
