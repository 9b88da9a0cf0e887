"""Additive brightness and the clip after it."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pytest
import torch

from monai_ext.errors import InputError
from monai_ext.transforms.brightness_shift import RandBrightnessShiftd


def make_image() -> torch.Tensor:
    return torch.linspace(-1, 1, 63).view(1, 7, 9)


def test_shift_then_clip() -> None:
    image = make_image()
    transform = RandBrightnessShiftd()
    for seed in range(10):
        transform.set_random_state(seed=seed)
        out = transform({"image": image, "label": 1})
        shift = json.loads(json.dumps(transform.params))["shift"]
        # float32 of values up to 1.2
        torch.testing.assert_close(out["image"], (image.double() + shift).clamp(-1, 1).float(), atol=2e-7, rtol=0)
        assert out["image"].abs().max() <= 1
        assert out["label"] == 1
    assert torch.equal(image, make_image())


def test_without_limits_nothing_is_clipped() -> None:
    transform = RandBrightnessShiftd(shift=(0.5, 0.5), limits=None)
    assert transform({"image": make_image()})["image"].max() == 1.5
    assert RandBrightnessShiftd(shift=(0.5, 0.5), limits=(0, 1.25))({"image": make_image()})["image"].aminmax() == (
        0,
        1.25,
    )


def test_law_of_the_shift() -> None:
    transform = RandBrightnessShiftd(prob=0.4, shift=(-0.1, 0.3))
    transform.set_random_state(seed=0)
    drawn = []
    for _ in range(3000):
        transform.randomize(torch.zeros(1, 1, 1))
        if transform.params:
            drawn.append(transform.params["shift"])
    # binomial, standard deviation 27: four of them
    assert abs(len(drawn) - 1200) < 108
    assert -0.1 <= min(drawn) < -0.09
    assert 0.29 < max(drawn) <= 0.3
    # uniform: deviation 0.115, standard error 0.0033; four of them
    assert abs(np.mean(drawn) - 0.1) < 0.014


def test_prob_0_hands_the_image_on() -> None:
    with pytest.warns(UserWarning, match="prob is 0"):
        transform = RandBrightnessShiftd(prob=0)
    sample = {"image": make_image() * 3}
    assert transform(sample)["image"] is sample["image"]


def test_what_does_nothing_warns_and_wrong_ranges_are_refused() -> None:
    with pytest.warns(UserWarning, match="shift is 0"):
        RandBrightnessShiftd(shift=(0, 0), limits=None)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        RandBrightnessShiftd()
        RandBrightnessShiftd(shift=(0, 0))  # it still clips
    for wrong in ({"shift": (0.2, -0.2)}, {"limits": (1, -1)}, {"shift": (0.1,)}):
        with pytest.raises(InputError, match=f"{next(iter(wrong))} must be two numbers.*Cure: "):
            RandBrightnessShiftd(**wrong)
