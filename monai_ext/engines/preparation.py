"""From a raw folder to stored cases and folds: checked, fingerprinted, planned, preprocessed; reused afterwards."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from monai_ext.atomic_files import write_cache
from monai_ext.datasets.dataset_check import check_dataset, dataset_state
from monai_ext.datasets.folds import Fold, leaking_groups, load_splits, make_folds, read_groups, select_fold
from monai_ext.datasets.msd import read_msd
from monai_ext.datasets.phantom import make_phantom
from monai_ext.datasets.segmentation_dataset import Case, SegmentationDataset
from monai_ext.engines import process_group
from monai_ext.engines.data_note import note_data
from monai_ext.engines.folder_ranks import ranks_of_folder
from monai_ext.engines.run_protection import check_held_out, check_start, protect_training, record_start
from monai_ext.errors import InputError
from monai_ext.model_card.data_facts import segmentation_facts
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


def msd_task(dataset_dir: str) -> str:
    """Number of the MSD task that a folder name such as `Task04_Hippocampus` tells, else an empty string."""
    named = re.match(r"Task(0[1-9]|10)_", dataset_name(dataset_dir))
    return named[1] if named else ""


def open_dataset(dataset_dir: str, work_dir: str | Path) -> SegmentationDataset:
    """Read a dataset in MSD format; without a folder, make the phantom under `work_dir` and read that."""
    if dataset_dir:
        return read_msd(Path(dataset_dir))
    folder = Path(work_dir) / "raw"
    logger.info("no dataset_dir given: using the phantom dataset in %s", folder)
    ranks_of_folder(work_dir).first_alone(lambda: make_phantom(folder))
    return read_msd(folder)


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
    if fold == "all":
        logger.warning("fold all: training and validation use the same cases, so the scores are not held out")
    if groups:
        for group in leaking_groups(folds, groups):
            logger.warning("group %s is in training and validation: validation scores will be too good", group)
    return select_fold(folds, fold)


def _fingerprint(dataset: SegmentationDataset, folder: Path, crop: str, num_workers: int) -> Fingerprint:
    """Fingerprint of the dataset, read from the folder if that was made from the same files."""
    path = _fingerprint_file(folder, crop)
    state = dataset_state(dataset)
    kept = _kept_fingerprint(path, state)
    everywhere = all(process_group.gather(kept is not None))  # machines may have stores of their own
    if everywhere and kept is not None:
        return kept
    logger.info("fingerprint of %d cases", len(dataset.training))
    fingerprint = compute_fingerprint(dataset, num_workers=num_workers, progress=True, crop=crop)
    content = json.dumps({"dataset_state": state, "fingerprint": json.loads(fingerprint.to_json())}, indent=2)
    ranks_of_folder(folder).first_alone(lambda: write_cache(path, content + "\n"))
    return fingerprint


def _fingerprint_file(folder: Path, crop: str) -> Path:
    return folder / ("fingerprint.json" if crop == "nonzero" else f"fingerprint_{crop}.json")


def _kept_fingerprint(path: Path, state: str) -> Fingerprint | None:
    """What an earlier run found, if it was the same files."""
    if not path.exists():
        return None
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        return Fingerprint.from_json(json.dumps(kept["fingerprint"])) if kept["dataset_state"] == state else None
    except (OSError, ValueError, KeyError, TypeError, RecursionError, InputError):
        logger.warning("%s is damaged: fingerprint again", path)
        return None


@process_group.one_error
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


@process_group.one_error
def prepare(
    source: Source,
    output_dir: str,
    store_dir: str,
    plan_options: Mapping[str, Any],
    network_options: Mapping[str, Any] | None = None,
    task: str = "",
    plan_file: str = "",
    mirror: float = 0.0,
    dilation: bool = False,
    data2d_dim: int = 0,
    mixed_sizes: bool = False,
    resume: bool = False,
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
        plan_options: arguments of `make_plan`, `spatial_dims` among them.
        network_options: fields of the plan that shape the network (`norm`, ...), unless `plan_file` decides.
        task: name of a published plan (`04`) used instead of planning.
        plan_file: a plan edited by hand, used as it is.
        mirror: probability of flips in training; with 0 the plan allows no flips, so that none are averaged later.
        dilation: close gaps in the training labels, slice by slice, unless `plan_file` decides.
        data2d_dim: what a 2D network is trained on: 3 slices of volumes, 2 images, 0 whichever the dataset holds.
        mixed_sizes: accept images of different sizes.
        resume: goes on with the training in `output_dir`; excludes `overwrite`.
        overwrite: a training in `output_dir` is moved to `previous-N` there.
        num_workers: processes for reading and preprocessing.

    Raises:
        InputError: the dataset, a key or the plan breaks a rule; every problem found is listed.
        SystemExit: instead of that, on all processes of a training but the one that says it.
    """
    check_start(resume, overwrite)
    plan = ready_plan(
        source.dataset, store_dir, plan_options, network_options or {}, task, plan_file, mirror, dilation, data2d_dim,
        mixed_sizes, num_workers,
    )  # fmt: skip
    process_group.first_alone(lambda: protect_training(Path(output_dir), plan, source.fold, overwrite))
    logger.info("plan of %s:\n%s", source.dataset.name, plan.describe())
    store = prepare_cases(source.dataset, plan, cases_folder(store_dir, plan), num_workers)
    process_group.first_alone(lambda: record_start(Path(output_dir), plan, source.fold))
    file = _fingerprint_file(Path(store_dir), plan.crop)
    note_data(output_dir, lambda: segmentation_facts(source.dataset, source.fold, file))
    return Prepared(source, plan, store)


