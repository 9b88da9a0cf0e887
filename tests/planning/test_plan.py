"""Plans read back from JSON, and the messages for broken ones."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from monai_ext.errors import InputError
from monai_ext.planning.msd_plans import named_plan
from monai_ext.planning.plan import Plan

Content = dict[str, Any]


@pytest.fixture
def content() -> Content:
    return json.loads(named_plan("04").to_json())


def test_round_trip_through_a_file(tmp_path: Path) -> None:
    plan = named_plan("05")
    (tmp_path / "plan.json").write_text(plan.to_json())
    assert Plan.load(tmp_path / "plan.json") == plan


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(colour="red"), r"unknown fields \['colour'\]"),
        (lambda c: c.pop("strides"), "strides: Field required"),
        (lambda c: c.update(batch_size="many"), "batch_size: .*many"),
        (lambda c: c["intensity"][0].pop("mean"), r"intensity\.0\.mean: Field required"),
        (lambda c: c.update(spacing=[1.0, 1.0]), "spacing has 2 entries for 3 axes"),
        (lambda c: c.update(patch_size=[40, 57, 40]), r"patch_size\[1\] = 57 is not a multiple of its total stride 8"),
        (lambda c: c.update(axes=[0, 0, 1]), "no permutation"),
        (lambda c: c.update(features=[32, 64]), "4, 4, 2 levels"),
        (lambda c: c.update(spacing=[1.0, -1.0, 1.0]), "must be positive"),
        (lambda c: c["strides"].__setitem__(1, [2, 2]), "need 3 numbers per level"),
        (lambda c: c.update(version=7), "version 7 is not 1"),
        (lambda c: c.update(norm="layer"), r"norm 'layer' is not one of .*group"),
        (lambda c: c.update(crop="foo"), "crop 'foo' is not one of"),
        (lambda c: c.update(normalization=["foo"]), "normalization .*needs 1 of .*zscore"),
        (lambda c: c.update(normalization=[]), "normalization .*needs 1 of"),
        (lambda c: c.update(intensity=[]), "intensity has 0 entries for 1 channels"),
        (lambda c: c.update(mirror_axes=[5]), r"mirror_axes \(5,\)"),
        (lambda c: c.update(batch_size=0), "must be at least 1"),
        (lambda c: c["features"].__setitem__(0, 0), "must be at least 1"),
        (lambda c: c["strides"].__setitem__(0, [2, 1, 1]), "must be ones"),
        (lambda c: c["kernels"].__setitem__(0, [2, 3, 3]), "kernels odd"),
    ],
)
def test_broken_plans_are_refused(content: Content, change: Callable[[Content], Any], message: str) -> None:
    change(content)
    with pytest.raises(InputError, match=message) as caught:
        Plan.from_dict(content, "here/plan.json")
    assert "here/plan.json" in str(caught.value)
    assert "Cure:" in str(caught.value)


def test_several_missing_fields_are_named_at_once(content: Content) -> None:
    del content["axes"], content["crop"]
    with pytest.raises(InputError, match=r"axes: Field required[\s\S]*crop: Field required"):
        Plan.from_dict(content)


def test_missing_and_broken_files(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="plan not found"):
        Plan.load(tmp_path / "plan.json")
    (tmp_path / "plan.json").write_text("{")
    with pytest.raises(InputError, match="not JSON"):
        Plan.load(tmp_path / "plan.json")


def test_hash_follows_what_is_stored_and_nothing_else() -> None:
    ct, mr = named_plan("09"), named_plan("04")
    assert (
        ct.preprocessing_hash() == ct.with_changes("test", batch_size=5, patch_size=(32, 96, 96)).preprocessing_hash()
    )
    assert ct.preprocessing_hash() != ct.with_changes("test", spacing=(2.0, 1.0, 1.0)).preprocessing_hash()
    assert ct.preprocessing_hash() != ct.with_changes("test", intensity=mr.intensity).preprocessing_hash()
    assert mr.preprocessing_hash() == mr.with_changes("test", intensity=ct.intensity).preprocessing_hash()


def test_later_fields_leave_the_digest_of_stored_cases_alone(content: Content) -> None:
    """Cases stored before a field existed stay valid as long as that field changes nothing."""
    plan = Plan.from_dict(content)
    without = {k: v for k, v in content.items() if k not in ("slice_axis", "resample", "res_block", "label_closing")}
    assert Plan.from_dict(without).preprocessing_hash() == plan.preprocessing_hash()
    assert plan.with_changes("test", resample=False).preprocessing_hash() != plan.preprocessing_hash()
    assert plan.with_changes("test", label_closing=True).preprocessing_hash() != plan.preprocessing_hash()
    assert plan.with_changes("test", res_block=True).preprocessing_hash() == plan.preprocessing_hash()
    # written out: the digest that cases stored by the first version of the plan bear
    assert plan.preprocessing_hash() == "78ecc58917a8ea1e"


def test_residual_blocks_and_closing_survive_the_file(content: Content) -> None:
    plan = Plan.from_dict({**content, "res_block": True, "label_closing": True})
    assert (plan.res_block, plan.label_closing) == (True, True)
    assert Plan.from_dict(json.loads(plan.to_json())) == plan
    old = {k: v for k, v in content.items() if k not in ("res_block", "label_closing")}
    assert (Plan.from_dict(old).res_block, Plan.from_dict(old).label_closing) == (False, False)


def test_mirror_axes_from_the_end_fit_patches_and_blocks_of_slices(content: Content) -> None:
    plan = Plan.from_dict({**content, "mirror_axes": (0, 2)})
    assert plan.mirror_axes_from_end == (-3, -1)


def test_slices_may_lie_across_any_axis_but_only_in_2d(content: Content) -> None:
    flat = named_plan("04", spatial_dims=2)
    assert not flat.resample
    flat.with_changes("test", slice_axis=2).check()
    with pytest.raises(InputError, match="slice_axis 1 must be 0 in 3D"):
        Plan.from_dict({**content, "slice_axis": 1})
