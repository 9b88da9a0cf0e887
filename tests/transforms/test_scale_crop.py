"""Scale jitter and crops of images with label maps."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from monai.transforms import Compose

from monai_ext.datasets.picture import TensorPicture
from monai_ext.errors import InputError
from monai_ext.transforms.flips import RandMirrord
from monai_ext.transforms.right_angle_turn import RandRightAngleTurnd
from monai_ext.transforms.sample_seed import seed_transforms
from monai_ext.transforms.scale_crop import RandScaleCropPadd


def sample(height: int = 40, width: int = 60) -> dict[str, torch.Tensor]:
    """Every pixel has a value of its own, in the image and in the label map."""
    values = torch.arange(height * width).reshape(1, height, width)
    return {"image": values.float(), "label_map": values.int()}


def discs() -> dict[str, torch.Tensor]:
    y, x = torch.meshgrid(torch.arange(80), torch.arange(120), indexing="ij")
    labels = torch.zeros(1, 80, 120, dtype=torch.int32)
    for number, (row, column) in enumerate(((20, 20), (50, 30), (30, 80), (60, 95)), 1):
        labels[0, (y - row) ** 2 + (x - column) ** 2 < 144] = number
    return {"image": (labels > 0).float(), "label_map": labels}


def test_a_crop_without_scale_copies_pixels() -> None:
    transform = RandScaleCropPadd((16, 24))
    transform.set_random_state(0)
    starts = set()
    for _ in range(50):
        out = transform(sample())
        box = transform.params["box"]
        assert out["image"].shape == out["label_map"].shape == (1, 16, 24)
        assert torch.equal(out["image"], sample()["image"][:, box[0] : box[2], box[1] : box[3]])
        assert torch.equal(out["image"].int(), out["label_map"])
        starts.add((box[0], box[1]))
    assert len(starts) > 45


def test_all_places_are_equally_likely() -> None:
    transform = RandScaleCropPadd((38, 60))
    transform.set_random_state(1)
    found = Counter(transform.draw_part((40, 60))["box"][0] for _ in range(600))
    assert set(found) == {0, 1, 2}
    assert sum((n - 200) ** 2 / 200 for n in found.values()) < 13.8  # 2 degrees of freedom, 0.1 %


@pytest.mark.parametrize("law", ["log_uniform", "uniform"])
def test_scales_follow_their_law(law: str) -> None:
    transform = RandScaleCropPadd((10**6, 10**6), base=2.0, scale=(0.5, 2.0), law=law)
    transform.set_random_state(0)
    factors = np.array([transform.draw_part((5000, 5000))["size"][0] / 10000 for _ in range(2000)])
    assert 0.5 <= factors.min() < 0.51
    assert 1.98 < factors.max() <= 2
    # median of 2000: standard error 0.017 (uniform), 0.016 (logarithms)
    assert np.median(factors) == pytest.approx({"log_uniform": 1.0, "uniform": 1.25}[law], abs=0.07)


def test_image_and_label_map_stay_together() -> None:
    transform = Compose(
        [
            RandScaleCropPadd((64, 64), scale=(0.5, 3.0)),
            RandMirrord(("image", "label_map"), (-2, -1)),
            RandRightAngleTurnd(("image", "label_map")),
        ]
    )
    shapes, compared = set(), 0
    for number in range(40):
        out = seed_transforms(transform, 0, number)(discs())
        assert out["label_map"].dtype == torch.int32
        assert set(out["label_map"].unique().tolist()) <= {0, 1, 2, 3, 4}
        inside, labelled = out["image"][0] > 0.5, out["label_map"][0] > 0
        if labelled.sum() > 200:
            shift = torch.nonzero(inside).float().mean(0) - torch.nonzero(labelled).float().mean(0)
            assert shift.abs().max() < 0.4  # pixels; edges of three equal labels in a row give some
            compared += 1
        shapes.add(tuple(out["image"].shape[1:]))
    assert (64, 64) in shapes
    assert len(shapes) > 3  # images smaller than the crop stay whole
    assert compared > 20


def test_small_images_stay_whole_or_are_padded() -> None:
    out = RandScaleCropPadd((64, 64))(sample())
    assert torch.equal(out["image"], sample()["image"])
    padded = RandScaleCropPadd((64, 64), pad=True, pad_value=-7.0)(sample())
    assert padded["image"].shape == padded["label_map"].shape == (1, 64, 64)
    assert torch.equal(padded["image"][:, :40, :60], sample()["image"])
    assert (padded["image"][:, 40:] == -7).all()
    assert (padded["image"][:, :, 60:] == -7).all()
    assert padded["label_map"].sum() == sample()["label_map"].sum()


def test_fit_fills_the_size() -> None:
    transform = RandScaleCropPadd((80, 90), base="fit")
    assert transform(sample())["image"].shape == (1, 60, 90)
    assert transform(sample(60, 40))["image"].shape == (1, 80, 53)
    jitter = RandScaleCropPadd((80, 90), base="fit", scale=(0.1, 2.0), law="uniform")
    jitter.set_random_state(0)
    shapes = [tuple(jitter(sample())["label_map"].shape[1:]) for _ in range(60)]
    assert max(height for height, _ in shapes) == 80
    assert min(height for height, _ in shapes) < 14
    assert all(height <= 80 and width <= 90 for height, width in shapes)
    unchanged = RandScaleCropPadd((80, 90), base="fit", scale=(0.1, 2.0), prob=0.0)
    assert unchanged(sample())["image"].shape == (1, 60, 90)


def test_objects_are_preferred() -> None:
    one = torch.zeros(1, 200, 300, dtype=torch.int32)
    one[0, 150:156, 20:26] = 1
    entries = {"image": one.float(), "label_map": one, "boxes": torch.tensor([[20.0, 150.0, 26.0, 156.0]])}
    for share, low, high in ((1.0, 100, 100), (0.5, 45, 75), (0.0, 0, 15)):
        transform = RandScaleCropPadd((40, 40), prefer_objects=share)
        transform.set_random_state(0)
        shown = sum(bool(transform(entries)["label_map"].any()) for _ in range(100))
        assert low <= shown <= high
    entries["boxes"] = torch.zeros(0, 4)
    assert RandScaleCropPadd((40, 40), prefer_objects=1.0)(entries)["image"].shape == (1, 40, 40)


def test_pictures_are_cut_as_tensors_are() -> None:
    transform = RandScaleCropPadd((20, 20), base=1.7, label_keys=())
    image = sample()["image"]
    transform.set_random_state(3)
    from_tensor = transform({"image": image})["image"]
    transform.set_random_state(3)
    assert torch.equal(transform({"image": TensorPicture(image)})["image"], from_tensor)
    assert from_tensor.shape == (1, 20, 20)


def test_arguments_are_checked() -> None:
    for arguments, message in (
        ({"size": (0, 4)}, "size must be"),
        ({"size": (4, 4), "scale": (0.0, 1.0)}, "scale must be above 0"),
        ({"size": (4, 4), "scale": (2.0, 1.0)}, "scale must be two numbers"),
        ({"size": (4, 4), "law": "normal"}, "law 'normal' is not known"),
        ({"size": (4, 4), "base": "cover"}, "base must be"),
        ({"size": (4, 4), "prefer_objects": 2.0}, "prefer_objects must be in"),
    ):
        with pytest.raises(InputError, match=message):
            RandScaleCropPadd(**arguments)
    with pytest.raises(InputError, match="differ in height and width"):
        RandScaleCropPadd((4, 4))({**sample(), "label_map": torch.zeros(1, 40, 59, dtype=torch.int32)})
