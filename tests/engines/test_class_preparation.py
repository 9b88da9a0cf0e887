"""From folders of images to a plan and a fold."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from monai_ext.engines.class_preparation import IMAGENET_MEAN, ClassPrepared, prepare_class, synthetic_plan
from monai_ext.engines.class_source import held_out_cases, may_calibrate, open_class_source, unseen_cases
from monai_ext.errors import InputError
from monai_ext.networks.se_resnext import network_from_class_plan
from picture_sets import write_folders, write_picture

FOLDERS = {"train/cat": 4, "train/dog": 3, "val/cat": 2, "val/dog": 2, "test/cat": 1}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_folders(tmp_path / "data", FOLDERS)


def prepare(folder: Path, tmp_path: Path, source: dict[str, Any] | None = None, **changes: Any) -> ClassPrepared:
    opened = open_class_source(str(folder), str(tmp_path / "store"), **(source or {}))
    keys = {"arch": "se-resnext-narrow", "image_size": [32], "layers": [1, 1, 1, 1], "base_features": 8, **changes}
    return prepare_class(opened, str(tmp_path / "run"), "data", **keys)


def test_plan_and_fold_lie_where_the_weights_will(folder: Path, tmp_path: Path) -> None:
    prepared = prepare(folder, tmp_path)
    assert prepared.plan.classes == ("cat", "dog")
    assert prepared.plan.image_size == (32, 32)
    assert (len(prepared.train), len(prepared.val)) == (7, 4)
    assert prepared.plan == type(prepared.plan).load(tmp_path / "run" / "plan.json")
    assert json.loads((tmp_path / "run" / "fold.json").read_text())["train"] == [c.name for c in prepared.train]
    assert [case.name for case in unseen_cases(prepared.source)] == ["test/cat/0.png"]
    image = torch.rand(2, 3, 32, 32)
    assert network_from_class_plan(prepared.plan).eval()(image).shape == (2, 2)


def test_mean_and_deviation(folder: Path, tmp_path: Path) -> None:
    """Of the images; ImageNet's for weights that were trained with them; of its plan for a model of this package."""
    prepared = prepare(folder, tmp_path)
    assert prepared.plan.mean == pytest.approx((0.5,) * 3, abs=0.02)  # noise of all values
    foreign, own = tmp_path / "foreign.pth", tmp_path / "own" / "model.pt"
    own.parent.mkdir()
    for path in (foreign, own):
        torch.save(network_from_class_plan(prepared.plan).state_dict(), path)
    plan = json.loads(prepared.plan.to_json()) | {"mean": [0.1, 0.2, 0.3], "std": [1.0, 1.0, 1.0]}
    (own.parent / "plan.json").write_text(json.dumps(plan))
    assert prepare(folder, tmp_path, pretrained=str(foreign)).plan.mean == IMAGENET_MEAN
    assert prepare(folder, tmp_path, pretrained=str(own)).plan.mean == (0.1, 0.2, 0.3)
    with pytest.raises(InputError, match="one is empty"):
        prepare(folder, tmp_path, mean=[0.5])


def test_copies_are_not_separated_by_a_draw(tmp_path: Path) -> None:
    folder = write_folders(tmp_path / "data", {"cat": 6, "dog": 6})
    for seed in range(6):
        for name in ("a", "b"):
            write_picture(folder / "dog" / f"copy{seed}{name}.png", 100 + seed)
    for fold in range(3):
        source = {"fold": fold, "nfolds": 3, "fold_rule": "drawn"}
        names = {case.name for case in prepare(folder, tmp_path, source, overwrite=True).val}
        assert all((f"dog/copy{i}a.png" in names) == (f"dog/copy{i}b.png" in names) for i in range(6))


