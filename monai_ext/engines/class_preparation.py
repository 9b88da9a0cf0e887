"""From a checked folder of images by class, or a table, to the point where training can start: planned, recorded."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from monai_ext.datasets.classification_dataset import ImageCase
from monai_ext.datasets.folds import Fold
from monai_ext.engines import process_group
from monai_ext.engines.class_source import ClassSource
from monai_ext.engines.data_note import note_data
from monai_ext.engines.run_protection import check_start, protect_training, record_start
from monai_ext.errors import InputError
from monai_ext.model_card.data_facts import class_facts
from monai_ext.networks.classifier_weights import plan_options_of_weights
from monai_ext.planning.class_plan import ClassPlan, architecture

logger = logging.getLogger(__name__)
SINGLE_VALUE = 32  # pixels that become one in the last stage
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class ClassPrepared:
    """What training starts from."""

    source: ClassSource
    plan: ClassPlan

    @property
    def fold(self) -> Fold:
        return self.source.fold

    @cached_property
    def train(self) -> tuple[ImageCase, ...]:
        """Training cases."""
        return self.source.cases("train")

    @cached_property
    def val(self) -> tuple[ImageCase, ...]:
        """Validation cases."""
        return self.source.cases("val")


@process_group.one_error
def prepare_class(
    source: ClassSource,
    output_dir: str,
    dataset: str,
    arch: str,
    image_size: Sequence[int] = (224,),
    channels: int = 0,
    mean: Sequence[float] = (),
    std: Sequence[float] = (),
    crop_ratio: float = 0.875,
    interpolation: str = "bilinear",
    layers: Sequence[int] = (),
    base_features: int = 0,
    se_hidden: int = 0,
    stem_pool: str = "auto",
    final_conv: bool = False,
    flip_axes: Sequence[int] = (),
    batch_size: int = 2,
    pretrained: str = "",
    resume: bool = False,
    overwrite: bool = False,
) -> ClassPrepared:
    """Plan a training and write plan and fold to `output_dir`, beside where the weights will lie.

    Args:
        source: dataset and fold.
        output_dir: folder of the run.
        dataset: name in tables and pictures.
        arch: one of `ARCHITECTURES`; `layers` and `base_features` override parts of it if they are not empty or 0.
        image_size: of the network's input; one number makes a square or cube.
        channels: 1 or 3; 0 takes 3 if any image has colour.
        mean, std: per channel of values scaled to 0 to 1; empty takes those that `pretrained` was trained with (its
            plan's, else ImageNet's for RGB), without `pretrained` those of the training images.
        crop_ratio, interpolation, se_hidden, final_conv: see `ClassPlan`.
        stem_pool: see `ClassPlan`; `auto` takes what the pretrained weights need, else `ceil`.
        flip_axes, batch_size: of the training, checked against the images.
        pretrained: file of the weights that training starts from; empty for none.
        resume: goes on with the training in `output_dir`; excludes `overwrite`.
        overwrite: a training in `output_dir` is moved to `previous-N` there.

    Raises:
        InputError: a key breaks a rule, or another training is in the folder.
    """
    check_start(resume, overwrite)
    report, channels = source.report, channels or source.report.channels
    if bool(mean) != bool(std):
        raise InputError(f"--mean {list(mean)} with --std {list(std)}: one is empty. Cure: give both or none")
    needed = plan_options_of_weights(pretrained) if pretrained else {}
    if not mean and channels == len(needed.get("mean", ())):  # a model of this package, with its plan beside it
        mean, std = needed["mean"], needed["std"]
    elif not mean and pretrained and channels == 3 and report.spatial_dims == 2:
        mean, std = IMAGENET_MEAN, IMAGENET_STD
    elif not mean:
        mean, std = report.mean_std(channels)
    parts = architecture(arch)
    parts |= {"layers": tuple(layers)} if layers else {}
    parts |= {"base_features": base_features} if base_features else {}
    if len(parts["layers"]) != 4:
        raise InputError(
            f"--layers {list(layers)}: must be four numbers, a number of blocks per stage. Cure: [1,2,2,1]"
        )
    sizes = tuple(int(size) for size in image_size)
    plan = ClassPlan(
        dataset=dataset,
        classes=source.dataset.classes,
        multi_label=source.dataset.multi_label,
        spatial_dims=report.spatial_dims,
        channels=channels,
        image_size=sizes * report.spatial_dims if len(sizes) == 1 else sizes,
        mean=tuple(round(float(value), 6) for value in mean),
        std=tuple(round(float(value), 6) for value in std),
        arch=arch,
        **parts,
        se_hidden=(se_hidden or needed.get("se_hidden", 0)) if parts["se_ratio"] else 0,
        stem_pool=needed.get("stem_pool", "ceil") if stem_pool == "auto" else stem_pool,
        final_conv=final_conv,
        crop_ratio=crop_ratio,
        interpolation=interpolation,
        value_range=report.value_range,
    )
    plan.check("keys")
    wrong = [axis for axis in flip_axes if not 0 <= axis < plan.spatial_dims]
    if wrong:
        raise InputError(
            f"--flip_axes {list(flip_axes)}: the images have {plan.spatial_dims} axes, from 0 on. "
            f"Cure: {list(range(plan.spatial_dims))} at most"
        )
    if batch_size == 1 and max(plan.image_size) <= SINGLE_VALUE:
        raise InputError(
            f"--batch_size 1 with --image_size {list(plan.image_size)}: the last batch norm would see one value. "
            "Cure: --batch_size 2 or more, or a larger --image_size"
        )
    process_group.first_alone(lambda: protect_training(Path(output_dir), plan, source.fold, overwrite, source.digest))
    logger.info("%s", report.describe())
    logger.info("plan of %s:\n%s", plan.dataset, plan.describe())
    logger.info("%d images for training, %d for validation", len(source.fold.train), len(source.fold.val))
    process_group.first_alone(
        lambda: record_start(Path(output_dir), plan, source.fold, source.digest, source.report.digests)
    )
    note_data(output_dir, lambda: class_facts(source))
    return ClassPrepared(source, plan)


def synthetic_plan(arch: str, image_size: int, num_classes: int = 1000) -> ClassPlan:
    """Plan of a network for RGB pictures of no dataset: what recipes are timed on.

    Raises:
        InputError: the architecture is unknown, or the size too small.
    """
    plan = ClassPlan(
        dataset="synthetic",
        classes=tuple(f"class {i}" for i in range(num_classes)),
        multi_label=False,
        spatial_dims=2,
        channels=3,
        image_size=(image_size, image_size),
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        arch=arch,
        **architecture(arch),
    )
    plan.check("--synthetic_size")
    return plan


def timed_plan(prepared: ClassPrepared, arch: str, synthetic_size: int) -> ClassPlan:
    """What a benchmark times: the network of a training, or with `synthetic_size` pixels one of 1000 classes."""
    return synthetic_plan(arch, synthetic_size) if synthetic_size > 0 else prepared.plan
