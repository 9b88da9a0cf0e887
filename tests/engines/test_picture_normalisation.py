"""Normalisation on the device against its definition in float64, and the function that engines call."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from monai_ext.engines.batch_mixing import BatchMixing
from monai_ext.engines.picture_normalisation import PictureNormalisation, prepare_batch
from monai_ext.planning.class_plan import ClassPlan, architecture

ARCH = "se-resnext-narrow"
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
PLAN = ClassPlan("d", ("a", "b"), False, 2, 3, (16, 16), MEAN, STD, ARCH, **architecture(ARCH))


@pytest.mark.parametrize("value_range", [(0.0, 255.0), (-1000.0, 400.0)])
@pytest.mark.parametrize("channels_last", [False, True])
def test_against_the_definition(value_range: tuple[float, float], channels_last: bool) -> None:
    plan = replace(PLAN, value_range=value_range)
    low, high = value_range
    images = torch.randint(0, 256, (4, 3, 16, 18), generator=torch.Generator().manual_seed(0))
    images = images.byte() if low == 0 else images.float() * 5 - 1000
    before = images.clone()
    out = PictureNormalisation(plan, channels_last=channels_last)(images)
    mean, std = (torch.tensor(v, dtype=torch.float64)[:, None, None] for v in (MEAN, STD))
    wanted = ((images.double() - low) / (high - low) - mean) / std
    assert out.dtype == torch.float32
    assert torch.allclose(out, wanted.float(), rtol=1e-5, atol=1e-5)  # one product and one sum instead of four steps
    assert out.is_contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
    assert torch.equal(images, before)


def test_float_images_are_not_changed_in_place() -> None:
    images = torch.rand(2, 3, 16, 16)
    before = images.clone()
    PictureNormalisation(PLAN, "cpu")(images)
    assert torch.equal(images, before)


def test_volumes_in_channels_last() -> None:
    plan = replace(PLAN, spatial_dims=3, image_size=(16, 16, 16), channels=1, mean=(0.5,), std=(0.25,))
    out = PictureNormalisation(plan, channels_last=True)(torch.full((2, 1, 4, 5, 6), 255, dtype=torch.uint8))
    assert torch.allclose(out, torch.tensor(2.0))
    assert out.is_contiguous(memory_format=torch.channels_last_3d)


def test_prepared_batches() -> None:
    normalise = PictureNormalisation(PLAN)
    batch = {
        "image": torch.randint(0, 256, (4, 3, 16, 16), dtype=torch.uint8),
        "label": torch.tensor([0, 1, 1, 0]),
        "case": ["a", "b", "c", "d"],
    }
    images, labels = prepare_batch(normalise)(batch, torch.device("cpu"), non_blocking=False)
    assert torch.equal(images, normalise(batch["image"]))
    assert labels is not None
    assert labels.tolist() == [0, 1, 1, 0]
    images, targets = prepare_batch(normalise, BatchMixing(2, label_smoothing=0.2))(batch)
    assert targets is not None
    assert torch.allclose(targets, torch.tensor([[0.9, 0.1], [0.1, 0.9], [0.1, 0.9], [0.9, 0.1]]))
    del batch["label"]
    assert prepare_batch(normalise)(batch, "cpu")[1] is None
