"""Where faults of disk, memory and folders are tried: a small disk, and a whole run of a bundle to compare with."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from bundle_commands import MASK_RCNN, NNUNET, SE_RESNEXT, UNET_EM, Finished
from forked_child import mount_small_disk, resize_small_disk
from forked_command import forked_run
from monai_ext.atomic_files import PARTIAL
from monai_ext.engines.checkpoint_files import damage

BUNDLES = {"nnunet": NNUNET, "unet_em": UNET_EM, "se_resnext101": SE_RESNEXT, "mask_rcnn": MASK_RCNN}
# what a person would give `inference`, under the folder of the phantom
INPUTS = {"nnunet": "imagesTs", "unet_em": "test-volume.tif", "se_resnext101": "val", "mask_rcnn": "images/val"}
MODELS = ("last.pt", "last_previous.pt", "model.pt", "model_final.pt")
TRAINING: dict[str, Any] = {"max_epochs": 2, "epoch_length": 1, "val_interval": 1}
FEWER: dict[str, dict[str, Any]] = {"nnunet": {"test_batches": 1}}
LARGE = "256m"
FULL = "No space left|out of disk space|want of space"  # of the system, of ITK, of a stack that is read again


class Lost(AssertionError):  # noqa: N818 - says what is the matter
    """Finished work is gone or damaged."""


@dataclass
class Scene:
    """Where faults are tried: a whole run of a bundle to compare with, and a disk of its own in memory.

    Attributes:
        bundle: its name.
        folder: holds `store` (prepared) and `whole` (a training that nothing disturbed); nothing is changed in them.
        work: made for one fault: the working folder; the small disk is its `disk`.
    """

    bundle: str
    folder: Path
    work: Path = field(default_factory=Path)

    @property
    def disk(self) -> Path:
        return self.work / "disk"

    @property
    def run_folder(self) -> Path:
        return self.disk / "run"

    def run(self, run_id: str, before: Callable[[], None] = lambda: None, **keys: Any) -> Finished:
        """Run a command of the bundle; by default with the prepared store, into the disk."""
        inference = run_id == "inference"
        configs = ("inference.json",) if inference else ("train.json", "tiny.json")
        given: dict[str, Any] = {"output_dir": str(self.run_folder)}
        if not inference:
            given |= {"store_dir": str(self.folder / "store"), "affinity": "disabled", **FEWER.get(self.bundle, {})}
            given |= TRAINING if "train" in run_id or run_id == "preprocessing" else {}
        return forked_run(self.work, run_id, *configs, bundle=BUNDLES[self.bundle], before=before, **(given | keys))

    def prepare(self) -> Scene:
        """Make the store and the whole run, unless they are there."""
        if not (self.folder / "whole" / "model.pt").exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            self.work = self.folder
            done = self.run("training", output_dir=str(self.folder / "whole"))
            assert done.status == 0, done.err
        return self

    def needed(self) -> int:
        """Bytes that the whole run takes, with its largest file once more, as it is written beside its place."""
        sizes = [path.stat().st_size for path in (self.folder / "whole").rglob("*") if path.is_file()]
        return sum(sizes) + max(sizes)


def check_one_error(done: Finished, *said: str) -> None:
    """The command ended with status 1 and one error that says what to do, without a traceback.

    Args:
        done: the command.
        said: words or patterns of the error.
    """
    assert done.status == 1, f"status {done.status}\n{done.out}\n{done.err}"
    assert "Traceback" not in done.err + done.out, done.err + done.out
    errors = [line for line in done.err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, done.err
    assert "Cure: " in done.err[done.err.index(errors[0]) :], done.err
    for words in said:
        assert words in errors[0] or re.search(words, errors[0]), errors[0]


def check_whole(folder: Path) -> None:
    """No model file is damaged, and nothing half written is in the way."""
    for name in MODELS:
        if (folder / name).exists() and damage(folder / name):
            raise Lost(f"{name}: {damage(folder / name)}")
    left = [path.name for path in folder.rglob(".*") if PARTIAL.match(path.name)]
    assert not left, left


def check_same_end(scene: Scene, folder: Path) -> None:
    """The run ended with the very weights of the one that nothing disturbed."""
    for name in ("model.pt", "model_final.pt"):
        expected, found = (torch.load(place / name, weights_only=True) for place in (scene.folder / "whole", folder))
        if expected.keys() != found.keys() or not all(torch.equal(expected[key], found[key]) for key in expected):
            raise Lost(f"{name}: other weights than those of a run that nothing disturbed")
    assert (folder / "metrics.json").is_file()


def go_on(scene: Scene, **keys: Any) -> None:
    """Resume the training of `run_folder` and compare its end."""
    done = scene.run("training", resume=True, **keys)
    assert done.status == 0, done.err
    check_same_end(scene, scene.run_folder)


def predicting(scene: Scene, run_id: str) -> dict[str, Any]:
    """Keys that let `inference` or `evaluating` use the whole run's model."""
    if run_id == "inference":
        raw = scene.folder / "store" / "raw" / INPUTS[scene.bundle]
        return {"input": str(raw), "ckpt_path": str(scene.folder / "whole" / "model.pt")}
    return {"ckpt_path": str(scene.folder / "whole" / "model.pt")}


def small_disk(scene: Scene, size: int) -> None:
    """Mount an empty disk of that many bytes, whole pages, that only this process sees."""
    scene.disk.mkdir()
    mount_small_disk(scene.disk, f"{max(1, size // 4096) * 4}k")


def resize(scene: Scene, size: str) -> None:
    """Give the small disk another size."""
    resize_small_disk(scene.disk, size)


def files_of(folder: Path) -> list[Path]:
    """All files below a folder but hidden ones."""
    return sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))


def is_timeless(path: Path) -> bool:
    """Whether two runs write the same bytes."""
    return path.suffix not in (".json", ".csv") and "tfevents" not in path.name
