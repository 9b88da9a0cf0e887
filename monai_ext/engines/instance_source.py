"""Instance segmentation data, opened and checked, and the cases that are trained on or validated."""

from __future__ import annotations

import hashlib
import json
import logging
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from monai_ext.atomic_files import write_cache
from monai_ext.datasets.class_check import CheckReport, check_classification
from monai_ext.datasets.class_folds import choose_class_fold
from monai_ext.datasets.class_groups import case_groups, join_duplicates
from monai_ext.datasets.classification_dataset import ClassificationDataset, ImageCase
from monai_ext.datasets.folds import Fold
from monai_ext.datasets.instance_check import InstanceReport, check_instances
from monai_ext.datasets.instance_dataset import InstanceCase, InstanceDataset
from monai_ext.datasets.instance_phantom import make_instance_phantom
from monai_ext.datasets.instance_selection import (
    listed_fold,
    open_with_annotations,
    parse_select,
    restricted,
    select_images,
)
from monai_ext.engines import process_group
from monai_ext.engines.folder_ranks import ranks_of_folder
from monai_ext.errors import InputError
from monai_ext.planning.instance_plan import InstancePlan
from monai_ext.planning.plan_file import plan_from_dict

logger = logging.getLogger(__name__)
INDEX_FILE, REPORT_FILE = "image_index.json", "instance_report.json"


@dataclass(frozen=True)
class InstanceSource:
    """A checked dataset and the fold that is trained on or validated.

    Attributes:
        dataset: its images.
        report: what the check of the objects saw.
        images: what the check of the image files saw.
        fold: names of the cases.
        groups: case name to group (patient, field of view); empty if none are known.
        is_drawn: the fold was drawn, not given.
        eval_samples: most validation cases that are scored, evenly spread over all; 0 scores all.
        digest: of images' names and objects: what a model was trained on.
    """

    dataset: InstanceDataset
    report: InstanceReport
    images: CheckReport
    fold: Fold
    groups: Mapping[str, str]
    is_drawn: bool = False
    eval_samples: int = 0
    digest: str = ""

    def describe(self) -> str:
        """Text for the log."""
        files = self.images.describe().splitlines()[1 + len(self.images.counts) :]  # without numbers of images
        return "\n".join([self.report.describe(), *files])

    @process_group.one_error
    def require_drawn(self) -> None:
        """Raise `InputError` if the fold is the dataset's own split, of which there is one, or is scored in part."""
        if self.eval_samples > 0:
            raise InputError(
                f"cross_validation: --eval_samples {self.eval_samples} leaves out images, and each is to be scored "
                "once. Cure: --eval_samples 0"
            )
        if self.dataset.part("train") and self.dataset.part("val") and not self.is_drawn:
            raise InputError(
                f"cross_validation: {self.dataset.root} has one training and validation part of its own. "
                "Cure: --fold_rule drawn draws folds over both together"
            )

    def cases(self, part: str) -> tuple[InstanceCase, ...]:
        """Cases of `train` or `val` of the fold, of the dataset's own `test`, or `all` there are."""
        if part == "all":
            return self.dataset.cases
        if part == "test":
            return self.dataset.part("test")
        names = self.fold.train if part == "train" else self.fold.val
        if part == "val" and 0 < self.eval_samples < len(names):
            places = np.arange(self.eval_samples) * len(names) // self.eval_samples
            names = tuple(names[place] for place in places)
        return tuple(self.dataset.case(name) for name in names)


