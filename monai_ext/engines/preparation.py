"""From a raw folder to stored cases and folds: checked, fingerprinted, planned, preprocessed; reused afterwards."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from monai_ext.atomic_files import write_text
from monai_ext.datasets.dataset_check import check_dataset, dataset_state
from monai_ext.datasets.folds import Fold, leaking_groups, load_splits, make_folds, read_groups, select_fold
from monai_ext.datasets.msd import read_msd
from monai_ext.datasets.phantom import make_phantom
from monai_ext.datasets.segmentation_dataset import Case, SegmentationDataset
from monai_ext.errors import InputError
from monai_ext.planning.fingerprint import Fingerprint, compute_fingerprint
from monai_ext.planning.msd_plans import named_plan
from monai_ext.planning.plan import Plan
from monai_ext.planning.planner import make_plan
from monai_ext.preprocessing.case_store import CaseStore
from monai_ext.preprocessing.prepare import prepare_cases

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Source:
    """A raw dataset and the fold that is trained on or validated."""

    dataset: SegmentationDataset
    fold: Fold

    def cases(self, part: str) -> list[Case]:
        """Raw cases of `train` or `val` of the fold."""
        names = set(self.fold.train if part == "train" else self.fold.val)
        return [case for case in self.dataset.training if case.name in names]


@dataclass(frozen=True)
class Prepared:
    """What training starts from."""

    source: Source
    plan: Plan
    store: CaseStore

    @property
    def fold(self) -> Fold:
        return self.source.fold


def dataset_name(dataset_dir: str) -> str:
    """Folder name of a dataset; the embedded default is called phantom."""
    return Path(dataset_dir).resolve().name if dataset_dir else "phantom"


def open_dataset(dataset_dir: str, work_dir: str | Path) -> SegmentationDataset:
    """Read a dataset in MSD format; without a folder, make the phantom under `work_dir` and read that."""
    if dataset_dir:
        return read_msd(Path(dataset_dir))
    folder = Path(work_dir) / "raw"
    logger.info("no dataset_dir given: using the phantom dataset in %s", folder)
    return read_msd(make_phantom(folder))


def choose_fold(
    dataset: SegmentationDataset, fold: int | str, nfolds: int, fold_seed: int, group_by: str, splits_file: str
) -> Fold:
    """Training and validation names of one fold; warns when a group sits on both sides.

    Raises:
        InputError: the fold does not exist, or the splits or groups do not fit the dataset.
    """
    names = [case.name for case in dataset.training]
    groups = read_groups(dataset, group_by) if group_by else None
    folds = load_splits(Path(splits_file), names) if splits_file else make_folds(names, nfolds, fold_seed, groups)
    if groups:
        for group in leaking_groups(folds, groups):
            logger.warning("group %s is in training and validation: validation scores will be too good", group)
    return select_fold(folds, fold)


def _fingerprint(dataset: SegmentationDataset, path: Path, num_workers: int) -> Fingerprint:
    """Fingerprint of the dataset, read from `path` if that was made from the same files."""
    state = dataset_state(dataset)
    if path.exists():
        try:
            kept = json.loads(path.read_text(encoding="utf-8"))
            if kept["dataset_state"] == state:
                return Fingerprint.from_json(json.dumps(kept["fingerprint"]))
        except (json.JSONDecodeError, KeyError, InputError):
            logger.warning("%s is damaged: fingerprint again", path)
    logger.info("fingerprint of %d cases", len(dataset.training))
    fingerprint = compute_fingerprint(dataset, num_workers=num_workers, progress=True)
    content = {"dataset_state": state, "fingerprint": json.loads(fingerprint.to_json())}
    write_text(path, json.dumps(content, indent=2) + "\n")
    return fingerprint


def open_source(
    dataset_dir: str,
    store_dir: str,
    fold: int | str = 0,
    nfolds: int = 5,
    fold_seed: int = 12345,
    group_by: str = "",
    splits_file: str = "",
) -> Source:
    """Read `dataset.json` and choose the fold; no image is opened.

    Args:
        dataset_dir: folder with `dataset.json`; empty for the phantom, which is made in `store_dir/raw`.
        store_dir: folder for what all folds share.
        fold, nfolds, fold_seed, group_by, splits_file: see `choose_fold`.

    Raises:
        InputError: the description, its file list, or the choice of the fold breaks a rule.
    """
    dataset = open_dataset(dataset_dir, store_dir)
    return Source(dataset, choose_fold(dataset, fold, nfolds, fold_seed, group_by, splits_file))


def prepare(
    source: Source,
    output_dir: str,
    store_dir: str,
    plan_options: Mapping[str, Any],
    task: str = "",
    plan_file: str = "",
    norm: str = "instance",
    negative_slope: float = 0.01,
    mirror: float = 0.0,
    overwrite: bool = False,
    num_workers: int = 0,
) -> Prepared:
    """Bring a dataset to the point where training can start.

    Steps that are done already are skipped: check, fingerprint and stored cases are kept as long as the raw files and
    the plan they belong to are the same. The plan is written to `output_dir/plan.json`, beside the weights.

    Args:
        source: dataset and fold.
        output_dir: folder of the run.
        store_dir: folder for what all folds share: check, fingerprint, stored cases.
        plan_options: arguments of `make_plan`.
        task: name of a published plan (`04`) used instead of planning.
        plan_file: a plan edited by hand, used as it is.
        norm, negative_slope: of the network, unless `plan_file` decides.
        mirror: probability of flips in training; with 0 the plan allows no flips, so that none are averaged later.
        overwrite: the plan of a training in `output_dir` may be replaced.
        num_workers: processes for reading and preprocessing.

    Raises:
        InputError: the dataset, a key or the plan breaks a rule; every problem found is listed.
    """
    folder, dataset = Path(store_dir), source.dataset
    for warning in check_dataset(dataset, num_workers, progress=True, cache_file=folder / "check.json"):
        logger.warning(warning)
    if plan_file:
        plan = Plan.load(plan_file)
    else:
        fingerprint = _fingerprint(dataset, folder / "fingerprint.json", num_workers)
        plan = named_plan(task, fingerprint) if task else make_plan(fingerprint, **plan_options)
        plan = plan.with_changes("given", norm=norm, negative_slope=negative_slope)
    if dataset.channels != plan.channels or dataset.labels != plan.labels:
        raise InputError(
            f"{plan_file}: has channels {plan.channels} and labels {plan.labels}, the dataset has {dataset.channels} "
            f"and {dataset.labels}. Cure: use the plan of this dataset"
        )
    if mirror == 0:
        plan = plan.with_changes("mirror is 0: a model that saw no flips must not average them", mirror_axes=())
    _keep_plan_of_training(Path(output_dir), plan, overwrite)
    logger.info("plan of %s:\n%s", dataset.name, plan.describe())
    store = prepare_cases(dataset, plan, folder / "cases", num_workers)
    write_text(Path(output_dir) / "plan.json", plan.to_json())
    return Prepared(source, plan, store)


def _keep_plan_of_training(folder: Path, plan: Plan, overwrite: bool) -> None:
    """Refuse to replace the plan that the weights in `folder` were trained with."""
    path = folder / "plan.json"
    if overwrite or not path.exists() or not any((folder / name).exists() for name in ("last.pt", "model.pt")):
        return
    trained, present = asdict(Plan.load(path)), asdict(plan)
    changed = [f"{n}: {trained[n]} -> {present[n]}" for n in trained if n != "why" and trained[n] != present[n]]
    if changed:
        listed = "\n".join(f"  - {line}" for line in changed)
        raise InputError(
            f"{path}: the training in this folder has another plan than the present keys and data give:\n{listed}\n"
            f"Cure: the keys of that training, or --plan_file {path}, or another --output_dir"
        )
