"""Samples of a classifier: a function of seed and sample number, in one type and range whatever the file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from monai.transforms import Compose, Lambdad, RandGaussianNoised
from PIL import Image
from torch.utils.data import DataLoader

from monai_ext.datasets.classification_dataset import ImageCase
from monai_ext.datasets.picture import TensorPicture
from monai_ext.engines.class_sampling import BalancedStream
from monai_ext.engines.picture_samples import PictureSamples, PlanPicture, WholePictures, label_of
from monai_ext.errors import InputError
from monai_ext.planning.class_plan import ClassPlan, architecture
from monai_ext.transforms.colour_jitter import RandColourJitterd
from monai_ext.transforms.flips import RandMirrord
from monai_ext.transforms.random_resized_crop import RandResizedCropd
from monai_ext.transforms.right_angle_turn import RandRightAngleTurnd
from monai_ext.transforms.sample_seed import seed_transforms

ARCH = "se-resnext-narrow"
PLAN = ClassPlan("d", ("a", "b", "c"), False, 2, 3, (32, 32), (0.5,) * 3, (0.2,) * 3, ARCH, **architecture(ARCH))


@pytest.fixture
def cases(tmp_path: Path) -> list[ImageCase]:
    random, cases = np.random.default_rng(0), []
    for number in range(6):
        path = tmp_path / f"{number}.{'jpg' if number % 2 else 'png'}"
        Image.fromarray(random.integers(0, 256, (50, 70, 3), dtype=np.uint8)).save(path)
        cases.append(ImageCase(path.name, path, (number % 3,), "train"))
    return cases


def chain() -> Compose:
    return Compose(
        [
            RandResizedCropd("image", PLAN.image_size),
            RandMirrord("image", (-1,)),
            RandRightAngleTurnd("image"),
            RandColourJitterd("image"),
        ]
    )


def test_samples_are_a_function_of_seed_and_number(cases: Sequence[ImageCase]) -> None:
    samples = PictureSamples(cases, PLAN, chain(), seed=3)
    first = [samples[number, number % 6, 0] for number in range(12)]
    assert first[4]["image"].shape == (3, 32, 32)
    assert first[4]["image"].dtype == torch.uint8
    assert type(first[4]["image"]) is torch.Tensor
    assert (first[4]["label"].dtype, first[4]["label"].item()) == (torch.int64, 1)
    again = PictureSamples(cases, PLAN, chain(), seed=3)
    for number in (7, 2, 11):  # another order
        assert torch.equal(again[number, number % 6, 5]["image"], first[number]["image"])
    assert not torch.equal(again[8, 2, 0]["image"], first[2]["image"])
    assert not torch.equal(PictureSamples(cases, PLAN, chain(), seed=4)[2, 2, 0]["image"], first[2]["image"])


def test_seeding_is_that_of_all_samples(cases: Sequence[ImageCase]) -> None:
    transforms = Compose([RandResizedCropd("image", (32, 32)), Lambdad("image", lambda x: x.float()), noise()])
    found = PictureSamples(cases, PLAN, transforms, seed=9)[5, 0, 0]["image"]
    seed_transforms(transforms, 9, 5)
    picture = TensorPicture(torch.from_numpy(np.array(Image.open(cases[0].path))).permute(2, 0, 1))
    assert torch.equal(transforms({"image": picture})["image"], found)


def noise() -> RandGaussianNoised:
    return RandGaussianNoised("image", prob=1.0, std=5.0)


def test_workers_change_nothing(cases: Sequence[ImageCase]) -> None:
    def batches(workers: int) -> list[torch.Tensor]:
        stream = BalancedStream(cases, 4, seed=1)
        stream.start_at(2)
        loader = DataLoader(
            PictureSamples(cases, PLAN, chain(), seed=1), batch_size=4, sampler=stream, num_workers=workers
        )
        return [batch["image"] for batch, _ in zip(loader, range(3), strict=False)]

    alone, shared = batches(0), batches(2)
    assert alone[0].shape == (4, 3, 32, 32)
    assert all(torch.equal(a, b) for a, b in zip(alone, shared, strict=True))


def test_whole_pictures(cases: Sequence[ImageCase]) -> None:
    whole = WholePictures(cases, replace(PLAN, image_size=(16, 16), crop_ratio=0.32))
    sample = whole[2]
    # 16 of 50 pixels, cut without resizing: rows 17 to 33, columns 27 to 43
    wanted = np.array(Image.open(cases[2].path))[17:33, 27:43].transpose(2, 0, 1)
    assert np.array_equal(sample["image"].numpy(), wanted)
    assert (sample["case"], sample["label"].item(), len(whole)) == ("2.png", 2, 6)
    unlabelled = WholePictures([replace(cases[2], labels=())], PLAN)[0]
    assert "label" not in unlabelled


def test_labels() -> None:
    case = ImageCase("x", Path("x"), (0, 2))
    label = label_of(case, replace(PLAN, multi_label=True))
    assert label.dtype == torch.float32
    assert label.tolist() == [1, 0, 1]
    assert label_of(replace(case, labels=()), replace(PLAN, multi_label=True)).tolist() == [0, 0, 0]


BOX = (0, 0, 2, 2)


def cut(image: torch.Tensor, full_range: tuple[float, float] | None, value_range: tuple[float, float]) -> torch.Tensor:
    return PlanPicture(TensorPicture(image, full_range), value_range).crop_resized(BOX, (2, 2))


def test_a_plan_of_bytes_gets_bytes() -> None:
    sixteen = torch.tensor([[[0.0, 65535.0], [32896.0, 257.0]]])
    assert cut(sixteen, (0, 65535), (0, 255)).tolist() == [[[0, 255], [128, 1]]]
    other = torch.tensor([[[-3.0, 300.0], [99.6, 17.0]]])
    out = cut(other, None, (0, 255))
    assert (out.dtype, out.tolist()) == (torch.uint8, [[[0, 255], [100, 17]]])


def test_a_plan_of_wide_values_gets_floats() -> None:
    eight = torch.tensor([[[0, 255], [51, 102]]], dtype=torch.uint8)
    out = cut(eight, None, (-1000, 1000))
    assert out.dtype == torch.float32
    assert torch.allclose(out, torch.tensor([[[-1000.0, 1000.0], [-600.0, -200.0]]]))
    values = torch.tensor([[[-1024.0, 3000.0], [0.0, 40.0]]])
    assert torch.equal(cut(values, None, (-1000, 1000)), values)
    assert torch.equal(cut(values, (0, 65535), (0, 4095)), values)


def test_volumes(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(20, 30, 10)).astype(np.float32) * 100
    nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), tmp_path / "v.nii.gz")
    plan = replace(PLAN, spatial_dims=3, channels=1, image_size=(16, 24, 20), value_range=(-100.0, 100.0))
    case = ImageCase("v.nii.gz", tmp_path / "v.nii.gz", (1,))
    turns = Compose([RandResizedCropd("image", plan.image_size), RandMirrord("image", (0, 1, 2))])
    sample = PictureSamples([case], plan, turns)[0, 0, 0]
    assert (sample["image"].shape, sample["image"].dtype) == ((1, 16, 24, 20), torch.float32)
    assert WholePictures([case], plan)[0]["image"].shape == (1, 16, 24, 20)


def test_a_damaged_file_is_named_from_a_worker(cases: Sequence[ImageCase]) -> None:
    path = cases[1].path
    path.write_bytes(path.read_bytes()[:700])
    samples = PictureSamples(cases, PLAN, chain())
    with pytest.raises(InputError, match=r"1\.jpg: cannot be read.*Cure"):
        samples[0, 1, 0]
    with pytest.raises(InputError, match=r"1\.jpg: cannot be read") as caught:
        next(iter(DataLoader(WholePictures(cases, PLAN), batch_size=6, num_workers=1)))
    assert str(caught.value).startswith(str(path))
    assert "Traceback" not in str(caught.value)
