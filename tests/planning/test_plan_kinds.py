"""Plans tell which bundle they belong to."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path

import pytest

from monai_ext.errors import InputError
from monai_ext.planning.class_plan import ClassPlan
from monai_ext.planning.em_plan import EmPlan
from monai_ext.planning.instance_plan import InstancePlan
from monai_ext.planning.plan import Plan
from monai_ext.planning.plan_kinds import SIGNS, bundle_of

BUNDLES = Path(__file__).parents[2] / "bundles"
PLANS = {"nnunet": Plan, "unet_em": EmPlan, "se_resnext101": ClassPlan, "mask_rcnn": InstancePlan}


@pytest.mark.parametrize("bundle", PLANS)
def test_default_plans(bundle: str) -> None:
    content = json.loads((BUNDLES / bundle / "configs" / "default_plan.json").read_text())
    assert bundle_of(content) == bundle
    assert bundle_of({field.name: None for field in fields(PLANS[bundle])}) == bundle


def test_others() -> None:
    assert bundle_of({}) == ""
    assert bundle_of(dict.fromkeys(SIGNS.values())) == ""


@pytest.mark.parametrize("bundle", PLANS)
@pytest.mark.parametrize("other", PLANS)
def test_a_plan_of_another_bundle_is_named(bundle: str, other: str) -> None:
    path = BUNDLES / other / "configs" / "default_plan.json"
    if bundle == other:
        assert PLANS[bundle].load(path).dataset
        return
    with pytest.raises(InputError, match=f"is a plan of the bundle {other}, this is {bundle}"):
        PLANS[bundle].load(path)
