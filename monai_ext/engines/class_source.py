"""A checked folder of images by class, or table, its fold, and which cases a model may be scored on."""

from __future__ import annotations

import hashlib
import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from monai_ext.datasets.class_check import CheckReport, check_classification
from monai_ext.datasets.class_folds import choose_class_fold
from monai_ext.datasets.class_groups import case_groups, join_duplicates, leaking_images
from monai_ext.datasets.class_open import open_classification
from monai_ext.datasets.class_phantom import make_class_phantom
from monai_ext.datasets.classification_dataset import ClassificationDataset, ImageCase
from monai_ext.datasets.folds import Fold
from monai_ext.engines import process_group
from monai_ext.engines.fold_file import read_fold_file
from monai_ext.engines.folder_ranks import ranks_of_folder
from monai_ext.engines.run_protection import FOLD_FILE, check_held_out
from monai_ext.errors import InputError
from monai_ext.planning.class_plan import ClassPlan

logger = logging.getLogger(__name__)
INDEX_FILE = "image_index.json"


@dataclass(frozen=True)
class ClassSource:
    """A checked dataset and the fold that is trained on or validated.

    Attributes:
        dataset: its readable images.
        report: what the check saw.
        fold: names of the cases.
        groups: case name to group (patient); empty if none are known.
        is_drawn: the fold was drawn, not given.
    """

    dataset: ClassificationDataset
    report: CheckReport
    fold: Fold
    groups: Mapping[str, str]
    is_drawn: bool = False

    @cached_property
    def digest(self) -> str:
        """Of names and labels: what a model was trained on."""
        content = hashlib.sha256(repr(self.dataset.classes).encode())
        for case in self.dataset.cases:
            content.update(repr((case.name, case.labels)).encode())
        return content.hexdigest()

    @process_group.one_error
    def require_drawn(self) -> None:
        """Raise `InputError` if the fold is the dataset's own split, of which there is one."""
        if self.dataset.part("train") and self.dataset.part("val") and not self.is_drawn:
            raise InputError(
                f"cross_validation: {self.dataset.root} has one training and validation part of its own. "
                "Cure: --fold_rule drawn draws folds over both together"
            )

    def cases(self, part: str) -> tuple[ImageCase, ...]:
        """Cases of `train` or `val` of the fold, of the dataset's own `test`, or `all` there are."""
        if part == "all":
            return self.dataset.cases
        if part == "test":
            return self.dataset.part("test")
        return tuple(self.dataset.case(name) for name in (self.fold.train if part == "train" else self.fold.val))


@process_group.one_error
def open_class_source(
    dataset_dir: str,
    store_dir: str,
    fold: int | str = 0,
    nfolds: int = 5,
    fold_seed: int = 12345,
    fold_rule: str = "auto",
    group_by: str = "",
    multi_label: bool | str = "auto",
    image_dir: str = "",
    skip_unreadable: bool = False,
    image_size: Sequence[int] = (),
    num_workers: int = 0,
    plan: ClassPlan | None = None,
    part: str = "val",
) -> ClassSource:
    """Read and check a dataset and choose the fold.

    Args:
        dataset_dir: folder `train/CLASS/*`, `val/CLASS/*` or `CLASS/*`, or a CSV table; empty for the phantom, which is
            made in `store_dir/raw`.
        store_dir: folder for what all folds share.
        fold, nfolds, fold_seed, fold_rule: see `choose_class_fold`.
        group_by: see `case_groups`; empty takes the groups of the table, if it has any.
        multi_label, image_dir: see `open_classification`.
        skip_unreadable: leave out images that cannot be read instead of refusing the dataset.
        image_size: of the network's input, to warn of images that are enlarged.
        num_workers: processes that open images of a large dataset.
        plan: of the model that is evaluated, whose classes the dataset is read with; None for a training.
        part: of an evaluation; `test` and `all` need no training images.

    Raises:
        InputError: the dataset or the choice of the fold breaks a rule.
    """
    folder = dataset_dir
    if not dataset_dir:
        folder = str(Path(store_dir) / "raw")
        logger.info("no dataset_dir given: using the phantom images in %s", folder)
        ranks_of_folder(store_dir).first_alone(lambda: make_class_phantom(Path(folder)))
    outside = plan is not None and part in ("test", "all")  # data that need not have been trained on
    if plan is not None and outside:
        opened = open_classification(folder, plan.multi_label, image_dir, plan.classes)
    else:
        opened = open_classification(folder, multi_label, image_dir)
    pooled = fold_rule == "drawn"
    dataset, report = check_classification(
        opened,
        skip_unreadable,
        Path(store_dir) / INDEX_FILE,
        training=not outside,
        pooled=pooled,
        crop=image_size,
        num_workers=num_workers,
        progress=sys.stderr.isatty(),
    )
    known = case_groups(dataset, group_by)
    if outside and (part == "all" or not dataset.part("train")):
        every = tuple(sorted(case.name for case in dataset.cases))
        return ClassSource(dataset, report, Fold((), every), known)
    is_drawn = pooled or not (dataset.part("train") and dataset.part("val"))
    # copies of an image must not be separated by a draw; a given split is left as it is, and the check warned of them
    groups = join_duplicates([case.name for case in dataset.cases], known, report.duplicates) if is_drawn else known
    chosen = choose_class_fold(dataset, fold, nfolds, fold_seed, fold_rule, groups)
    return ClassSource(dataset, report, chosen, known, is_drawn)


