"""Samples are a function of (seed, sample number), whatever was read before."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.transforms import Compose, RandAdjustContrastd

from monai_ext.datasets.phantom import make_phantom
from monai_ext.engines.preparation import Prepared, open_source, prepare
from monai_ext.engines.stored_patches import PatchDataset, StoredVolumes, collate_slices, slices_per_volume
from monai_ext.errors import InputError
from monai_ext.transforms.foreground_crop import RandForegroundCropd
from monai_ext.transforms.gaussian_noise import RandNoised


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    folder = tmp_path_factory.mktemp("prepared")
    raw = make_phantom(folder / "raw", num_cases=5)
    options = {"base_features": 4, "patch_size": (16, 16, 16), "batch_size": 2}
    source = open_source(str(raw), str(folder / "store"))
    return prepare(source, str(folder / "run"), str(folder / "store"), options, {})


def patches(prepared: Prepared, seed: int = 0) -> PatchDataset:
    crop = RandForegroundCropd(patch_size=(16, 16, 16), mode="batch_share", batch_size=2)
    stock = RandAdjustContrastd("image", prob=1.0)  # a transform of MONAI's own is seeded like ours
    chain = Compose([crop, RandNoised("image", prob=1.0), stock])
    return PatchDataset(prepared.store, prepared.fold.train, chain, seed)


def test_sample_does_not_depend_on_what_was_read_before(prepared: Prepared) -> None:
    first = patches(prepared)[(7, 2, 1)]
    busy = patches(prepared)
    for index in ((0, 0, 0), (3, 1, 1), (9, 2, 0)):
        busy[index]
    again = busy[(7, 2, 1)]
    torch.testing.assert_close(again["image"], first["image"], rtol=0, atol=0)
    torch.testing.assert_close(again["label"], first["label"], rtol=0, atol=0)
    assert first["image"].shape == (1, 16, 16, 16)
    assert first["label"].shape == (1, 16, 16, 16)


def test_seed_and_number_change_the_sample(prepared: Prepared) -> None:
    first = patches(prepared)[(7, 2, 1)]["image"]
    assert not torch.equal(patches(prepared)[(8, 2, 1)]["image"], first)
    assert not torch.equal(patches(prepared, seed=1)[(7, 2, 1)]["image"], first)


def test_forced_slot_shows_foreground(prepared: Prepared) -> None:
    dataset = patches(prepared)
    assert all((dataset[(n, n % 4, 1)]["label"] > 0).any() for n in range(12))


def test_whole_volumes_are_those_of_the_store(prepared: Prepared) -> None:
    volumes = StoredVolumes(prepared.store, prepared.fold.val)
    assert len(volumes) == 1
    case = prepared.store.load(prepared.fold.val[0])
    item = volumes[0]
    assert item["image"].shape == case.image.shape
    assert item["label"].shape == (1, *case.image.shape[1:])
    np.testing.assert_array_equal(item["image"].numpy(), case.image)
    np.testing.assert_array_equal(item["label"][0].numpy(), case.label)


def test_slices_of_a_batch_come_from_as_many_volumes_as_asked() -> None:
    assert slices_per_volume(2, 12, 0) == 1
    assert slices_per_volume(2, 12, 3) == 4
    assert slices_per_volume(3, 2, 0) == 1
    with pytest.raises(InputError, match="does not divide the batch of 12"):
        slices_per_volume(2, 12, 5)
    with pytest.raises(InputError, match="spatial_dims 2"):
        slices_per_volume(3, 2, 1)


def test_blocks_of_slices_become_a_batch() -> None:
    blocks = [{"image": torch.rand(2, 3, 4, 5), "label": torch.full((1, 3, 4, 5), n), "case": str(n)} for n in (0, 1)]
    batch = collate_slices(blocks)
    assert batch["image"].shape == (6, 2, 4, 5)
    assert batch["label"].shape == (6, 1, 4, 5)
    torch.testing.assert_close(batch["image"][4], blocks[1]["image"][:, 1])
    assert batch["label"].flatten(1)[:, 0].tolist() == [0, 0, 0, 1, 1, 1]
