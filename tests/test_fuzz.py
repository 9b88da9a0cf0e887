"""Damaged files of every kind: they are read or refused in words, in bounded memory (`fuzz_inputs` runs many more)."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fuzz_damage import BOMB_BYTES, damaged
from fuzz_inputs import run_inputs
from monai_ext.datasets.coco_dataset import read_coco
from monai_ext.datasets.folds import load_splits
from monai_ext.datasets.msd import read_msd
from monai_ext.engines.fold_file import read_fold_file
from monai_ext.errors import InputError
from monai_ext.evaluation.calibration import Temperature
from monai_ext.evaluation.paired_comparison import compare
from monai_ext.evaluation.postprocessing import Postprocessing
from monai_ext.export.manifest import read_manifest
from monai_ext.planning.class_plan import ClassPlan
from monai_ext.planning.em_plan import EmPlan
from monai_ext.planning.fingerprint import Fingerprint
from monai_ext.planning.instance_plan import InstancePlan
from monai_ext.planning.plan import Plan

COUNT, KINDS = 2040, 60
MOST_GROWN = 8 * 128  # MiB: images may have 128, as read, in 32 bits, as colours and so on
BUNDLES = Path(__file__).parents[1] / "bundles"


def test_damaged_files_are_read_or_refused() -> None:
    outcomes = run_inputs(COUNT, seed=5)
    assert outcomes.failures == []
    assert outcomes.accepted.total() + outcomes.refused.total() == COUNT
    # neither side is the rule: readers that take anything, or nothing, would pass as well
    assert len({*outcomes.accepted, *outcomes.refused}) == KINDS
    assert len(outcomes.accepted) > KINDS - 5
    assert len(outcomes.refused) > KINDS - 5
    # of a fork of a process that has had more memory before, little is new
    assert outcomes.grown.total() < MOST_GROWN


@pytest.mark.slow  # starts two processes
def test_a_process_that_dies_counts_as_failure_and_the_next_goes_on() -> None:
    outcomes = run_inputs(3, seed=5, dying=(1,))
    assert [number for number, _, _ in outcomes.failures] == [1]
    assert outcomes.accepted.total() + outcomes.refused.total() == 2


@pytest.mark.parametrize("damage", ["binary", "text"])
def test_damage_depends_on_the_seed_alone(damage: str) -> None:
    content = b"file, label\n" * 20 + bytes(range(256))
    found = [damaged(content, damage, random.Random(f"0 {n}")) for n in range(50)]
    assert found == [damaged(content, damage, random.Random(f"0 {n}")) for n in range(50)]
    assert 30 < len(set(found)) <= 50
    assert BOMB_BYTES > 2**27  # beyond the limit of images in the processes


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
DESCRIPTION = {
    "modality": {"0": "MRI"}, "labels": {"0": "background", "1": "front"}, "numTraining": 0, "training": [],
    "tensorImageSize": "3D", "name": "Set", "test": [], "file_ending": ".nii",
}  # fmt: skip
COCO = {"images": [{"id": 1, "file_name": "a.png", "width": 8, "height": 9}], "annotations": [], "categories": []}
READERS: dict[str, tuple[str, dict[str, Any], Callable[[Path], Any]]] = {
    "dataset.json": ("dataset.json", DESCRIPTION, lambda path: read_msd(path.parent)),
    "coco": ("annotations/instances_train.json", COCO, lambda path: read_coco(path.parents[1])),
    "splits": ("splits.json", {}, lambda path: load_splits(path, ["a", "b"])),
    "fold": ("fold.json", {"train": ["a"], "val": ["b"]}, read_fold_file),
    "temperature": ("temperature.json", {"temperature": 1.5, "cases": 9}, Temperature.load),
    "postprocessing": ("postprocessing.json", {"keep_largest": [[1]]}, Postprocessing.load),
    "fingerprint": ("fingerprint.json", {}, Fingerprint.load),
    "manifest": ("manifest.json", {"artefacts": []}, lambda path: read_manifest(path.parent)),
    "metrics": ("metrics.json", {"a": {"front": {"dice": 0.5}}}, lambda path: compare(path, path)),
} | {
    f"plan {bundle}": ("plan.json", json.loads((BUNDLES / bundle / "configs/default_plan.json").read_text()), kind.load)
    for bundle, kind in {
        "nnunet": Plan,
        "unet_em": EmPlan,
        "se_resnext101": ClassPlan,
        "mask_rcnn": InstancePlan,
    }.items()
}


@pytest.mark.parametrize("kind", READERS)
@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_value_in_any_field(tmp_path: Path, kind: str, data: st.DataObject) -> None:
    name, document, reader = READERS[kind]
    whole = data.draw(st.booleans()) and document
    changed = (
        document | {data.draw(st.sampled_from(sorted(document))): data.draw(VALUES)} if whole else data.draw(VALUES)
    )
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(json.dumps(changed).encode("utf-8", "surrogatepass"))
    try:
        reader(path)
    except InputError as error:
        message = str(error)
    else:
        return
    assert path.stem.split("_")[0] in message or str(tmp_path) in message  # names the file
