"""A box stretched to the slice, against the formula pixel by pixel."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

from monai_ext.errors import InputError
from monai_ext.transforms.crop_resize import RandCropResized, crop_resize


def reference(image: np.ndarray, box: list[float]) -> np.ndarray:
    """TensorFlow's formula in float64, one pixel after the other; `[H, W]`."""
    height, width = image.shape
    top, left, bottom, right = box
    out = np.empty((height, width))
    for i in range(height):
        for j in range(width):
            y = top * (height - 1) + i * (bottom - top) * (height - 1) / (height - 1)
            x = left * (width - 1) + j * (right - left) * (width - 1) / (width - 1)
            y0, x0 = math.floor(y), math.floor(x)
            y1, x1 = min(y0 + 1, height - 1), min(x0 + 1, width - 1)
            upper = image[y0, x0] * (x0 + 1 - x) + image[y0, x1] * (x - x0)
            lower = image[y1, x0] * (x0 + 1 - x) + image[y1, x1] * (x - x0)
            out[i, j] = upper * (y0 + 1 - y) + lower * (y - y0)
    return out


def make_sample(height: int, width: int, seed: int = 0) -> dict:
    generator = torch.Generator().manual_seed(seed)
    return {
        "image": torch.rand(1, height, width, generator=generator) * 2 - 1,
        "label": torch.randint(0, 2, (1, height, width), generator=generator),
    }


@pytest.mark.parametrize(("height", "width"), [(24, 24), (17, 30), (2, 9)])
@pytest.mark.parametrize("seed", range(3))
def test_image_and_label_follow_the_formula(height: int, width: int, seed: int) -> None:
    sample = make_sample(height, width, seed)
    transform = RandCropResized()
    transform.set_random_state(seed=seed)
    out = transform(sample)
    box = json.loads(json.dumps(transform.params))["box"]
    expected = torch.from_numpy(reference(sample["image"][0].double().numpy(), box))
    # weights and two interpolations of values up to 1 in float32
    torch.testing.assert_close(out["image"][0].double(), expected, atol=1e-6, rtol=0)
    share = torch.from_numpy(reference(sample["label"][0].double().numpy(), box))
    clear = (share - 0.5).abs() > 1e-6  # at one half rounding decides
    assert clear.float().mean() > 0.95
    assert out["label"].dtype == torch.int64
    assert torch.equal(out["label"][0][clear], (share >= 0.5).long()[clear])
    assert torch.equal(transform.apply(sample["image"], {"box": box}), out["image"])


def test_half_a_share_is_class_1() -> None:
    label = torch.tensor([[[0, 1, 0, 1, 0]] * 2])
    # columns 0.5, 1.25, 2, 2.75, 3.5
    out = RandCropResized().apply_label(label, {"box": [0.0, 0.125, 1.0, 0.875]})
    assert out[0, 0].tolist() == [1, 1, 0, 1, 1]


def test_the_whole_box_is_the_identity_and_corners_lie_on_the_corners() -> None:
    image = make_sample(11, 13)["image"]
    assert torch.equal(crop_resize(image, [0.0, 0.0, 1.0, 1.0]), image)
    part = crop_resize(image, [0.2, 0.25, 0.8, 0.75])
    assert part[0, 0, 0].item() == pytest.approx(image[0, 2, 3].item(), abs=1e-6)  # float32
    assert part[0, -1, -1].item() == pytest.approx(image[0, 8, 9].item(), abs=1e-6)


def test_law_of_the_box() -> None:
    transform = RandCropResized(margin=0.3)
    transform.set_random_state(seed=0)
    boxes = []
    for _ in range(3000):
        transform.randomize(torch.zeros(1, 4, 4))
        boxes.append(transform.params["box"])
    cut = np.abs(np.array(boxes) - [0, 0, 1, 1])
    assert cut.min() >= 0
    assert cut.max() <= 0.3
    # uniform: mean 0.15, deviation 0.0866, standard error 0.0016; four of them
    assert np.all(np.abs(cut.mean(0) - 0.15) < 0.0064)
    assert np.all(np.abs(cut.std(0) - 0.0866) < 0.005)
    # four independent sides: the standard error of a correlation is 0.018, five of them
    assert np.all(np.abs(np.corrcoef(cut.T) - np.eye(4)) < 0.09)


def test_the_input_stays_and_prob_0_hands_it_on() -> None:
    sample = make_sample(9, 9)
    before = {key: value.clone() for key, value in sample.items()}
    assert not torch.equal(RandCropResized()(sample)["image"], before["image"])
    assert all(torch.equal(sample[key], before[key]) for key in sample)
    with pytest.warns(UserWarning, match="prob is 0"):
        transform = RandCropResized(prob=0)
    out = transform(sample)
    assert all(out[key] is sample[key] for key in sample)


def test_same_seed_same_result() -> None:
    sample, transform = make_sample(15, 16), RandCropResized()
    outs = []
    for seed in (1, 2, 1):
        transform.set_random_state(seed=seed)
        outs.append(transform(sample)["image"])
    assert torch.equal(outs[0], outs[2])
    assert not torch.equal(outs[0], outs[1])


@pytest.mark.parametrize("margin", [-0.1, 0.5, float("nan")])
def test_margins_that_may_cut_everything_are_refused(margin: float) -> None:
    with pytest.raises(InputError, match=r"margin must be in \[0, 0\.5\).*Cure: "):
        RandCropResized(margin=margin)
    with pytest.warns(UserWarning, match="margin is 0"):
        RandCropResized(margin=0)
