"""From a folder of EM stacks to the point where training can start: checked, split into folds, planned."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from monai_ext.datasets.em_folds import choose_slice_fold
from monai_ext.datasets.em_phantom import make_em_phantom
from monai_ext.datasets.em_stack import EmStack, read_em_stack, scaled, value_range
from monai_ext.datasets.folds import Fold
from monai_ext.engines import process_group
from monai_ext.engines.data_note import note_data
from monai_ext.engines.folder_ranks import ranks_of_folder
from monai_ext.engines.run_protection import check_held_out, check_start, protect_training, record_start
from monai_ext.model_card.data_facts import em_facts
from monai_ext.planning.em_plan import EmPlan, make_em_plan
from monai_ext.preprocessing.slice_resize import on_canvas, resized_labels

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Slices:
    """Labelled slices, ready for the network.

    Attributes:
        names: of the slices.
        images: `[N, 1, H, W]` float32, -1 to 1.
        labels: `[N, 1, H, W]` int64, 0 membrane, 1 background.
    """

    names: tuple[str, ...]
    images: torch.Tensor
    labels: torch.Tensor


@dataclass(frozen=True)
class EmSource:
    """A stack and the fold that is trained on or validated."""

    stack: EmStack
    fold: Fold

    @cached_property
    def digest(self) -> str:
        """Of labelled images and labels: names of slices do not tell stacks apart."""
        content = hashlib.sha256(self.stack.images.tobytes())
        content.update(self.stack.labels.tobytes())
        return content.hexdigest()

    def check_size(self, plan: EmPlan) -> None:
        """Raise `InputError` if the slices are smaller than the receptive field."""
        height, width = self.stack.images.shape[1:]
        plan.check_slice(height, width, str(self.stack.folder / "train-volume.tif"))

    def slices(self, part: str, grey_values: tuple[float, float]) -> Slices:
        """Slices of `train` or `val` at full resolution."""
        names = self.fold.train if part == "train" else self.fold.val
        indices = [self.stack.slice_names.index(name) for name in names]
        images = torch.from_numpy(scaled(self.stack.images[indices], grey_values))
        labels = torch.from_numpy(self.stack.labels[indices].astype(np.int64))
        return Slices(tuple(names), images[:, None], labels[:, None])


@dataclass(frozen=True)
class EmPrepared:
    """What training starts from."""

    source: EmSource
    plan: EmPlan

    @property
    def fold(self) -> Fold:
        return self.source.fold

    @cached_property
    def train(self) -> Slices:
        """Training slices as the augmentation takes them: at full resolution, or resized and on a zero border."""
        slices = self.source.slices("train", self.plan.value_range)
        if self.plan.geometry == "tile":
            return slices
        size, margin = self.plan.output_size, self.plan.margin
        labels = resized_labels(slices.labels, size)
        # as in the reference system the border counts as membrane, should a crop bring it into the output
        return Slices(
            slices.names, on_canvas(slices.images, size, margin), on_canvas(labels, size, margin).round().long()
        )

    @cached_property
    def val(self) -> Slices:
        """Validation slices at full resolution."""
        return self.source.slices("val", self.plan.value_range)


@process_group.one_error
def open_em_source(
    dataset_dir: str,
    store_dir: str,
    fold: int | str = 0,
    nfolds: int = 5,
    fold_seed: int = 0,
    fold_rule: str = "disjoint",
) -> EmSource:
    """Read and check the three files of a stack and choose the fold.

    Args:
        dataset_dir: folder with `train-volume.tif`, `train-labels.tif`, `test-volume.tif`; empty for the phantom, which
            is made in `store_dir/raw`.
        store_dir: folder for what all folds share.
        fold, nfolds, fold_seed, fold_rule: see `choose_slice_fold`.

    Raises:
        InputError: a file or the choice of the fold breaks a rule.
    """
    folder = Path(dataset_dir)
    if not dataset_dir:
        folder = Path(store_dir) / "raw"
        logger.info("no dataset_dir given: using the phantom stack in %s", folder)
        ranks_of_folder(store_dir).first_alone(lambda: make_em_phantom(folder))
    stack = read_em_stack(folder)
    return EmSource(stack, choose_slice_fold(stack.slice_names, fold, nfolds, fold_seed, fold_rule))


@process_group.one_error
def prepare_em(
    source: EmSource,
    output_dir: str,
    dataset: str,
    geometry: str = "tile",
    patch_size: Sequence[int] = (572,),
    base_features: int = 64,
    levels: int = 4,
    upsampling: str = "conv3",
    resume: bool = False,
    overwrite: bool = False,
) -> EmPrepared:
    """Plan a training and write plan and fold to `output_dir`, beside where the weights will lie.

    Args:
        source: stack and fold.
        output_dir: folder of the run.
        dataset: name in tables and pictures.
        geometry, patch_size, base_features, levels, upsampling: see `EmPlan`; `patch_size` is its `input_size`.
        resume: goes on with the training in `output_dir`; excludes `overwrite`.
        overwrite: a training in `output_dir` is moved to `previous-N` there.

    Raises:
        InputError: a key or the stack breaks a rule, or another training is in the folder.
    """
    check_start(resume, overwrite)
    grey_values = value_range(source.stack.images)
    plan = make_em_plan(dataset, grey_values, geometry, patch_size, base_features, levels, upsampling)
    source.check_size(plan)
    process_group.first_alone(lambda: protect_training(Path(output_dir), plan, source.fold, overwrite, source.digest))
    logger.info("plan of %s:\n%s", plan.dataset, plan.describe())
    fold = source.fold
    logger.info("%d slices for training, %d for validation: %s", len(fold.train), len(fold.val), ", ".join(fold.val))
    process_group.first_alone(lambda: record_start(Path(output_dir), plan, fold, source.digest))
    note_data(output_dir, lambda: em_facts(source))
    return EmPrepared(source, plan)


def held_out_slices(source: EmSource, ckpt_path: str, plan: EmPlan) -> Slices:
    """Validation slices for the evaluation of a model, none of which it was trained on.

    Raises:
        InputError: the model was trained on some of them.
    """
    check_held_out(source.fold, ckpt_path, source.digest)
    source.check_size(plan)
    return source.slices("val", plan.value_range)
