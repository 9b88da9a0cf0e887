"""Keeps what belongs to one training together: weights, plan and fold; nothing is mixed, nothing is lost."""

from __future__ import annotations

import itertools
import json
import logging
import os
import weakref
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from monai_ext.atomic_files import remove_partials, write_text
from monai_ext.datasets.folds import Fold
from monai_ext.engines.fold_file import read_fold_file
from monai_ext.engines.launch_record import begun_by_this_launch
from monai_ext.errors import InputError
from monai_ext.expected_folders import expect_folder, forget_folder
from monai_ext.file_lock import FileLock

if TYPE_CHECKING:
    from typing import Self  # Python 3.11

logger = logging.getLogger(__name__)
PLAN_FILE, FOLD_FILE = "plan.json", "fold.json"
LOCK_FILE = ".run.lock"
OUTPUT_FOLDERS = ("evaluation", "predictions", "export")
PICTURE_FOLDERS = ("labels", "overlays", "activations")  # in those, or in a folder of predictions alone
LOCK_PATIENCE = 5.0  # seconds; a run that was told to stop may be saving while its successor starts
RUN_FILES = (
    "last.pt",
    "last_previous.pt",
    "model.pt",
    "model_final.pt",
    PLAN_FILE,
    FOLD_FILE,
    "metrics.json",
    "overlay.png",
    "log.jsonl",
    "tensorboard",
    "evaluation",
    "predictions",
    "postprocessing.json",
    "calibration.json",
    "export",
    "docs",
    "fold_done.json",
)


class RunPlan(Protocol):
    """What a plan offers to the parts that every bundle shares: a frozen dataclass that is stored as JSON."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def dataset(self) -> str:
        """Name of the dataset."""

    @property
    def foreground_classes(self) -> dict[str, int]:
        """Class name to the value that it has in pictures."""

    @property
    def voxel_size(self) -> tuple[float, float, float]:
        """Of pictures, in mm."""

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read it from a file."""

    def to_json(self) -> str:
        """Text of the file."""

    def signature(self) -> str:
        """What weights and optimiser state depend on."""


def check_start(resume: bool, overwrite: bool) -> None:
    """Raise `InputError` if a training is to go on and to begin anew."""
    if resume and overwrite:
        raise InputError("--resume True and --overwrite True exclude each other. Cure: give one of them")


_held: dict[Path, FileLock] = {}
_runs: dict[Path, int] = {}  # the last run of this process that holds a folder
_numbers = itertools.count()


def hold_folder(folder: Path) -> None:
    """Keep other processes from running in a folder until this one ends or calls `release_folder`.

    This process may begin again in a folder that it holds. Of the processes of a distributed run the first holds the
    folder for all. Of folders on network disks see `monai_ext.file_lock`. From here on a folder that is removed or
    replaced is not made again by what writes into it, see `monai_ext.expected_folders`.

    Raises:
        LockedError: another process runs there; names it.
        InputError: the folder cannot be written.
    """
    place = folder.resolve()
    if int(os.environ.get("RANK", "0")) > 0:
        if place.is_dir():
            expect_folder(place)
        return
    former = _held.get(place)
    if former is not None and former.in_place:
        return
    cure = "another --output_dir, or wait until that run ends, or stop it (a training goes on with --resume True)"
    lock = FileLock(place / LOCK_FILE, f"{folder}, the folder of this run,", cure)
    lock.acquire(LOCK_PATIENCE)
    if former is not None:
        former.release()
    _held[place] = lock
    expect_folder(place)
    parts = [place, *(place / name for name in OUTPUT_FOLDERS)]
    for part in [*parts, *(part / name for part in parts for name in PICTURE_FOLDERS)]:
        remove_partials(part)  # a killed run may have left unfinished files


def hold_while_running(folder: Path, run: object) -> None:
    """As `hold_folder`, until this process ends or nothing refers to `run` any more, as in a notebook."""
    hold_folder(folder)
    place = folder.resolve()
    _runs[place] = number = next(_numbers)
    weakref.finalize(run, _release_after, place, number)


def _release_after(place: Path, number: int) -> None:
    if _runs.get(place) == number:  # otherwise a later run holds the folder
        release_folder(place)


def release_folder(folder: Path) -> None:
    """Let other processes run in a folder again and take the lock file away.

    The end of the process releases it too; the file of a killed one stays, and the next run takes it over.
    """
    place = folder.resolve()
    forget_folder(place)
    _runs.pop(place, None)
    lock = _held.pop(place, None)
    if lock is not None:
        lock.release(remove=True)


