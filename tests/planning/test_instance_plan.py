"""Plan of an instance segmentation: what a file may hold, and what follows from it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from monai_ext.errors import InputError
from monai_ext.planning.instance_plan import ARCHITECTURES, InstancePlan, architecture

SIZES = ((8.0, 12.0), (16.0, 24.0), (32.0, 48.0), (64.0, 96.0), (128.0, 192.0))
PLAN = InstancePlan(
    dataset="cells",
    classes=("nucleus", "vacuole"),
    category_ids=(3, 7),
    channels=3,
    mean=(0.5,) * 3,
    std=(0.25,) * 3,
    image_size=(256, 256),
    arch="resnet-small",
    **architecture("resnet-small"),
    anchor_sizes=SIZES,
)


def test_a_file_gives_the_plan_back(tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text(PLAN.to_json())
    assert InstancePlan.load(tmp_path / "plan.json") == PLAN
    content = {**json.loads(PLAN.to_json()), "box_nms": 1.5, "anchors": []}
    (tmp_path / "plan.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match="anchors"):
        InstancePlan.load(tmp_path / "plan.json")


@pytest.mark.parametrize(("stem_stride", "strides"), [(1, (2, 4, 8, 16, 32)), (2, (4, 8, 16, 32, 64))])
def test_strides_follow_the_stem(stem_stride: int, strides: tuple[int, ...]) -> None:
    plan = replace(PLAN, stem_stride=stem_stride)
    assert plan.strides == strides
    assert plan.size_divisor == strides[3]


def test_labels_begin_behind_the_background() -> None:
    assert PLAN.foreground_classes == {"nucleus": 1, "vacuole": 2}


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_architectures_make_plans(arch: str) -> None:
    replace(PLAN, arch=arch, **architecture(arch)).check()


def test_unknown_architecture_is_refused() -> None:
    with pytest.raises(InputError, match="resnet-small"):
        architecture("resnet51")


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"classes": ("a", "a")}, "classes"),
        ({"category_ids": (1,)}, "category_ids"),
        ({"channels": 2}, "channels"),
        ({"std": (0.2, 0.0, 0.2)}, "std"),
        ({"norm": "layer"}, "norm"),
        ({"percentiles": (99.0, 1.0)}, "percentiles"),
        ({"value_range": (5.0, 5.0)}, "value_range"),
        ({"scale": 0.0}, "scale"),
        ({"image_size": (256, 16)}, "image_size"),
        ({"anchor_sizes": SIZES[:4]}, "anchor_sizes"),
        ({"anchor_sizes": (*SIZES[:4], (128.0,))}, "differ in number"),
        ({"aspect_ratios": (0.0,)}, "aspect_ratios"),
        ({"anchor_offset": 1.0}, "anchor_offset"),
        ({"pool_sampling": -1}, "pool_sampling"),
        ({"tile_overlap": 256}, "tile_overlap"),
        ({"label_threshold": 1.2}, "label_threshold"),
        ({"max_detections": 0}, "max_detections"),
        ({"layers": (1, 0, 1, 1)}, "layers"),
    ],
)
def test_what_is_out_of_range_is_named(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(InputError, match=named):
        replace(PLAN, **changes).check()


def test_all_problems_come_at_once() -> None:
    with pytest.raises(InputError, match="3 problems"):
        replace(PLAN, norm="layer", box_nms=2.0, stem_stride=4).check()
