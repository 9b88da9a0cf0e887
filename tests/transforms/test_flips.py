"""Mirroring."""

from __future__ import annotations

import numpy as np
import torch

from monai_ext.transforms.flips import RandMirrord


def test_image_and_label_are_mirrored_alike() -> None:
    image = torch.arange(24.0).view(1, 2, 3, 4)
    transform = RandMirrord(axes=(0, 2), prob=1.0)
    out = transform({"image": image, "label": image.to(torch.uint8)})
    assert torch.equal(out["image"], image.flip(1, 3))
    assert torch.equal(out["label"].float(), out["image"])


def test_each_axis_has_its_own_chance() -> None:
    transform = RandMirrord(axes=(0, 1, 2), prob=(0.5, 0.0, 0.9))
    transform.set_random_state(seed=0)
    drawn = np.zeros((2000, 3), bool)
    for row in drawn:
        transform.randomize(torch.zeros(1, 1, 1, 1))
        row[transform.params.get("axes", [])] = True
    # standard errors at most 0.011; four of them
    assert np.all(np.abs(drawn.mean(0) - [0.5, 0, 0.9]) < 0.045)
    # independent axes: chance of both is the product
    assert abs((drawn[:, 0] & drawn[:, 2]).mean() - 0.45) < 0.045