def test_evaluation_refuses_what_was_trained_on_and_other_classes(folder: Path, tmp_path: Path) -> None:
    prepared = prepare(folder, tmp_path)
    model = str(tmp_path / "run" / "model.pt")
    assert len(held_out_cases(prepared.source, model, prepared.plan)) == 4
    assert len(held_out_cases(prepared.source, model, prepared.plan, "test")) == 1
    drawn = open_class_source(str(folder), str(tmp_path / "store"), fold_rule="drawn", nfolds=2)
    with pytest.raises(InputError, match="was trained on"):
        held_out_cases(drawn, model, prepared.plan)
    write_folders(folder, {"train/eel": 2, "val/eel": 1})
    more = open_class_source(str(folder), str(tmp_path / "store"))
    with pytest.raises(InputError, match=r"the dataset has \['cat', 'dog', 'eel'\]"):
        held_out_cases(more, model, prepared.plan)


def test_another_training_in_the_folder_is_protected(folder: Path, tmp_path: Path) -> None:
    prepare(folder, tmp_path)
    (tmp_path / "run" / "model.pt").touch()
    with pytest.raises(InputError, match="base_features: 8 -> 16"):
        prepare(folder, tmp_path, base_features=16)
    prepare(folder, tmp_path, base_features=16, overwrite=True)
    assert (tmp_path / "run" / "previous-1" / "model.pt").exists()


def test_small_images_are_named_by_number(folder: Path, tmp_path: Path) -> None:
    source = open_class_source(str(folder), str(tmp_path / "store"), image_size=[64])
    assert "12 of 12 images are smaller than the network's input" in source.report.describe()


def test_plan_of_no_dataset() -> None:
    plan = synthetic_plan("resnet50", 224)
    assert (plan.num_classes, plan.image_size, plan.se_ratio) == (1000, (224, 224), 0)
    with pytest.raises(InputError, match="is too small"):
        synthetic_plan("resnet50", 8)


def test_data_from_elsewhere_are_scored_whole(folder: Path, tmp_path: Path) -> None:
    """Without training part, with fewer classes than the model; images that were trained on are found by content."""
    prepared = prepare(folder, tmp_path)
    model = str(tmp_path / "run" / "model.pt")
    other = write_folders(tmp_path / "other", {"cat": 3})
    store = str(tmp_path / "other_store")
    for name in ("0.png", "1.png", "2.png"):
        write_picture(other / "cat" / name, 500 + int(name[0]))
    source = open_class_source(str(other), store, plan=prepared.plan, part="all")
    assert len(held_out_cases(source, model, prepared.plan, "all")) == 3
    assert not may_calibrate(source, model, "all", False)
    (other / "cat" / "3.png").write_bytes((folder / "train" / "cat" / "0.png").read_bytes())
    source = open_class_source(str(other), store, plan=prepared.plan, part="all")
    with pytest.raises(InputError, match=r"was trained on 1 of the 4 .*cat/3\.png"):
        held_out_cases(source, model, prepared.plan, "all")


def test_temperature_is_stored_for_own_validation_cases_in_one_view(folder: Path, tmp_path: Path) -> None:
    prepared = prepare(folder, tmp_path)
    model = str(tmp_path / "run" / "model.pt")
    assert may_calibrate(prepared.source, model, "val", False)
    assert not may_calibrate(prepared.source, model, "val", True)
    assert not may_calibrate(prepared.source, model, "test", False)
    everything = open_class_source(str(folder), str(tmp_path / "store"), fold="all")
    assert not may_calibrate(everything, model, "val", False)


def test_cross_validation_needs_drawn_folds(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--fold_rule drawn"):
        open_class_source(str(folder), str(tmp_path / "store")).require_drawn()
    open_class_source(str(folder), str(tmp_path / "store"), fold_rule="drawn", nfolds=2).require_drawn()


def test_patients_on_both_sides_are_named(folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    prepared = prepare(folder, tmp_path, {"group_by": r"name:(\d)"})
    with caplog.at_level("WARNING"):
        held_out_cases(prepared.source, str(tmp_path / "run" / "model.pt"), prepared.plan, "test")
    assert "group 0 has 2 images in training and 1 among those scored" in caplog.text
