"""Plan of an EM model: sizes, checks, the file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from monai_ext.errors import InputError
from monai_ext.planning.em_plan import EmPlan, make_em_plan


def plan(**changes: object) -> EmPlan:
    values = {"geometry": "tile", "patch_size": [572], "base_features": 16, "levels": 4, "upsampling": "conv3"}
    return make_em_plan("stack", (0.0, 255.0), **{**values, **changes})  # type: ignore[arg-type]


def test_sizes() -> None:
    square = plan()
    assert square.input_size == (572, 572)
    assert square.output_size == (388, 388)
    assert square.margin == 92
    assert plan(patch_size=[188, 204]).output_size == (4, 20)
    assert plan(levels=2, patch_size=[60]).margin == 20


def test_file_goes_there_and_back(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_text(plan().to_json())
    assert EmPlan.load(path) == plan()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"patch_size": [570]}, "570 x 570 pixels.*570: 556 or 572"),
        ({"patch_size": [1, 2, 3]}, "must be one or two numbers"),
        ({"geometry": "warp"}, "geometry 'warp': is not known. Cure: one of tile, resize"),
        ({"upsampling": "nearest"}, "upsampling 'nearest': is not known"),
        ({"base_features": 0}, "out of range"),
    ],
)
def test_bad_values_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        plan(**changes)


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    content = json.loads(plan().to_json())
    path.write_text(json.dumps({**content, "levels": "many"}))
    with pytest.raises(InputError, match="levels"):
        EmPlan.load(path)
    path.write_text(json.dumps({**content, "value_range": [5, 5]}))
    with pytest.raises(InputError, match="value_range"):
        EmPlan.load(path)
    path.write_text("[1]")
    with pytest.raises(InputError, match="no JSON object"):
        EmPlan.load(path)
    with pytest.raises(InputError, match="plan not found"):
        EmPlan.load(tmp_path / "other.json")


def test_slices_smaller_than_the_receptive_field_are_refused() -> None:
    plan().check_slice(185, 512, "a.tif")
    with pytest.raises(
        InputError, match=r"a\.tif: slices of 184 x 512 pixels are smaller than the receptive field of 185"
    ):
        plan().check_slice(184, 512, "a.tif")


def test_signature_tells_networks_apart() -> None:
    signatures = {
        plan(**changes).signature()
        for changes in (
            {},
            {"levels": 3, "patch_size": [92]},
            {"upsampling": "conv2"},
            {"base_features": 8},
            {"geometry": "resize"},
        )
    }
    assert len(signatures) == 5