@process_group.one_error
def open_instance_source(
    dataset_dir: str,
    store_dir: str,
    fold: int | str = 0,
    nfolds: int = 5,
    fold_seed: int = 12345,
    fold_rule: str = "auto",
    group_by: str = "",
    layout: str = "auto",
    select: str | Mapping[str, Any] = "",
    skip_broken: bool = False,
    plan: InstancePlan | None = None,
    part: str = "val",
    train_list: str = "",
    val_list: str = "",
    train_annotations: str = "",
    val_annotations: str = "",
    eval_samples: int = 0,
    num_workers: int = 0,
) -> InstanceSource:
    """Read and check a dataset and choose the fold.

    Args:
        dataset_dir: folder in COCO's layout, or with images and label maps; empty for the phantom, which is made in
            `store_dir/raw`.
        store_dir: folder for what all folds share.
        fold, nfolds, fold_seed, fold_rule: see `choose_class_fold`; the classes of an image are those of its objects.
        group_by: attribute of the images, or see `case_groups`; empty for no groups.
        layout: see `open_instances`.
        select: only images whose attributes have these values: `type=fluorescence`, several values with commas, several
            attributes with semicolons; or a mapping.
        skip_broken: leave out annotations that break a rule and images that cannot be read, instead of refusing the
            dataset.
        plan: of the model that is evaluated, whose classes the dataset must have; None for a training.
        part: of an evaluation; `test` and `all` need no training images.
        train_list, val_list: which images of the training and validation part are used: a text file with an image per
            line, or a pattern such as `images/train/a*`; empty for all. Both together make a split of their own.
        train_annotations, val_annotations: COCO file of the part instead of the only one there is, by name in
            `annotations`, or path of one in another folder of this layout.
        eval_samples: most validation images that are scored; 0 for all.
        num_workers: processes that open images of a large dataset.

    Raises:
        InputError: the dataset or the choice of the fold breaks a rule.
    """
    folder = dataset_dir
    if not dataset_dir:
        folder = str(Path(store_dir) / "raw")
        logger.info("no dataset_dir given: using the phantom images in %s", folder)
        ranks_of_folder(store_dir).first_alone(lambda: make_instance_phantom(Path(folder)))
    if eval_samples < 0:
        raise InputError(f"--eval_samples {eval_samples}: must not be negative. Cure: 0 scores all images")
    outside = plan is not None and part in ("test", "all")  # data that need not have been trained on
    classes = plan.classes if plan is not None else ()
    dataset = open_with_annotations(folder, layout, classes, skip_broken, train_annotations, val_annotations)
    dataset = select_images(dataset, select)
    pooled = fold_rule == "drawn"
    # other choices of images have files of their own, so that they do not drive each other's results out
    choice = repr((sorted(parse_select(select).items()), train_annotations, val_annotations))
    kept = Path(store_dir)
    if select or train_annotations or val_annotations:
        kept /= f"choice-{hashlib.sha256(choice.encode()).hexdigest()[:8]}"
    proxy, images = _checked_images(dataset, skip_broken, kept / INDEX_FILE, num_workers)
    readable = {case.name for case in proxy.cases}
    dataset = replace(dataset, cases=tuple(case for case in dataset.cases if case.name in readable))
    ranks = ranks_of_folder(store_dir)
    digest = ranks.of_first(lambda: objects_digest(dataset))
    report = ranks.of_first(
        lambda: _checked_objects(dataset, kept / REPORT_FILE, digest, training=not outside and not pooled)
    )
    if plan is not None and report.per_image[-1] > plan.max_detections:
        logger.warning(
            "an image holds %d objects, the model finds at most %d in an image or tile (max_detections)",
            *(round(report.per_image[-1]), plan.max_detections),
        )
    source = InstanceSource(
        dataset, report, images, Fold((), ()), _groups(dataset, proxy, group_by), False, eval_samples, digest
    )
    if outside and (part == "all" or not dataset.part("train")):
        return replace(source, fold=Fold((), tuple(sorted(case.name for case in dataset.cases))))
    if train_list and val_list:
        return replace(source, fold=listed_fold(dataset, train_list, val_list))
    is_drawn = pooled or not (dataset.part("train") and dataset.part("val"))
    # copies of an image must not be separated by a draw; a given split is left as it is, and the check warned of them
    names = [case.name for case in dataset.cases]
    groups = join_duplicates(names, source.groups, images.duplicates) if is_drawn else source.groups
    if fold == "all":  # however few there are
        every = tuple(sorted(case.name for case in dataset.cases if case.split != "test"))
        chosen = Fold(every, every)
    else:
        chosen = choose_class_fold(proxy, fold, nfolds, fold_seed, fold_rule, groups)
    train, val = restricted(chosen.train, train_list, "train_list"), restricted(chosen.val, val_list, "val_list")
    return replace(source, fold=Fold(train, val), is_drawn=is_drawn)


def objects_digest(dataset: InstanceDataset) -> str:
    """Digest of images' names and objects; of label maps, of their files."""
    content = hashlib.sha256(repr(dataset.classes).encode())
    for case in dataset.cases:
        content.update(repr((case.name, case.split, case.size)).encode())
        if case.label_path is not None:
            content.update(case.label_path.read_bytes())
        for one in case.annotations:
            counts = one.counts.tobytes() if isinstance(one.counts, np.ndarray) else one.counts
            content.update(repr((one.label, one.crowd, one.box, counts)).encode())
            for polygon in one.polygons:
                content.update(polygon.tobytes())
    return content.hexdigest()


def _checked_images(
    dataset: InstanceDataset, skip_broken: bool, index_file: Path, num_workers: int
) -> tuple[ClassificationDataset, CheckReport]:
    """The images with the classes of their objects as labels, for what does not depend on where objects are."""
    cases = tuple(ImageCase(case.name, case.path, _class_indices(case), case.split) for case in dataset.cases)
    proxy = ClassificationDataset(dataset.root, dataset.classes, cases, multi_label=True)
    try:
        return check_classification(
            proxy,
            skip_broken,
            index_file,
            training=False,
            num_workers=num_workers,
            progress=sys.stderr.isatty(),
        )
    except InputError as error:
        raise InputError(str(error).replace("--skip_unreadable", "--skip_broken")) from None


def _class_indices(case: InstanceCase) -> tuple[int, ...]:
    """Classes with objects in an image; label maps, which are not opened for this, have the only one there is."""
    return (0,) if case.label_path is not None else tuple(sorted({one.label - 1 for one in case.annotations}))


def _checked_objects(dataset: InstanceDataset, file: Path, digest: str, training: bool) -> InstanceReport:
    """The report of the objects: that of the file if it is of the same objects, since each needs its mask drawn."""
    key = f"{digest} {training} {hashlib.sha256(repr(dataset.notes).encode()).hexdigest()[:16]}"
    try:
        stored = json.loads(file.read_text(encoding="utf-8"))
        if stored["key"] == key:
            return plan_from_dict(InstanceReport, stored["report"], file)
    except (OSError, ValueError, KeyError, TypeError):  # none, or damaged: made anew
        pass
    report = check_instances(dataset, training=training)
    write_cache(file, json.dumps({"key": key, "report": asdict(report)}) + "\n")
    return report


def _groups(dataset: InstanceDataset, proxy: ClassificationDataset, group_by: str) -> dict[str, str]:
    if group_by and all(case.attributes.get(group_by) for case in dataset.cases):
        return {case.name: case.attributes[group_by] for case in dataset.cases}
    return case_groups(proxy, group_by)