def ready_plan(
    dataset: SegmentationDataset,
    store_dir: str,
    plan_options: Mapping[str, Any],
    network_options: Mapping[str, Any],
    task: str,
    plan_file: str,
    mirror: float,
    dilation: bool,
    data2d_dim: int,
    mixed_sizes: bool,
    num_workers: int,
) -> Plan:
    """Check a dataset and plan it; see `prepare`."""
    folder = Path(store_dir)
    spatial_dims = Plan.load(plan_file).spatial_dims if plan_file else int(plan_options.get("spatial_dims", 3))
    _check_dimensions(dataset, spatial_dims, data2d_dim)
    cache = folder / "check.json"
    for warning in check_dataset(dataset, num_workers, progress=True, cache_file=cache, mixed_sizes=mixed_sizes):
        logger.warning(warning)
    if task or plan_file:
        logger.info("%s decides the plan: %s are not used", plan_file or f"task {task}", ", ".join(plan_options))
    if plan_file:
        plan = Plan.load(plan_file)
    else:
        crop = "positive" if task else str(plan_options.get("crop", "nonzero"))
        fingerprint = _fingerprint(dataset, folder, crop, num_workers)
        plan = named_plan(task, fingerprint, spatial_dims) if task else make_plan(fingerprint, **plan_options)
        plan = plan.with_changes("given", **network_options, label_closing=dilation)
    if dataset.channels != plan.channels or dataset.labels != plan.labels:
        raise InputError(
            f"{plan_file}: has channels {plan.channels} and labels {plan.labels}, the dataset has {dataset.channels} "
            f"and {dataset.labels}. Cure: use the plan of this dataset"
        )
    if mirror == 0:
        return plan.with_changes("mirror is 0: a model that saw no flips must not average them", mirror_axes=())
    if not plan.mirror_axes:
        return plan.with_changes(f"mirror is {mirror}", mirror_axes=tuple(range(plan.spatial_dims)))
    return plan


def cases_folder(store_dir: str, plan: Plan) -> Path:
    """Where stored cases lie; slices and volumes apart, so that training both does not store each case anew."""
    return Path(store_dir) / ("cases" if plan.spatial_dims == 3 else "cases_2d")


def prepare_part(prepared: Prepared, store_dir: str, part: str, num_workers: int = 0) -> CaseStore:
    """Store the cases of one part of a dataset: `training` (all labelled ones), `val` of the fold, or `test`.

    Raises:
        InputError: the part has no cases, or a file cannot be used.
    """
    dataset = prepared.source.dataset
    if part == "training":
        return prepared.store
    if part == "val":
        return prepared.store.part(prepared.fold.val)
    folder = cases_folder(store_dir, prepared.plan)
    return prepare_cases(dataset, prepared.plan, folder, num_workers, cases=unlabelled_cases(prepared.source))


def _check_dimensions(dataset: SegmentationDataset, spatial_dims: int, data2d_dim: int) -> None:
    if dataset.spatial_dims == 2 and spatial_dims == 3:
        raise InputError(f"{dataset.root}: holds 2D images, the network is 3D. Cure: --spatial_dims 2")
    found = 2 if dataset.spatial_dims == 2 else 3
    if data2d_dim and spatial_dims == 3:
        raise InputError(f"--data2d_dim {data2d_dim}: is for 2D networks. Cure: leave it 0, or --spatial_dims 2")
    if data2d_dim not in (0, found):
        held = "2D images" if found == 2 else "volumes"
        raise InputError(f"--data2d_dim {data2d_dim}: {dataset.root} holds {held}. Cure: --data2d_dim {found}")


def held_out_cases(source: Source, ckpt_path: str) -> list[Case]:
    """Raw validation cases for the evaluation of a model, none of which it was trained on; see `check_held_out`."""
    check_held_out(source.fold, ckpt_path)
    return source.cases("val")


def unlabelled_cases(source: Source) -> list[Case]:
    """Raw cases without labels, for prediction after training.

    Raises:
        InputError: the dataset has none.
    """
    if not source.dataset.test:
        raise InputError(f"{source.dataset.root}: has no test cases (imagesTs). Cure: use the run id training")
    return list(source.dataset.test)
