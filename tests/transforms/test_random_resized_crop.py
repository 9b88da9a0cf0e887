"""Random resized crop: the law of its boxes, its random state, pictures and tensors, and its inverse."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose

from monai_ext.errors import InputError
from monai_ext.transforms.random_resized_crop import RandResizedCrop, RandResizedCropd, draw_box, largest_box
from monai_ext.transforms.sample_seed import seed_transforms


class AskedPicture:
    """Remembers what was asked of it."""

    def __init__(self, size: Sequence[int]) -> None:
        self.size = tuple(size)
        self.asked: list[tuple[object, ...]] = []

    def crop_resized(self, box: Sequence[int], size: Sequence[int], interpolation: str) -> torch.Tensor:
        self.asked.append((tuple(box), tuple(size), interpolation))
        return torch.zeros(3, *size, dtype=torch.uint8)


def boxes(shape: Sequence[int], size: Sequence[int], count: int = 2000, **options: object) -> np.ndarray:
    random = np.random.RandomState(0)
    return np.array([draw_box(random, shape, size, **options) for _ in range(count)])


def test_area_and_aspect_follow_their_laws() -> None:
    # so much larger than what is drawn that no box is refused, and rounding to pixels does not matter
    found = boxes((4000, 4000), (224, 224), area=(0.05, 0.25), aspect=(3 / 4, 4 / 3))
    height, width = (found[:, 2:] - found[:, :2]).T
    area, aspect = height * width / 16e6, np.log(width / height)
    edge = math.log(4 / 3)
    for values, low, high in ((area, 0.05, 0.25), (aspect, -edge, edge)):
        assert low - 1e-3 <= values.min() < values.max() <= high + 1e-3
        cumulative = np.histogram(values, 10, (low, high))[0].cumsum() / len(values)
        # Kolmogorov-Smirnov at 0.1 %: 1.95 / sqrt(2000)
        assert np.abs(cumulative - np.arange(1, 11) / 10).max() < 0.044
    place = found[:, 1] / (4000 - width)
    assert np.abs(np.histogram(place, 10, (0, 1))[0].cumsum() / len(place) - np.arange(1, 11) / 10).max() < 0.044


@pytest.mark.parametrize("shape", [(375, 500), (500, 375), (30, 1000), (3, 3), (1, 1), (5, 6, 7), (20, 256, 256)])
def test_boxes_lie_inside(shape: tuple[int, ...]) -> None:
    axes = len(shape)
    found = boxes(shape, (96,) * axes, 300, keep_aspect=axes == 2)
    assert (found[:, :axes] >= 0).all()
    assert (found[:, axes:] > found[:, :axes]).all()
    assert (found[:, axes:] <= np.array(shape)).all()


def test_objects_keep_their_shape_where_the_result_is_no_square() -> None:
    found = boxes((2000, 2000), (100, 300), aspect=(1.0, 1.0), area=(0.1, 0.2), count=50)
    height, width = (found[:, 2:] - found[:, :2]).T
    assert np.abs(width / height - 3).max() < 0.02


def test_flat_volumes_are_cropped_in_their_own_shape() -> None:
    found = boxes((20, 256, 256), (96, 96, 96), keep_aspect=False)
    depth, height, width = (found[:, 3:] - found[:, :3]).T
    share = depth * height * width / (20 * 256 * 256)
    assert 0.07 < share.min() < 0.15  # rounding to whole slices moves it
    assert share.max() > 0.85
    assert len(set(depth)) > 8


def test_what_never_fits_becomes_the_largest_centred_box() -> None:
    assert tuple(boxes((10, 1000), (64, 64), 20, area=(0.9, 1.0))[7]) == largest_box(
        (10, 1000), (64, 64), (3 / 4, 4 / 3)
    )
    assert largest_box((10, 1000), (64, 64), (3 / 4, 4 / 3)) == (0, 493, 10, 506)  # 13 wide: 4/3 of 10
    assert largest_box((375, 500), (224, 224)) == (0, 62, 375, 437)
    assert largest_box((20, 256, 256), (96, 96, 96), keep_aspect=False) == (0, 0, 0, 20, 256, 256)


def test_a_picture_is_asked_for_the_box() -> None:
    picture = AskedPicture((375, 500))
    transform = RandResizedCropd("image", (224, 192), interpolation="bicubic")
    out = transform({"image": picture, "label": 3})
    assert out["image"].shape == (3, 224, 192)
    assert out["label"] == 3
    ((box, size, interpolation),) = picture.asked
    assert (list(box), size, interpolation) == (transform.params["box"], (224, 192), "bicubic")


def test_result_depends_on_seed_and_sample_number_only() -> None:
    image = torch.rand(3, 60, 80, generator=torch.Generator().manual_seed(0))
    chain = Compose([RandResizedCropd("image", (32, 32))])
    results = {}
    for number in (5, 6, 7, 6, 5):
        out = seed_transforms(chain, 1, number)({"image": image})["image"]
        assert torch.equal(results.setdefault(number, out), out)
    assert not torch.equal(results[5], results[6])
    assert not torch.equal(seed_transforms(chain, 2, 5)({"image": image})["image"], results[5])


def test_array_form_draws_the_same_box() -> None:
    image = torch.rand(3, 60, 80, generator=torch.Generator().manual_seed(0))
    dictionary, array = RandResizedCropd("image", (32, 32)), RandResizedCrop((32, 32))
    dictionary.set_random_state(seed=4)
    array.set_random_state(seed=4)
    out = array(image)
    assert torch.equal(out, dictionary({"image": image})["image"])
    assert torch.equal(array(image, randomize=False), out)


def test_keys_share_the_box() -> None:
    image = torch.arange(60 * 80.0).reshape(1, 60, 80)
    out = RandResizedCropd(["image", "other"], (32, 32))({"image": image, "other": image + 1})
    assert torch.allclose(out["other"], out["image"] + 1, atol=1e-3)


@pytest.mark.parametrize("shape", [(40, 50), (16, 20, 24)])
def test_inverse_puts_the_box_back(shape: tuple[int, ...]) -> None:
    axes = len(shape)
    grid = torch.meshgrid(*[torch.arange(n) / n for n in shape], indexing="ij")
    image = MetaTensor(sum(grid)[None] + 1, affine=torch.diag(torch.tensor([2.0, 3.0, 4.0, 1.0])))
    transform = RandResizedCropd("image", (32, 32, 32)[:axes], area=(0.3, 0.6))
    transform.set_random_state(seed=3)
    chain = Compose([transform])
    out = chain({"image": image})
    assert out["image"].shape[1:] == (32, 32, 32)[:axes]
    assert len(out["image"].applied_operations) == 1
    box = transform.params["box"]
    first = out["image"].affine @ torch.tensor([-0.5, -0.5, -0.5 if axes == 3 else 0, 1]).double()
    spacing = torch.tensor([2.0, 3.0, 4.0]).double()
    assert torch.allclose(first[:axes], (torch.tensor(box[:axes]) - 0.5) * spacing[:axes])
    back = chain.inverse(out)["image"]
    assert isinstance(back, MetaTensor)
    assert back.shape == image.shape
    assert torch.allclose(back.affine, image.affine)
    assert back.applied_operations == []
    place = (slice(None), *(slice(a, b) for a, b in zip(box[:axes], box[axes:], strict=True)))
    # linear values survive but for the outermost pixels, which extrapolate nothing
    assert (back[place].as_tensor() - image[place].as_tensor()).abs().max() < 0.1
    back[place] = 0
    assert not back.any()


def test_without_a_draw_the_largest_centred_box() -> None:
    transform = RandResizedCropd("image", (20, 20), prob=0.0)
    transform({"image": torch.zeros(1, 30, 50)})
    assert transform.params["box"] == [0, 10, 30, 40]


@pytest.mark.parametrize(
    "options",
    [
        {"area": (0.0, 1.0)},
        {"area": (0.5, 1.5)},
        {"aspect": (0.0, 1.0)},
        {"aspect": (2.0, 1.0)},
        {"size": (0, 3)},
        {"size": (3,)},
        {"interpolation": "nearest"},
        {"prob": 2.0},
    ],
)
def test_impossible_arguments(options: dict[str, object]) -> None:
    with pytest.raises(InputError, match=r"RandResizedCropd.*Cure"):
        RandResizedCropd("image", **{"size": (8, 8), **options})


def test_another_number_of_axes() -> None:
    with pytest.raises(InputError, match="image of 3 axes"):
        RandResizedCropd("image", (8, 8))({"image": torch.zeros(1, 9, 9, 9)})
