"""The changes of values of pictures as one transform: what its parts do, when, and from which seed."""

from __future__ import annotations

import pytest
import torch
from monai.transforms import Compose

from monai_ext.errors import InputError
from monai_ext.transforms.flips import RandMirrord
from monai_ext.transforms.picture_intensity import RandPictureIntensityd
from monai_ext.transforms.sample_seed import seed_transforms

IMAGE = torch.rand(3, 24, 24, generator=torch.Generator().manual_seed(0))
ONLY = {"jitter": 0.0, "blur_prob": 0.0, "noise_prob": 0.0}


def names(transform: RandPictureIntensityd) -> list[str]:
    return [type(part).__name__ for part in transform.transforms]


def test_parts_that_are_0_are_left_out() -> None:
    assert names(RandPictureIntensityd(stain=0.2, invert_prob=0.1)) == [
        "RandStainJitterd", "RandInvertd", "RandBlurd", "RandBrightnessd", "RandContrastd", "RandGammad", "RandNoised",
    ]  # fmt: skip
    assert names(RandPictureIntensityd(**{**ONLY, "jitter": 0.2})) == ["RandBrightnessd", "RandContrastd", "RandGammad"]
    with pytest.warns(UserWarning, match="all parts are 0"):
        nothing = RandPictureIntensityd(**ONLY)
    assert torch.equal(nothing({"image": IMAGE})["image"], IMAGE)


def test_channels_change_alike_and_within_bounds() -> None:
    transform = RandPictureIntensityd(**{**ONLY, "jitter": 0.3}, jitter_prob=1.0)
    grey = IMAGE[:1].expand(3, 24, 24).contiguous()
    brightness, contrast, gamma = transform.transforms
    lowest, highest = 2.0, 0.0
    for number in range(60):
        out = seed_transforms(transform, 0, number)({"image": grey})["image"]
        assert torch.equal(out[0], out[1])
        assert torch.equal(out[0], out[2])
        for part in (brightness, contrast):
            lowest, highest = min(lowest, *part.params["factors"]), max(highest, *part.params["factors"])
            assert 0.7 <= lowest <= highest <= 1.3
        assert 0.7 <= gamma.params["gammas"][0] <= 1 / 0.7
        # brightness is the only one that widens the range of values
        assert out.max() <= brightness.params["factors"][0] * grey.max() + 1e-6
    assert lowest < 0.72
    assert highest > 1.28


def test_seeded_as_part_of_a_chain() -> None:
    chain = Compose([RandMirrord("image", (-1,)), RandPictureIntensityd(invert_prob=0.3, stain=0.2)])
    first = [seed_transforms(chain, 1, number)({"image": IMAGE})["image"] for number in range(20)]
    for number in (13, 2, 19):
        assert torch.equal(seed_transforms(chain, 1, number)({"image": IMAGE})["image"], first[number])
    assert len({out.numpy().tobytes() for out in first}) > 15
    assert all(out.shape == IMAGE.shape and torch.isfinite(out).all() for out in first)


def test_arguments_are_checked() -> None:
    for arguments, message in (
        ({"jitter": 1.0}, "jitter must be in"),
        ({"noise_prob": 2.0}, "noise_prob must be in"),
        ({"blur_sigma": (2.0, 1.0)}, "blur_sigma must be two numbers"),
    ):
        with pytest.raises(InputError, match=message):
            RandPictureIntensityd(**arguments)
