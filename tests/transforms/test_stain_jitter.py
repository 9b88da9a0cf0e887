"""Stain jitter, against taking each pixel apart by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from monai_ext.errors import InputError
from monai_ext.transforms.stain_jitter import STAINS, RandStainJitterd

IMAGE = torch.rand(3, 9, 11, generator=torch.Generator().manual_seed(0)) * 0.9 + 0.05


def test_stains_are_scaled_and_shifted() -> None:
    transform = RandStainJitterd(prob=1.0, strength=0.2)
    params = {"factors": [1.1, 0.9, 1.0], "shifts": [0.05, -0.02, 0.1]}
    out = transform.apply(IMAGE, params)
    stains = np.array(STAINS) / np.linalg.norm(STAINS, axis=1, keepdims=True)
    for y, x in ((0, 0), (3, 7), (8, 10)):
        absorbance = -np.log(IMAGE[:, y, x].double().numpy())
        amounts = np.linalg.solve(stains.T, absorbance)
        changed = (amounts * params["factors"] + params["shifts"]) @ stains
        # float32 sums of three terms of at most 3, times matrix entries of at most 3
        assert out[:, y, x].numpy() == pytest.approx(np.clip(np.exp(-changed), 0, 1), abs=1e-5)


def test_nothing_drawn_is_nothing_done() -> None:
    transform = RandStainJitterd(prob=1.0, strength=0.2)
    out = transform.apply(IMAGE, {"factors": [1.0] * 3, "shifts": [0.0] * 3})
    assert torch.allclose(out, IMAGE, atol=1e-6)


def test_draws_stay_within_strength_and_change_colours() -> None:
    transform = RandStainJitterd(prob=1.0, strength=0.1)
    transform.set_random_state(0)
    drawn = [transform.draw(IMAGE) for _ in range(200)]
    factors = np.array([params["factors"] for params in drawn])
    shifts = np.array([params["shifts"] for params in drawn])
    assert 0.9 <= factors.min() < 0.905 < 1.095 < factors.max() <= 1.1
    assert -0.1 <= shifts.min() < -0.095 < 0.095 < shifts.max() <= 0.1
    out = transform({"image": IMAGE})["image"]
    assert (out - IMAGE).abs().max() > 0.01
    assert out.min() >= 0
    assert out.max() <= 1


def test_grey_stays_grey_and_black_stays_finite() -> None:
    transform = RandStainJitterd(prob=1.0, strength=0.5)
    grey = IMAGE[:1].expand(3, 9, 11).contiguous()
    assert torch.equal(transform({"image": grey})["image"], grey)
    assert torch.equal(transform({"image": IMAGE[:1]})["image"], IMAGE[:1])
    black = torch.zeros(3, 4, 4)
    black[0, 0, 0] = 0.5
    assert torch.isfinite(transform({"image": black})["image"]).all()


def test_strength_is_checked() -> None:
    with pytest.raises(InputError, match="strength must be in"):
        RandStainJitterd(strength=1.5)
    with pytest.warns(UserWarning, match="strength is 0"):
        RandStainJitterd(strength=0)
