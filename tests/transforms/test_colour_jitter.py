"""Colour jitter against the definitions of its three parts, one after the other in float64."""

from __future__ import annotations

import pytest
import torch
from monai.transforms import Compose

from monai_ext.errors import InputError
from monai_ext.transforms.colour_jitter import LUMA, RandColourJitterd, jitter
from monai_ext.transforms.sample_seed import seed_transforms

WEIGHTS = torch.tensor(LUMA, dtype=torch.float64)[:, None, None]


def grey(image: torch.Tensor) -> torch.Tensor:
    return (image * WEIGHTS).sum(0, keepdim=True)


def brighten(image: torch.Tensor, factor: float) -> torch.Tensor:
    return image * factor


def contrast(image: torch.Tensor, factor: float) -> torch.Tensor:
    mean = grey(image).mean()
    return mean + factor * (image - mean)


def saturate(image: torch.Tensor, factor: float) -> torch.Tensor:
    return grey(image) + factor * (image - grey(image))


def picture(dtype: torch.dtype) -> torch.Tensor:
    image = torch.rand(3, 20, 30, generator=torch.Generator().manual_seed(0)) * 150 + 40
    return image.to(dtype)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_one_pass_is_the_three_steps_in_any_order(order: tuple[int, ...]) -> None:
    image, factors, steps = picture(torch.float64), (1.3, 0.7, 1.4), (brighten, contrast, saturate)
    wanted = image
    for number in order:
        wanted = steps[number](wanted, factors[number])
    assert torch.allclose(jitter(image, *factors), wanted, rtol=1e-9, atol=1e-7)
    assert torch.allclose(jitter(image.float(), *factors), wanted.float(), rtol=1e-5, atol=1e-3)


def test_bytes_are_rounded_and_clamped() -> None:
    image = picture(torch.uint8)
    wanted = saturate(contrast(brighten(image.double(), 1.4), 1.3), 1.4)
    assert wanted.max() > 256
    out = jitter(image, 1.4, 1.3, 1.4)
    assert out.dtype == torch.uint8
    assert (out - wanted.round().clamp(0, 255)).abs().max() <= 1  # float32 may fall on the other side of a half
    assert ((out - wanted.round().clamp(0, 255)).abs() > 0).float().mean() < 0.01


def test_other_channels_have_means_of_their_own() -> None:
    image = torch.rand(2, 5, 6, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    mean = image.mean((1, 2, 3), keepdim=True)
    assert torch.allclose(jitter(image, 1.2, 0.5, 0.1), 1.2 * (mean + 0.5 * (image - mean)))
    assert jitter((image * 255).byte()[:1], 1.2, 0.5, 0.1).shape == (1, 5, 6, 7)


def test_no_change_leaves_bytes_alone() -> None:
    image = picture(torch.uint8)
    assert torch.equal(jitter(image, 1, 1, 1), image)


def test_factors_are_drawn_in_their_range_from_the_seed() -> None:
    transform = RandColourJitterd("image", 0.4, 0.2, 0.0, prob=1.0)
    chain, image, drawn = Compose([transform]), picture(torch.uint8), []
    for number in range(200):
        out = seed_transforms(chain, 0, number)({"image": image})["image"]
        drawn.append(list(transform.params.values()))
    factors = torch.tensor(drawn)
    low, high = factors.min(0).values, factors.max(0).values
    assert torch.allclose(low, torch.tensor([0.6, 0.8, 1.0]), atol=0.02)
    assert torch.allclose(high, torch.tensor([1.4, 1.2, 1.0]), atol=0.02)
    assert torch.equal(out, seed_transforms(chain, 0, 199)({"image": image})["image"])
    assert torch.equal(image, picture(torch.uint8))


def test_share_of_samples() -> None:
    transform = RandColourJitterd("image", prob=0.3)
    chain, image = Compose([transform]), torch.full((3, 2, 2), 100.0)
    changed = [
        not torch.equal(seed_transforms(chain, 0, number)({"image": image})["image"], image) for number in range(400)
    ]
    assert 0.3 - 0.08 < sum(changed) / 400 < 0.3 + 0.08  # 3.5 standard deviations


def test_arguments() -> None:
    with pytest.raises(InputError, match="contrast must be in"):
        RandColourJitterd("image", contrast=1.5)
    with pytest.warns(UserWarning, match="does nothing"):
        RandColourJitterd("image", 0, 0, 0)
