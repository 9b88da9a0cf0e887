"""From a raw folder to stored cases and folds: checked, fingerprinted, planned, preprocessed; reused afterwards."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
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
class Prepared:
    """What training and evaluation start from."""

    dataset: SegmentationDataset
    plan: Plan
    fold: Fold
    store: CaseStore

    def cases(self, part: str) -> list[Case]:
        """Raw cases of `train` or `val` of the fold."""
        names = set(self.fold.train if part == "train" else self.fold.val)
        return [case for case in self.dataset.training if case.name in names]


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


def prepare(
    dataset_dir: str,
    output_dir: str,
    store_dir: str,
    plan_options: Mapping[str, Any],
    task: str = "",
    plan_file: str = "",
    fold: int | str = 0,
    nfolds: int = 5,
    fold_seed: int = 12345,
    group_by: str = "",
    splits_file: str = "",
    mirror: float = 0.0,
    num_workers: int = 0,
) -> Prepared:
    """Bring a dataset to the point where training can start.

    Steps that are done already are skipped: check, fingerprint and stored cases are kept as long as the raw files and
    the plan they belong to are the same. The plan is written to `output_dir/plan.json`, beside the weights.

    Args:
        dataset_dir: folder with `dataset.json`; empty for the phantom.
        output_dir: folder of the run.
        store_dir: folder for what all folds share: check, fingerprint, stored cases.
        plan_options: arguments of `make_plan`.
        task: name of a published plan (`04`) used instead of planning.
        plan_file: a plan edited by hand, used as it is.
        fold, nfolds, fold_seed, group_by, splits_file: see `choose_fold`.
        mirror: probability of flips in training; with 0 the plan allows no flips, so that none are averaged later.
        num_workers: processes for reading and preprocessing.

    Raises:
        InputError: the dataset, a key or the plan breaks a rule; every problem found is listed.
    """
    folder = Path(store_dir)
    dataset = open_dataset(dataset_dir, folder)
    chosen = choose_fold(dataset, fold, nfolds, fold_seed, group_by, splits_file)
    for warning in check_dataset(dataset, num_workers, progress=True, cache_file=folder / "check.json"):
        logger.warning(warning)
    if plan_file:
        plan = Plan.load(plan_file)
    else:
        fingerprint = _fingerprint(dataset, folder / "fingerprint.json", num_workers)
        plan = named_plan(task, fingerprint) if task else make_plan(fingerprint, **plan_options)
    if dataset.channels != plan.channels or dataset.labels != plan.labels:
        raise InputError(
            f"{plan_file}: has channels {plan.channels} and labels {plan.labels}, the dataset has {dataset.channels} "
            f"and {dataset.labels}. Cure: use the plan of this dataset"
        )
    if mirror == 0:
        plan = plan.with_changes("mirror is 0: a model that saw no flips must not average them", mirror_axes=())
    logger.info("plan of %s:\n%s", dataset.name, plan.describe())
    store = prepare_cases(dataset, plan, folder / "cases", num_workers)
    write_text(Path(output_dir) / "plan.json", plan.to_json())
    return Prepared(dataset, plan, chosen, store)
