"""Augmentation on the device of the training: the same draws and, within rounding, the same patches as in a loader."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from monai.transforms import ScaleIntensityd

from monai_ext.engines.device_augmentation import DeviceAugmentation, as_lists, augmented
from monai_ext.errors import InputError
from monai_ext.transforms.contrast import RandContrastd
from monai_ext.transforms.deferred_chain import DeferredBatch, DeferredCompose, augmentation_chain
from monai_ext.transforms.flips import RandMirrord
from monai_ext.transforms.foreground_crop import RandForegroundCropd
from monai_ext.transforms.fused_chain import FusedCompose
from monai_ext.transforms.gamma import RandGammad
from monai_ext.transforms.gaussian_blur import RandBlurd
from monai_ext.transforms.gaussian_noise import RandNoised
from monai_ext.transforms.sample_seed import seed_transforms
from monai_ext.transforms.spatial import SpatialDraw
from monai_ext.transforms.zoom import RandZoomInd


def chain(patch: tuple[int, ...]) -> list[Any]:
    return [
        RandForegroundCropd(patch_size=patch, oversampling=0.5, spatial=SpatialDraw(0.5, None, 0.5), pad_label=3),
        RandZoomInd(prob=0.3),
        RandNoised(prob=0.5),
        RandBlurd(prob=0.5),
        RandMirrord(axes=(-1, -2), prob=0.5),
        RandContrastd(prob=0.5),
        RandGammad(prob=0.5),
    ]


def cases(number: int) -> list[dict[str, Any]]:
    random = np.random.default_rng(0)
    shapes = [(20, 24, 18), (9, 30, 22), (16, 16, 40)]
    made = []
    for i in range(number):
        shape = shapes[i % 3]
        image = random.standard_normal((2, *shape)).astype(np.float32)
        label = (random.random(shape) < 0.2).astype(np.uint8) * 2
        made.append(
            {"image": image, "label": label, "locations": {2: np.argwhere(label == 2)}, "slot": i, "case": str(i)}
        )
    return made


def both(patch: tuple[int, ...], number: int = 24) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor], Any]:
    at_once, deferred = FusedCompose(chain(patch)), DeferredCompose(chain(patch))
    expected, left = [], []
    for sample, case in enumerate(cases(number)):
        expected.append(seed_transforms(at_once, 5, sample)(dict(case)))
        left.append(seed_transforms(deferred, 5, sample)(dict(case)))
    stacked = {key: torch.stack([sample[key] for sample in expected]) for key in ("image", "label")}
    return stacked, DeferredBatch(DeferredCompose(chain(patch)))(as_lists(left)), left


@pytest.mark.parametrize("patch", [(12, 14, 10), (16, 20)])
def test_batch_is_what_the_loader_would_have_made(patch: tuple[int, ...]) -> None:
    expected, found, left = both(patch)
    assert found["image"].shape == (24, 2, *patch)
    assert found["label"].dtype == expected["label"].dtype
    # positions are rounded in the box instead of the volume, and a chain ends at transforms that are not of its kind
    torch.testing.assert_close(found["image"], expected["image"], rtol=1e-4, atol=1e-4)
    assert (found["label"] != expected["label"]).float().mean() < 1e-4
    turned = sum(not torch.equal(sample["matrix"], torch.eye(3, dtype=torch.float64)) for sample in left)
    assert 8 < turned < 24  # both kinds are in the batch


def test_draws_are_those_of_the_loader() -> None:
    at_once, deferred = FusedCompose(chain((8, 8, 8))), DeferredCompose(chain((8, 8, 8)))
    for sample, case in enumerate(cases(12)):
        seed_transforms(at_once, 1, sample)(dict(case))
        drawn = seed_transforms(deferred, 1, sample)(dict(case))["drawn"]
        assert drawn == [t.params for t in at_once.transforms[1:]]
        assert deferred.transforms[0].params == at_once.transforms[0].params


def test_loader_yields_finished_batches() -> None:
    compose = DeferredCompose(chain((8, 8, 8)))
    samples = [seed_transforms(compose, 1, n)(dict(case)) for n, case in enumerate(cases(4))]
    loader = torch.utils.data.DataLoader(samples, batch_size=2, collate_fn=as_lists)
    assert isinstance(augmented(loader, compose, "cpu"), DeviceAugmentation)
    batches = list(augmented(loader, compose, "cpu"))
    assert [batch["case"] for batch in batches] == [["0", "1"], ["2", "3"]]
    assert batches[0]["image"].shape == (2, 2, 8, 8, 8)
    assert "drawn" not in batches[0]
    assert augmented(loader, FusedCompose(chain((8, 8, 8))), "cpu") is loader


def test_sample_without_label() -> None:
    compose = DeferredCompose(chain((8, 8, 8)))
    case = {key: value for key, value in cases(1)[0].items() if key not in ("label", "locations")}
    batch = DeferredBatch(compose)(as_lists([seed_transforms(compose, 1, 0)(case)]))
    assert set(batch) == {"image"}


@pytest.mark.parametrize(
    "transforms",
    [
        [*chain((8, 8, 8)), ScaleIntensityd("image")],
        [RandForegroundCropd(patch_size=(8, 8), slices=2), RandNoised()],
        [RandNoised()],
    ],
)
def test_what_cannot_wait_is_refused(transforms: list[Any]) -> None:
    with pytest.raises(InputError, match="--augment_on loader"):
        augmentation_chain(transforms, "device")
    assert isinstance(augmentation_chain(transforms, "loader"), FusedCompose)


def test_unknown_place_is_refused() -> None:
    with pytest.raises(InputError, match="moon"):
        augmentation_chain(chain((8, 8, 8)), "moon")
