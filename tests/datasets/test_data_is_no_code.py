"""Text in data files that looks like an expression of MONAI's config language stays text."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from monai.bundle import ConfigParser

from coco_sets import content, write_coco
from monai_ext.datasets.class_table import read_class_table
from monai_ext.datasets.coco_dataset import read_coco
from monai_ext.datasets.folds import load_splits
from monai_ext.datasets.msd import read_msd
from monai_ext.errors import InputError
from monai_ext.planning.class_plan import ClassPlan
from monai_ext.planning.em_plan import EmPlan
from monai_ext.planning.instance_plan import InstancePlan
from monai_ext.planning.plan import Plan
from picture_sets import write_picture, write_table

BUNDLES = Path(__file__).parents[2] / "bundles"
PLANS: dict[str, Any] = {"nnunet": Plan, "unet_em": EmPlan, "se_resnext101": ClassPlan, "mask_rcnn": InstancePlan}


@pytest.fixture
def trap(tmp_path: Path) -> tuple[str, Path]:
    """An expression that makes a file if anything evaluates it, and that file."""
    sprung = tmp_path / "sprung"
    expression = f"$open({str(sprung)!r}, 'w').close()"
    parser = ConfigParser({"a": expression})
    parser.get_parsed_content("a")
    assert sprung.exists()  # the trap works
    sprung.unlink()
    return expression, sprung


def strings(document: Any) -> list[tuple[Any, Any]]:
    """Holder and key of every value that is text or a number."""
    keys = document.keys() if isinstance(document, dict) else range(len(document)) if isinstance(document, list) else ()
    found = []
    for key in keys:
        found += strings(document[key]) or [(document, key)]
    return found


def outcome(read: Callable[[], Any]) -> Any:
    try:
        return read()
    except InputError as error:
        return error


@pytest.mark.parametrize("bundle", PLANS)
def test_plans(bundle: str, trap: tuple[str, Path], tmp_path: Path) -> None:
    expression, sprung = trap
    original = (BUNDLES / bundle / "configs" / "default_plan.json").read_text()
    places, accepted = len(strings(json.loads(original))), 0
    for number in range(places):
        document = json.loads(original)
        holder, key = strings(document)[number]
        holder[key] = expression
        (tmp_path / "plan.json").write_text(json.dumps(document))
        plan = outcome(lambda: PLANS[bundle].load(tmp_path / "plan.json"))
        if isinstance(plan, InputError):
            continue
        # as a bundle uses it: an object among the parsed values, and its description printed
        parser = ConfigParser({"path": str(tmp_path / "plan.json"), "plan": "$plan_type.load(@path)", "b": "@plan"})
        parser.globals["plan_type"] = PLANS[bundle]
        assert parser.get_parsed_content("b") == plan
        assert expression in plan.to_json().encode().decode("unicode_escape") or expression in str(plan)
        accepted += 1
    assert places > 8
    assert not sprung.exists()
    assert accepted or bundle == "unet_em"  # names of datasets and classes are free text


def test_datasets(trap: tuple[str, Path], tmp_path: Path, msd_folder: Callable[..., Path]) -> None:
    expression, sprung = trap
    root = msd_folder(name=expression, modality={"0": expression})
    assert read_msd(root).name == expression
    assert read_msd(root).channels == (expression,)
    found = outcome(lambda: read_msd(msd_folder(training=[{"image": expression, "label": expression}] * 2)))
    assert isinstance(found, InputError)
    (tmp_path / "splits.json").write_text(json.dumps([{"train": [expression], "val": ["@b"]}]))
    assert load_splits(tmp_path / "splits.json", [expression, "@b"])[0].train == (expression,)
    whole = content(categories=[{"id": 1, "name": expression}])
    assert read_coco(write_coco(tmp_path / "coco", whole)).classes == (expression,)
    for name in ("a.png", "b.png"):
        write_picture(tmp_path / "table" / name)
    label = expression.replace(";", "")
    table = write_table(tmp_path / "table" / "labels.csv", f'file,label\na.png,"{label}"\nb.png,@b\n')
    assert read_class_table(table).classes == tuple(sorted([label, "@b"]))
    assert not sprung.exists()
