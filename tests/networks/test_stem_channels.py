"""First convolution for other channels: exact for grey images, of about the same strength for others."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from monai_ext.networks.stem_channels import stem_for_channels


def weight(channels: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(4, channels, 3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)


def test_the_same_number_of_channels_stays() -> None:
    given = weight(3)
    found, what = stem_for_channels(given, 3)
    assert found is given
    assert what == ""


@pytest.mark.parametrize(("before", "after"), [(3, 1), (1, 3), (4, 1), (1, 5)])
def test_grey_images_get_the_same_answer(before: int, after: int) -> None:
    grey = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    given = weight(before, torch.float32)
    found, what = stem_for_channels(given, after)
    assert what
    assert found.shape == (4, after, 3, 3)
    expected = F.conv2d(grey.expand(-1, before, -1, -1), given)
    torch.testing.assert_close(F.conv2d(grey.expand(-1, after, -1, -1), found), expected, rtol=1e-5, atol=1e-5)


def test_channels_in_turn() -> None:
    given = weight(3, torch.float32)
    five, what = stem_for_channels(given, 5)
    torch.testing.assert_close(five, torch.cat([given, given[:, :2]], 1) * 0.6)
    assert what == "3 channels in turn for 5, times 0.6"
    two, _ = stem_for_channels(given, 2)
    torch.testing.assert_close(two, given[:, :2] * 1.5)


def test_half_precision_is_summed_in_float32() -> None:
    given = weight(3, torch.float16)
    found, _ = stem_for_channels(given, 1)
    torch.testing.assert_close(found, given.float().sum(1, keepdim=True), rtol=0, atol=0)


def test_volumes() -> None:
    found, _ = stem_for_channels(torch.ones(2, 3, 5, 5, 5), 1)
    assert found.shape == (2, 1, 5, 5, 5)
    assert found.unique().tolist() == [3.0]
