"""From a folder of stacks to training: geometry of the samples, plan and fold beside the weights."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from monai.transforms import Compose

from monai_ext.engines.em_preparation import EmSource, held_out_slices, open_em_source, prepare_em
from monai_ext.engines.em_slices import SliceSamples, WholeImages, WholeSlices
from monai_ext.errors import InputError
from monai_ext.planning.em_plan import EmPlan
from monai_ext.transforms.flips import RandMirrord
from monai_ext.transforms.mirrored_tile import RandMirroredTiled

SMALL = {"patch_size": [76], "base_features": 2, "levels": 2}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store")


def test_tiles_keep_the_resolution_and_resized_slices_get_a_border(store: Path, tmp_path: Path) -> None:
    source = open_em_source("", str(store))
    tiles = prepare_em(source, str(tmp_path / "a"), "phantom", **SMALL)
    assert tiles.train.images.shape == (8, 1, 256, 256)
    assert tiles.train.images.min() >= -1
    assert tiles.train.images.max() <= 1
    assert set(tiles.train.labels.unique().tolist()) == {0, 1}
    resized = prepare_em(source, str(tmp_path / "b"), "phantom", geometry="resize", **SMALL)
    assert resized.train.images.shape == resized.train.labels.shape == (8, 1, 76, 76)
    for slices in (resized.train.images, resized.train.labels):
        outside = slices.clone()
        outside[..., 20:-20, 20:-20] = 0
        assert not outside.any()  # mid grey, and membrane
    # a resized slice keeps its mean and its share of membranes
    inside = (..., slice(20, -20), slice(20, -20))
    assert float(resized.train.images[inside].mean()) == pytest.approx(float(tiles.train.images.mean()), abs=0.02)
    share = float(resized.train.labels[inside].float().mean())
    assert share == pytest.approx(float(tiles.train.labels.float().mean()), abs=0.08)
    assert resized.val.images.shape[-1] == 256


def test_plan_and_fold_lie_beside_the_weights(store: Path, tmp_path: Path) -> None:
    source = open_em_source("", str(store), fold=1)
    prepared = prepare_em(source, str(tmp_path), "phantom", **SMALL)
    assert EmPlan.load(tmp_path / "plan.json") == prepared.plan
    assert json.loads((tmp_path / "fold.json").read_text())["val"] == list(source.fold.val)
    (tmp_path / "model.pt").touch()
    with pytest.raises(InputError, match=r"base_features: 2 -> 4"):
        prepare_em(source, str(tmp_path), "phantom", **{**SMALL, "base_features": 4})
    with pytest.raises(InputError, match=r"val cases of the fold"):
        prepare_em(open_em_source("", str(store), fold=2), str(tmp_path), "phantom", **SMALL)
    with pytest.raises(InputError, match="exclude each other"):
        prepare_em(source, str(tmp_path), "phantom", resume=True, overwrite=True, **SMALL)
    prepare_em(source, str(tmp_path), "phantom", overwrite=True, **{**SMALL, "base_features": 4})
    assert (tmp_path / "previous-1" / "model.pt").exists()


def test_only_held_out_slices_are_evaluated(store: Path, tmp_path: Path) -> None:
    source = open_em_source("", str(store), fold=0)
    plan = prepare_em(source, str(tmp_path), "phantom", **SMALL).plan
    model = str(tmp_path / "model.pt")
    assert held_out_slices(source, model, plan).names == source.fold.val
    with pytest.raises(InputError, match="was trained on 2 of the 2 validation cases"):
        held_out_slices(open_em_source("", str(store), fold=1), model, plan)


def test_another_stack_under_the_same_names_is_told_apart(store: Path, tmp_path: Path) -> None:
    """Slices are known by their place in the stack, so the data themselves are compared."""
    source = open_em_source("", str(store))
    plan = prepare_em(source, str(tmp_path / "run"), "phantom", **SMALL).plan
    (tmp_path / "run" / "model.pt").touch()
    stack = replace(source.stack, images=source.stack.images[:, ::-1].copy())
    other = EmSource(stack, source.fold)
    with pytest.raises(InputError, match="the data: other images or labels under the same names"):
        prepare_em(other, str(tmp_path / "run"), "phantom", **SMALL)
    trained_on = EmSource(stack, open_em_source("", str(store), fold=1).fold)
    assert held_out_slices(trained_on, str(tmp_path / "run" / "model.pt"), plan).names == trained_on.fold.val


def test_small_slices_are_refused(store: Path, tmp_path: Path) -> None:
    source = open_em_source("", str(store))
    with pytest.raises(InputError, match=r"train-volume\.tif: slices of 256 x 256 pixels are smaller"):
        prepare_em(source, str(tmp_path), "phantom", patch_size=[380], base_features=1, levels=5)


def test_sample_is_a_function_of_seed_and_number(store: Path, tmp_path: Path) -> None:
    prepared = prepare_em(open_em_source("", str(store)), str(tmp_path), "phantom", **SMALL)
    chain = Compose([RandMirrord(axes=(0, 1)), RandMirroredTiled(output_size=36, margin=20)])
    dataset = SliceSamples(prepared.train, chain, seed=3)
    first, *_ = dataset[(7, 2, 0)], dataset[(8, 2, 0)]
    again = dataset[(7, 2, 1)]
    assert torch.equal(first["image"], again["image"])
    assert torch.equal(first["label"], again["label"])
    assert not torch.equal(first["image"], dataset[(8, 2, 0)]["image"])
    assert not torch.equal(first["image"], SliceSamples(prepared.train, chain, seed=4)[(7, 2, 0)]["image"])
    assert type(first["image"]) is torch.Tensor
    assert first["image"].shape == (1, 76, 76)
    assert first["label"].shape == (1, 36, 36)


def test_whole_slices(store: Path, tmp_path: Path) -> None:
    prepared = prepare_em(open_em_source("", str(store)), str(tmp_path), "phantom", **SMALL)
    dataset = WholeSlices(prepared.val)
    assert len(dataset) == 2
    assert dataset[1]["case"] == prepared.fold.val[1]
    assert dataset[1]["image"].shape == dataset[1]["label"].shape == (1, 256, 256)
    assert WholeImages(torch.zeros(4, 8, 9))[3]["image"].shape == (1, 8, 9)
