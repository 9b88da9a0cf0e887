"""Negatives."""

from __future__ import annotations

import torch

from monai_ext.transforms.invert import RandInvertd


def test_values_are_turned_about_the_middle() -> None:
    image = torch.tensor([[[0.0, 0.25], [1.0, 0.5]]])
    out = RandInvertd(prob=1.0)({"image": image})["image"]
    assert out.tolist() == [[[1.0, 0.75], [0.0, 0.5]]]
    assert image[0, 0, 1] == 0.25
    assert RandInvertd(prob=1.0, top=0.0)({"image": image})["image"].min() == -1


def test_chance() -> None:
    transform = RandInvertd(prob=0.25)
    transform.set_random_state(0)
    image = torch.zeros(1, 1, 1)
    drawn = sum(float(transform({"image": image})["image"]) for _ in range(400))
    assert 60 < drawn < 140  # 100, four standard deviations of 8.7