def check_classes(source: ClassSource, ckpt_path: str, plan: ClassPlan) -> None:
    """Raise `InputError` if a model has other classes than a dataset."""
    dataset = source.dataset
    if plan.classes != dataset.classes:
        raise InputError(
            f"{ckpt_path}: was trained on the classes {list(plan.classes)}, the dataset has {list(dataset.classes)}. "
            "Cure: the dataset of the training, or one with its classes"
        )
    if plan.multi_label != dataset.multi_label:
        raise InputError(
            f"{ckpt_path}: was trained with --multi_label {plan.multi_label}, the dataset is read with "
            f"{dataset.multi_label}. Cure: --multi_label {plan.multi_label}"
        )


def may_calibrate(source: ClassSource, ckpt_path: str, part: str, tta: bool) -> bool:
    """Whether an evaluation may fit the temperature that inference uses: on the model's own held-out cases, one view.

    A reason against it is logged.
    """
    path = Path(ckpt_path).parent / FOLD_FILE
    trained = read_fold_file(path) if path.is_file() else {}
    reasons = {
        "these are not its validation cases": part != "val" or set(trained.get("val", ())) != set(source.fold.val),
        "the dataset is not that of the training": trained.get("data") != source.digest,
        "it was trained on them": bool(set(trained.get("train", ())) & set(source.fold.val)),
        "several views are averaged": tta,
    }
    against = [reason for reason, holds in reasons.items() if holds]
    if against:
        logger.info("no temperature is stored for %s: %s", ckpt_path, ", ".join(against))
    return not against


def held_out_cases(source: ClassSource, ckpt_path: str, plan: ClassPlan, part: str = "val") -> tuple[ImageCase, ...]:
    """Cases for the evaluation of a model, none of which it was trained on.

    Args:
        source: dataset and fold.
        ckpt_path: the model.
        plan: of the model.
        part: `val`, `test`, or `all`.

    Raises:
        InputError: the model was trained on some of them or has other classes than the dataset, or there are none.
    """
    check_classes(source, ckpt_path, plan)
    cases = source.cases(part)
    if not cases:
        raise InputError(
            f"--part {part}: {source.dataset.root} has no such images. Cure: --part val, or a folder {part}"
        )
    names = tuple(sorted(case.name for case in cases))
    for group, (trained, scored) in leaking_images(source.fold.train, names, source.groups).items():
        logger.warning("group %s has %d images in training and %d among those scored", group, trained, scored)
    check_held_out(Fold(source.fold.train, names), ckpt_path, source.digest, source.report.digests)
    return cases


def unseen_cases(source: ClassSource) -> tuple[ImageCase, ...]:
    """What is predicted after a training: the dataset's `test` part, the validation cases if it has none."""
    return source.cases("test") or source.cases("val")
