"""Facts about data for the record of a run, against counts of the files themselves."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest

from monai_ext.datasets.class_phantom import make_class_phantom
from monai_ext.datasets.em_phantom import make_em_phantom
from monai_ext.datasets.folds import Fold
from monai_ext.datasets.instance_phantom import make_instance_phantom
from monai_ext.datasets.msd import read_msd
from monai_ext.datasets.phantom import make_phantom
from monai_ext.engines.class_source import open_class_source
from monai_ext.engines.em_preparation import open_em_source
from monai_ext.engines.instance_source import open_instance_source
from monai_ext.model_card.data_facts import class_facts, em_facts, instance_facts, segmentation_facts
from monai_ext.planning.fingerprint import compute_fingerprint


def test_volumes(tmp_path: Path) -> None:
    folder = make_phantom(tmp_path / "raw", num_cases=3)
    description = json.loads((folder / "dataset.json").read_text())
    stated = {"licence": "CC-BY-SA 4.0", "release": 1.0, "reference": " ", "description": "x" * 999}
    (folder / "dataset.json").write_text(json.dumps({**description, **stated}))
    (folder / "LICENSE.txt").write_text("free")
    dataset = read_msd(folder)
    names = [case.name for case in dataset.training]
    fold = Fold(tuple(names[:2]), tuple(names[2:]))
    store = tmp_path / "fingerprint.json"
    store.write_text(json.dumps({"fingerprint": json.loads(compute_fingerprint(dataset).to_json())}))
    facts = segmentation_facts(dataset, fold, store)
    assert facts["stated"] == {"description": "x" * 300, "licence": "CC-BY-SA 4.0", "release": "1.0"}
    assert facts["licence_files"] == ["LICENSE.txt"]
    assert facts["cases"] == {"training": 2, "validation": 1, "without labels": 2}
    volumes = [np.asarray(nibabel.load(str(case.label)).dataobj) for case in dataset.training]
    for value, row in enumerate(facts["classes"]["rows"]):
        counts = [int((volume == value).sum()) for volume in volumes]
        assert row[1:5] == [3, sorted(counts)[1], min(counts), max(counts)]
        assert row[5] == pytest.approx(sum(counts) / sum(volume.size for volume in volumes))
    least, median, largest = facts["properties"]["size (voxels): least, median, largest per axis"]
    sizes = np.array([volume.shape[::-1] for volume in volumes])
    assert (least, median, largest) == (
        sizes.min(axis=0).tolist(),
        np.median(sizes, axis=0).tolist(),
        sizes.max(axis=0).tolist(),
    )
    # of other cases, or none: sizes are unknown, the rest is not
    other = segmentation_facts(dataset, fold, tmp_path / "none.json")
    assert other["classes"]["rows"] == []
    assert "dimensions" in other["properties"]
    content = json.loads(store.read_text())
    content["fingerprint"]["cases"][0]["name"] = "another"
    store.write_text(json.dumps(content))
    assert segmentation_facts(dataset, fold, store) == other


def test_slices(tmp_path: Path) -> None:
    source = open_em_source(str(make_em_phantom(tmp_path / "raw", 4, 1, 64)), str(tmp_path / "store"), nfolds=2)
    facts = em_facts(source)
    assert facts["cases"] == {"training": 2, "validation": 2, "without labels": 1}
    assert facts["properties"]["size of a slice (pixels: y, x)"] == [64, 64]
    membrane, background = (row[1] for row in facts["classes"]["rows"])
    assert membrane == pytest.approx(float((source.stack.labels == 0).mean()))
    assert membrane + background == pytest.approx(1)
    json.dumps(facts)


def test_pictures_with_classes(tmp_path: Path) -> None:
    source = open_class_source(str(make_class_phantom(tmp_path / "raw", 5, 2)), str(tmp_path / "store"))
    facts = class_facts(source)
    assert facts["classes"]["columns"] == ["class", "train images", "val images"]
    assert [row[1:] for row in facts["classes"]["rows"]] == [[5, 2]] * len(source.dataset.classes)
    assert facts["cases"]["training"] == 5 * len(source.dataset.classes)
    assert facts["groups"] == 0
    json.dumps(facts)


def test_pictures_with_objects(tmp_path: Path) -> None:
    source = open_instance_source(str(make_instance_phantom(tmp_path / "raw")), str(tmp_path / "store"))
    facts = instance_facts(source)
    cases = source.dataset.cases
    assert sum(row[1] for row in facts["classes"]["rows"]) == sum(len(case.annotations) for case in cases)
    assert sum(facts["properties"]["images of each part"].values()) == len(cases)
    json.dumps(facts)
