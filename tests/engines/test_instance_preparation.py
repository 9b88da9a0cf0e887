"""From instance data to a plan and a fold."""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from coco_sets import annotation, content, write_coco, write_map
from monai_ext.datasets.instance_phantom import make_instance_phantom
from monai_ext.engines.class_preparation import IMAGENET_MEAN
from monai_ext.engines.instance_preparation import (
    InstancePrepared,
    held_out_cases,
    open_instance_source,
    prepare_instance,
    synthetic_plan,
    timed_plan,
    unseen_cases,
)
from monai_ext.errors import InputError
from monai_ext.networks.mask_rcnn.detector import network_from_instance_plan
from monai_ext.planning.instance_plan import InstancePlan

WEIGHTS = "monai_ext.networks.mask_rcnn.detector_weights"


@pytest.fixture(scope="module")
def phantom(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_instance_phantom(tmp_path_factory.mktemp("phantom"), num_train=6, num_val=3)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store")


def prepare(
    folder: Path, store: Path, run: Path, source: dict[str, Any] | None = None, **changes: Any
) -> InstancePrepared:
    opened = open_instance_source(str(folder), str(store), **(source or {}))
    return prepare_instance(opened, str(run), "data", **({"arch": "resnet-tiny", "stem_stride": 1} | changes))


def test_plan_and_fold_lie_where_the_weights_will(phantom: Path, store: Path, tmp_path: Path) -> None:
    prepared = prepare(phantom, store, tmp_path)
    plan = prepared.plan
    assert (plan.classes, plan.category_ids, plan.channels) == (("disc", "blob"), (1, 2), 1)
    assert plan == InstancePlan.load(tmp_path / "plan.json")
    stored = json.loads((tmp_path / "fold.json").read_text())
    assert stored["train"] == [case.name for case in prepared.train]
    assert (len(prepared.train), len(prepared.val), len(stored["contents"])) == (6, 3, 6)
    assert prepared.fold == prepared.source.fold
    assert unseen_cases(prepared.source) == prepared.val
    torch.manual_seed(0)
    packed = network_from_instance_plan(plan).eval()(torch.rand(1, 1, *plan.image_size))
    assert packed.shape[:2] == (1, 6 + plan.mask_size**2)


def test_what_is_left_open_comes_from_the_training_objects(
    phantom: Path, store: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Objects of 9 to 26 pixels: anchors around these sizes, and larger ones for a network of twice the stride."""
    with caplog.at_level("INFO"):
        small = prepare(phantom, store, tmp_path / "a").plan
    assert small.scale == 1
    assert small.anchor_sizes[0][0] <= 14
    assert small.anchor_sizes[1][1] >= 20
    assert small.canonical_size <= 56
    assert small.image_size == (112, 112)  # the largest images, at a multiple of 16
    assert small.tile_overlap == 32  # of objects of 26 pixels
    assert "objects to train on, and anchors" in caplog.text
    large = prepare(phantom, store, tmp_path / "b", stem_stride=2).plan
    assert large.scale in (2, 3)
    assert large.image_size[0] % large.size_divisor == 0
    fitted = prepare(phantom, store, tmp_path / "c", resize="fit", image_size=[256]).plan
    assert (fitted.resize, fitted.scale, fitted.image_size) == ("fit", 1, (256, 256))
    # images of 96 pixels are enlarged 2.7 times, and the anchors with them
    assert fitted.canonical_size == pytest.approx(2.7 * small.canonical_size, rel=0.2)


def test_given_values_are_kept(phantom: Path, store: Path, tmp_path: Path) -> None:
    given: dict[str, Any] = {
        "scale": 1.5,
        "image_size": [128, 96],
        "anchor_sizes": [[8], [16], [32], [64], [128]],
        "aspect_ratios": (1.0,),
        "canonical_size": 30.0,
        "canonical_level": 3,
        "channels": 3,
        "mean": [0.1, 0.2, 0.3],
        "std": [1, 1, 1],
        "normalisation": "range",
        "value_range": [0, 200],
        "percentiles": [2, 98],
        "norm": "batch",
        "stride_in_1x1": False,
        "round_anchors": True,
        "pool_sampling": 0,
        "pool_aligned": False,
        "anchor_offset": 0.5,
        "box_head": "conv",
        "mask_size": 14,
        "base_features": 8,
        "layers": [1, 2, 1, 1],
        "tile_overlap": 0,
        "max_detections": 40,
        "rpn_pre_nms": 300,
        "rpn_post_nms": 200,
        "rpn_nms": 0.6,
        "score_threshold": 0.1,
        "box_nms": 0.4,
        "label_threshold": 0.7,
        "min_area": 5,
        "fpn_channels": 24,
        "box_features": 48,
        "mask_features": 16,
    }
    plan = prepare(phantom, store, tmp_path, **given).plan
    for name, value in given.items():
        found = getattr(plan, name)
        assert np.array_equal(np.array(found), np.array(value)), name
        assert type(found) is type(getattr(InstancePlan.load(tmp_path / "plan.json"), name)), name


def test_weights_decide_what_is_left_open(
    phantom: Path, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    needed = {"norm": "frozen_batch", "pool_aligned": False, "round_anchors": True, "mean": IMAGENET_MEAN}
    needed |= {"std": (0.2, 0.2, 0.2), "normalisation": "range", "stride_in_1x1": True, "classes": ("a",)}
    module = types.ModuleType(WEIGHTS)
    module.plan_options_of_detector_weights = lambda path: needed  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, WEIGHTS, module)
    plan = prepare(phantom, store, tmp_path / "a", pretrained="w.pth", channels=3, norm="group").plan
    assert (plan.norm, plan.pool_aligned, plan.round_anchors, plan.stride_in_1x1) == ("group", False, True, True)
    assert (plan.mean, plan.normalisation, plan.classes) == (IMAGENET_MEAN, "range", ("disc", "blob"))
    assert "--norm group: the weights of w.pth need frozen_batch" in caplog.text
    grey = prepare(phantom, store, tmp_path / "b", pretrained="w.pth").plan
    assert grey.mean == pytest.approx((sum(IMAGENET_MEAN) / 3,))  # one channel: the mean of the three
    assert grey.std == pytest.approx((0.2,))
    needed.clear()
    assert prepare(phantom, store, tmp_path / "c", pretrained="w.pth", channels=3).plan.mean == IMAGENET_MEAN


def test_a_model_of_this_package_brings_its_settings(phantom: Path, store: Path, tmp_path: Path) -> None:
    sizes = [[10, 14], [20, 28], [40, 56], [80, 112], [160, 224]]
    first = prepare(phantom, store, tmp_path / "a", anchor_sizes=sizes, canonical_size=48, percentiles=[2, 98])
    torch.save(network_from_instance_plan(first.plan).state_dict(), tmp_path / "a" / "model.pt")
    plan = prepare(phantom, store, tmp_path / "b", pretrained=str(tmp_path / "a" / "model.pt"), stem_stride=0).plan
    assert plan == first.plan


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"arch": "vgg"}, "--arch 'vgg': is not known"),
        ({"mean": [0.5]}, "one is empty"),
        ({"layers": [1, 2]}, "must be four numbers"),
        ({"stem_stride": 3}, "--stem_stride 3: is not known"),
        ({"channels": 2}, "--channels 2: pictures become grey or RGB"),
        ({"max_objects": -1}, "--max_objects -1: must not be negative"),
        ({"anchor_sizes": "big"}, "are not sizes above 0 for 5 levels"),
        ({"anchor_sizes": [[8], [16]]}, "are not sizes above 0 for 5 levels"),
        ({"anchor_sizes": [[8], [16], [32], [64], [128, 200]]}, "differ in number"),
        ({"anchor_sizes": [[0], [16], [32], [64], [128]]}, "are not sizes above 0"),
        ({"aspect_ratios": [0]}, "must be numbers above 0"),
        ({"scale": -1}, "--scale -1: must be a number above 0"),
        ({"image_size": [8]}, "is too small"),
        ({"resize": "crop"}, "resize 'crop': is not known"),
        ({"tile_overlap": 400}, "must be below image_size"),
        ({"resume": True, "overwrite": True}, "exclude each other"),
    ],
)
def test_wrong_keys(phantom: Path, store: Path, tmp_path: Path, keys: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        prepare(phantom, store, tmp_path, **keys)
    assert not (tmp_path / "plan.json").exists()


def test_objects_beyond_the_caps_are_counted(
    phantom: Path, store: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    prepared = prepare(phantom, store, tmp_path, max_objects=5, max_detections=500)
    counts = [len(case.annotations) for case in prepared.train]
    over = [count - 5 for count in counts if count > 5]
    assert (
        f"{len(over)} of 6 training images hold more objects than --max_objects 5, {sum(over)} in excess" in caplog.text
    )
    assert "max_detections" not in caplog.text


def test_tiles_and_objects(phantom: Path, store: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The overlap is from an eighth to half of a tile; objects larger than a tile are stated."""
    assert prepare(phantom, store, tmp_path / "a", image_size=[512]).plan.tile_overlap == 64
    assert "never seen whole" not in caplog.text
    boxes = [
        one.box for case in open_instance_source(str(phantom), str(store)).cases("train") for one in case.annotations
    ]
    large = sum(max(x1 - x0, y1 - y0) > 16 for x0, y0, x1, y1 in boxes)
    assert prepare(phantom, store, tmp_path / "b", image_size=[16]).plan.tile_overlap == 8
    assert f"{large} of {len(boxes)} training objects are larger than a crop or tile of 16x16" in caplog.text


def test_another_training_in_the_folder_is_protected(phantom: Path, store: Path, tmp_path: Path) -> None:
    prepare(phantom, store, tmp_path)
    (tmp_path / "model.pt").touch()
    prepare(phantom, store, tmp_path)
    with pytest.raises(InputError, match="base_features: 16 -> 8"):
        prepare(phantom, store, tmp_path, base_features=8)
    prepare(phantom, store, tmp_path, base_features=8, overwrite=True)
    assert (tmp_path / "previous-1" / "model.pt").exists()


def test_evaluation_refuses_what_was_trained_on_and_other_classes(phantom: Path, store: Path, tmp_path: Path) -> None:
    prepared = prepare(phantom, store, tmp_path / "run")
    model, plan = str(tmp_path / "run" / "model.pt"), prepared.plan
    assert held_out_cases(prepared.source, model, plan) == prepared.val
    drawn = open_instance_source(str(phantom), str(store), fold_rule="drawn", nfolds=2)
    with pytest.raises(InputError, match="was trained on"):
        held_out_cases(drawn, model, plan)
    with pytest.raises(InputError, match=r"--part test: .*has no such images"):
        held_out_cases(prepared.source, model, plan, "test")
    # the validation images in a set of their own: allowed; with one of the training images: found by its content
    other = tmp_path / "other"
    make_instance_phantom(other, num_train=6, num_val=3)
    for path in (other / "annotations" / "instances_train.json", other / ".phantom-1-6-3-96-0"):
        path.unlink()
    source = open_instance_source(str(other), str(tmp_path / "s"), plan=plan, part="all")
    assert len(held_out_cases(source, model, plan, "all")) == 3
    (other / "images" / "val" / "006.png").write_bytes((phantom / "images" / "train" / "000.png").read_bytes())
    whole = json.loads((other / "annotations" / "instances_val.json").read_text())
    trained = json.loads((phantom / "annotations" / "instances_train.json").read_text())["images"][0]
    whole["images"][0] |= {"height": trained["height"], "width": trained["width"]}
    whole["annotations"] = [one for one in whole["annotations"] if one["image_id"] != whole["images"][0]["id"]]
    (other / "annotations" / "instances_val.json").write_text(json.dumps(whole))
    source = open_instance_source(str(other), str(tmp_path / "s"), plan=plan, part="all")
    with pytest.raises(InputError, match=r"was trained on 1 of the 3 .*val/006\.png"):
        held_out_cases(source, model, plan, "all")
    cells = write_coco(tmp_path / "cells")
    with pytest.raises(InputError, match="the model has disc, blob"):
        open_instance_source(str(cells), str(tmp_path / "t"), plan=plan, part="all")
    unlike = open_instance_source(str(cells), str(tmp_path / "t"), fold="all")
    with pytest.raises(InputError, match=r"the dataset has \['cell'\]"):
        held_out_cases(unlike, model, plan)


def test_plan_of_no_dataset(phantom: Path, store: Path, tmp_path: Path) -> None:
    plan = synthetic_plan("resnet50", norm="frozen_batch")
    assert (plan.num_classes, plan.image_size, plan.anchor_sizes[4], plan.norm) == (
        80,
        (832, 1344),
        (512.0,),
        "frozen_batch",
    )
    with pytest.raises(InputError, match="is too small"):
        synthetic_plan("resnet50", [8])
    prepared = prepare(phantom, store, tmp_path)
    assert timed_plan(prepared, "resnet-tiny", [0]) == prepared.plan
    assert timed_plan(prepared, "resnet-tiny", [64]).image_size == (64, 64)


@pytest.mark.parametrize("layout", ["coco", "label_maps"])
def test_validation_images_without_object_are_refused_at_once(tmp_path: Path, layout: str) -> None:
    """No score is defined on them, which would else come out after the first epochs."""
    root = tmp_path / "data"
    if layout == "coco":
        write_coco(write_coco(root), content(annotations=[annotation(1, iscrowd=1)]), split="val")
    else:
        for name, value in (("train/a", 1), ("train/b", 1), ("val/c", 0)):
            labels = np.zeros((24, 24), dtype=np.uint8)
            labels[4:12, 5:13] = value
            write_map(root / "images" / f"{name}.png", labels * 90)
            write_map(root / "labels" / f"{name}.png", labels)
    with pytest.raises(InputError, match="images to validate on have no object"):
        prepare(root, tmp_path / "store", tmp_path / "run")
    assert len(prepare(root, tmp_path / "store", tmp_path / "all", {"fold": "all"}).val) > 2


def test_images_with_values_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    root = tmp_path / "data"
    for name in ("train/a", "val/b"):
        values = np.full((24, 24), 0.5, dtype=np.float32)
        values[3, 4] = np.nan
        labels = np.zeros((24, 24), dtype=np.uint8)
        labels[4:12, 5:13] = 1
        write_map(root / "images" / f"{name}.tif", values)
        write_map(root / "labels" / f"{name}.png", labels)
    with pytest.raises(InputError, match="no finite numbers"):
        prepare(root, tmp_path / "store", tmp_path / "run")


@pytest.mark.parametrize("key", ["value_range", "percentiles"])
def test_a_range_is_two_numbers(phantom: Path, store: Path, tmp_path: Path, key: str) -> None:
    changes: dict[str, Any] = {key: [5.0]}
    with pytest.raises(InputError, match=key):
        prepare(phantom, store, tmp_path, **changes)


def test_thresholds_of_proposals_must_not_cross() -> None:
    plan = synthetic_plan("resnet-tiny", (64, 64), num_classes=2, tile_overlap=16)
    with pytest.raises(InputError, match=r"--rpn_low 0.9 is above --rpn_high 0.7"):
        network_from_instance_plan(plan, rpn_low=0.9)
