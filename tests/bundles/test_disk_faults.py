"""Disk full, read-only or gone, memory and workers gone: one clear error, whole files, and the work is gone on with."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

import disk_faults
from fault_scene import Scene, check_one_error, predicting
from forked_child import in_child
from monai_ext.engines import run_protection
from monai_ext.engines.run_protection import LOCK_FILE
from monai_ext.file_lock import FileLock

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs forked processes")
OTHERS = ("unet_em", "se_resnext101", "mask_rcnn")


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    return Scene("nnunet", tmp_path_factory.mktemp("nnunet")).prepare()


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Scene]:
    made: dict[str, Scene] = {}

    def of(bundle: str) -> Scene:
        if bundle not in made:
            made[bundle] = Scene(bundle, tmp_path_factory.mktemp(bundle)).prepare()
        return made[bundle]

    return of


def try_fault(scene: Scene, work: Path, fault: str, *args: object) -> None:
    scene.work = work
    assert in_child(lambda: getattr(disk_faults, fault)(scene, *args), work / "report") == 0


def test_disk_full_while_training(scene: Scene, tmp_path: Path) -> None:
    try_fault(scene, tmp_path, "disk_full_training", 0.6)  # the first checkpoint is complete then


def test_disk_full_while_predicting(scene: Scene, tmp_path: Path) -> None:
    try_fault(scene, tmp_path, "disk_full_predicting", 0.5)


@pytest.mark.parametrize("run_id", ["training", "inference"])
def test_read_only_output(scene: Scene, tmp_path: Path, run_id: str) -> None:
    try_fault(scene, tmp_path, "read_only_output", run_id)


def test_output_folder_moved_while_training(scene: Scene, tmp_path: Path) -> None:
    try_fault(scene, tmp_path, "folder_removed", 1, "replaced")


@pytest.mark.long
def test_worker_of_the_loader_killed(scene: Scene, tmp_path: Path) -> None:
    try_fault(scene, tmp_path, "loader_killed", 1)


@pytest.mark.parametrize("run_id", ["evaluating", "inference", "cross_validation"])
def test_a_folder_in_use_is_refused(scene: Scene, tmp_path: Path, run_id: str) -> None:
    scene.work = tmp_path
    keys = predicting(scene, run_id) if run_id != "cross_validation" else {}
    with FileLock(scene.run_folder / LOCK_FILE, "the folder"):
        before = sorted(scene.run_folder.iterdir())
        done = scene.run(run_id, before=lambda: setattr(run_protection, "LOCK_PATIENCE", 0.0), **keys)
        check_one_error(done, f"the folder of this run, is in use by process {os.getpid()} ", "another --output_dir")
        assert sorted(scene.run_folder.iterdir()) == before


@pytest.mark.long
@pytest.mark.parametrize(
    ("fault", "args"),
    [
        ("disk_full_preparing", (0.4,)),
        ("disk_full_training", (0.02,)),
        ("disk_full_training", (0.3,)),
        ("disk_full_predicting", (0.5, "evaluating")),
        ("read_only_output", ("evaluating",)),
        ("read_only_store", ()),
        ("folder_removed", (1, "moved")),
        ("folder_removed", (1, "removed")),
        ("folder_removed_predicting", ("inference",)),
        ("file_too_large", (300,)),
        ("few_files_allowed", (3,)),
        ("no_memory", (60,)),
        ("preparing_worker_killed", ()),
    ],
)
def test_further_faults(scene: Scene, tmp_path: Path, fault: str, args: tuple[object, ...]) -> None:
    try_fault(scene, tmp_path, fault, *args)


@pytest.mark.long
@pytest.mark.parametrize("bundle", OTHERS)
@pytest.mark.parametrize(
    ("fault", "args"),
    [
        ("disk_full_preparing", (0.4,)),
        ("disk_full_training", (0.4,)),
        ("disk_full_predicting", (0.5,)),
        ("disk_full_predicting", (0.5, "evaluating")),
        ("read_only_output", ("training",)),
        ("read_only_store", ()),
        ("folder_removed", (1, "moved")),
        ("loader_killed", (1,)),
    ],
)
def test_other_bundles(
    scenes: Callable[[str], Scene], tmp_path: Path, bundle: str, fault: str, args: tuple[object, ...]
) -> None:
    try_fault(scenes(bundle), tmp_path, fault, *args)
