"""Every bundle's way from raw data to the start of a training, taken by several processes: nothing is done twice."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from monai_ext.datasets import dataset_check, image_index
from monai_ext.datasets.class_phantom import make_class_phantom
from monai_ext.datasets.em_phantom import make_em_phantom
from monai_ext.datasets.instance_phantom import make_instance_phantom
from monai_ext.datasets.phantom import make_phantom
from monai_ext.engines import instance_source, process_group
from monai_ext.engines.class_preparation import prepare_class
from monai_ext.engines.class_source import open_class_source
from monai_ext.engines.em_preparation import open_em_source, prepare_em
from monai_ext.engines.instance_preparation import prepare_instance
from monai_ext.engines.instance_source import open_instance_source
from monai_ext.engines.preparation import open_source, prepare
from monai_ext.planning import fingerprint
from rank_processes import on_ranks

Opened = tuple[list[str], Any]


def _noted(module: Any, name: str, log: list[str]) -> None:
    """Every call of a module's function notes its name."""
    real = getattr(module, name)

    def noted(*args: Any, **options: Any) -> Any:
        log.append(name)
        return real(*args, **options)

    setattr(module, name, noted)


def _segmentation(raw: Path | str, place: Path, machines: str) -> Opened:
    """What this rank did, and what came out; `machines`: a letter per rank for where its store is."""
    process_group.LAST_WORDS = 0.0
    log: list[str] = []
    for module, name in ((dataset_check, "check_case"), (fingerprint, "_read_case"), (dataset_check, "write_cache")):
        _noted(module, name, log)
    store = str(place / machines[process_group.rank()])
    source = open_source(str(raw), store)
    options = {"memory_gb": 8, "base_features": 8, "spacing": (), "patch_size": (), "batch_size": 2}
    prepared = prepare(source, str(place / "run"), store, options)
    return log, (prepared.plan.to_json(), prepared.fold, prepared.store.names)


def _classes(raw: Path | str, place: Path, machines: str) -> Opened:
    process_group.LAST_WORDS = 0.0
    log: list[str] = []
    _noted(image_index, "inspect_image", log)
    _noted(image_index, "_write_index", log)
    store = str(place / machines[process_group.rank()])
    source = open_class_source(str(raw), store)
    prepared = prepare_class(source, str(place / "run"), "phantom", "se-resnext-narrow", [64])
    return log, (prepared.plan.to_json(), prepared.fold, source.report)


def _instances(raw: Path | str, place: Path, machines: str) -> Opened:
    process_group.LAST_WORDS = 0.0
    log: list[str] = []
    _noted(image_index, "inspect_image", log)
    _noted(instance_source, "check_instances", log)
    store = str(place / machines[process_group.rank()])
    source = open_instance_source(str(raw), store)
    prepared = prepare_instance(source, str(place / "run"), "phantom", "resnet-small")
    return log, (prepared.plan.to_json(), prepared.fold, source.report, source.digest)


def _em(raw: Path | str, place: Path, machines: str) -> Opened:
    store = str(place / machines[process_group.rank()])
    source = open_em_source(str(raw), store)
    prepared = prepare_em(source, str(place / "run"), "phantom", patch_size=[92], base_features=2, levels=2)
    return [], (prepared.plan.to_json(), prepared.fold)


BUNDLES: dict[str, Callable[..., Opened]] = {
    "nnunet": _segmentation,
    "se_resnext101": _classes,
    "mask_rcnn": _instances,
    "unet_em": _em,
}


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    place = tmp_path_factory.mktemp("raw")
    return {
        "nnunet": make_phantom(place / "segmentation", num_cases=5),
        "se_resnext101": make_class_phantom(place / "classes", num_train=2, num_val=1),
        "mask_rcnn": make_instance_phantom(place / "instances", num_train=2, num_val=1),
        "unet_em": make_em_phantom(place / "stack", num_train=5, num_test=1, size=96),
    }


@pytest.mark.parametrize("bundle", sorted(BUNDLES))
def test_nothing_is_done_twice(bundle: str, raw: dict[str, Any], tmp_path: Path) -> None:
    alone = BUNDLES[bundle]
    ((done, expected),) = on_ranks(alone, 1, raw[bundle], tmp_path / "alone", "a")
    seen = on_ranks(alone, 2, raw[bundle], tmp_path / "shared", "aa")
    assert [result for _, result in seen] == [expected, expected]
    assert sorted(seen[0][0] + seen[1][0]) == sorted(done)
    for name in {"check_case", "_read_case", "inspect_image"} & set(done):
        counts = [log.count(name) for log, _ in seen]
        assert abs(counts[0] - counts[1]) <= 1  # dealt out evenly
    again = on_ranks(alone, 2, raw[bundle], tmp_path / "shared", "aa")
    assert again == [([], expected), ([], expected)]
    assert not [path for path in (tmp_path / "shared").rglob(".*") if "seen-" in path.name]


@pytest.mark.parametrize("bundle", ["nnunet", "se_resnext101", "mask_rcnn"])  # stacks are stored nowhere
def test_every_machine_has_what_it_needs(bundle: str, raw: dict[str, Any], tmp_path: Path) -> None:
    first, second = on_ranks(BUNDLES[bundle], 2, raw[bundle], tmp_path, "ab")
    assert first[1] == second[1]
    stores = [sorted(p.relative_to(tmp_path / m).as_posix() for p in (tmp_path / m).rglob("*")) for m in "ab"]
    assert stores[0] == stores[1]
    images = first[0].count("inspect_image") + second[0].count("inspect_image")
    assert images == {"nnunet": 0, "se_resnext101": 12, "mask_rcnn": 3}[bundle]  # decoded once for both
    (tmp_path / "b").rename(tmp_path / "lost")  # a machine is replaced by an empty one
    again = on_ranks(BUNDLES[bundle], 2, raw[bundle], tmp_path, "ab")
    assert [result for _, result in again] == [first[1], first[1]]
    assert sorted(p.relative_to(tmp_path / "b").as_posix() for p in (tmp_path / "b").rglob("*")) == stores[0]


@pytest.mark.parametrize("bundle", ["nnunet", "se_resnext101", "mask_rcnn"])
def test_damaged_files_of_all_shares_are_said_once(bundle: str, tmp_path: Path) -> None:
    makers: dict[str, Callable[[Path], Path]] = {
        "nnunet": lambda folder: make_phantom(folder, num_cases=5),
        "se_resnext101": lambda folder: make_class_phantom(folder, num_train=2, num_val=1),
        "mask_rcnn": lambda folder: make_instance_phantom(folder, num_train=2, num_val=1),
    }
    raw = makers[bundle](tmp_path / "raw")
    endings = {"nnunet": "imagesTr/*.nii.gz"}
    damaged = sorted(p for p in raw.rglob(endings.get(bundle, "*.png")) if "label" not in str(p))[:2]
    for path in damaged:
        os.truncate(path, 20)
    speaks, silent = on_ranks(BUNDLES[bundle], 2, raw, tmp_path, "aa")
    assert silent == "SystemExit(1)"
    assert "2 problems" in speaks
    assert all(path.name.split(".")[0] in speaks for path in damaged)
    assert not (tmp_path / "run").exists()