def protect_training(folder: Path, plan: RunPlan, fold: Fold, overwrite: bool, data: str = "") -> None:
    """Refuse to mix a new training with an earlier one of another plan or fold; with `overwrite` set that aside.

    What torchrun has begun itself and starts again after a failure is not set aside.

    From here on no other process can train in the folder, see `hold_folder`.

    `data` is a digest of what is trained on, where names of cases alone do not tell datasets apart.

    Raises:
        InputError: the training in the folder has another plan or fold, or another process is training there.
    """
    hold_folder(folder)
    if overwrite and not begun_by_this_launch(folder):
        set_aside(folder)
        return
    changed = _differences(folder, plan, fold, data)
    if changed:
        listed = "\n".join(f"  - {line}" for line in changed)
        raise InputError(
            f"{folder}: the training in this folder differs from what the present keys and data give:\n{listed}\n"
            f"Cure: the keys of that training (nnunet: or --plan_file {folder / PLAN_FILE}), another --output_dir, "
            "or --overwrite True to start anew"
        )


def record_start(
    folder: Path, plan: RunPlan, fold: Fold, data: str = "", contents: Mapping[str, str] | None = None
) -> None:
    """Write plan and fold beside where the weights will lie; of `contents`, digests by case, those trained on."""
    write_text(folder / PLAN_FILE, plan.to_json())
    names: dict[str, Any] = {"train": list(fold.train), "val": list(fold.val)}
    if data:
        names["data"] = data
    if contents is not None:
        names["contents"] = [contents[name] for name in fold.train]
    write_text(folder / FOLD_FILE, json.dumps(names, indent=1) + "\n")


def check_held_out(fold: Fold, ckpt_path: str, data: str = "", contents: Mapping[str, str] | None = None) -> None:
    """Make sure that a model was trained on none of a fold's validation cases.

    With `fold all` every case was trained on; that is said in a warning. Where `data`, a digest, differs from that of
    the training, equal names are other cases; cases are then told by their content, if `contents` (digests by case)
    are given and were recorded.

    Raises:
        InputError: the model was trained on some of them.
    """
    path = Path(ckpt_path).parent / FOLD_FILE
    if not path.is_file():
        logger.warning("%s is missing: whether the model was trained on these cases is not known", path)
        return
    trained = read_fold_file(path)
    seen = sorted(set(trained["train"]) & set(fold.val))
    if data and trained.get("data", data) != data:
        logger.info("%s was trained on another dataset", ckpt_path)
        used = set(trained.get("contents", ()))
        seen = sorted(name for name in fold.val if contents is not None and contents.get(name) in used)
    if seen and set(trained["train"]) == set(trained["val"]):
        logger.warning("the model was trained on all cases: these scores are not of held-out cases")
    elif seen:
        raise InputError(
            f"{ckpt_path}: was trained on {len(seen)} of the {len(fold.val)} validation cases "
            f"({', '.join(seen[:5])}{', ...' if len(seen) > 5 else ''}). "
            "Cure: the keys that chose the fold of the training (fold, nfolds and those beside them in `describe`)"
        )


def same_plan(a: RunPlan, b: RunPlan) -> bool:
    """Whether two plans decide the same, whatever reasons they give."""
    return type(a) is type(b) and _fields(a) == _fields(b)


def set_aside(folder: Path) -> None:
    """Move an earlier run into `previous-N` of its own folder: what is overwritten is never lost."""
    files = [folder / name for name in RUN_FILES if (folder / name).exists()]
    if not files:
        return
    number = 1
    while (folder / f"previous-{number}").exists():
        number += 1
    target = folder / f"previous-{number}"
    target.mkdir(parents=True)
    for path in files:
        os.replace(path, target / path.name)
    logger.info("the earlier run was moved to %s", target)


def _differences(folder: Path, plan: RunPlan, fold: Fold, data: str) -> list[str]:
    """What the training in a folder has otherwise than the present plan and fold; empty if there is no training."""
    if not any((folder / name).exists() for name in ("last.pt", "last_previous.pt", "model.pt")):
        return []
    changed = []
    if (folder / PLAN_FILE).exists():
        trained, present = _fields(plan.load(folder / PLAN_FILE)), _fields(plan)
        changed = [f"{n}: {trained[n]} -> {present[n]}" for n in trained if trained[n] != present[n]]
    if (folder / FOLD_FILE).exists():
        kept = read_fold_file(folder / FOLD_FILE)
        if data and kept.get("data", data) != data:
            changed.append("the data: other images or labels under the same names")
        for part, names in (("train", fold.train), ("val", fold.val)):
            moved = len(set(kept[part]) ^ set(names))
            changed += [f"{part} cases of the fold: {moved} of them differ"] if moved else []
    return changed


def _fields(plan: RunPlan) -> Mapping[str, Any]:
    return {name: value for name, value in asdict(plan).items() if name != "why"}
