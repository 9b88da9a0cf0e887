"""From instance segmentation data to the point where training can start: checked, split, planned."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from monai_ext.datasets.class_groups import leaking_images
from monai_ext.datasets.folds import Fold
from monai_ext.datasets.instance_dataset import InstanceCase
from monai_ext.engines import process_group
from monai_ext.engines.class_preparation import IMAGENET_MEAN, IMAGENET_STD
from monai_ext.engines.data_note import note_data
from monai_ext.engines.instance_choices import settle_fields
from monai_ext.engines.instance_source import InstanceSource, open_instance_source
from monai_ext.engines.run_protection import check_held_out, check_start, protect_training, record_start
from monai_ext.errors import InputError
from monai_ext.model_card.data_facts import instance_facts
from monai_ext.planning.instance_plan import InstancePlan, architecture

__all__ = [
    "InstancePrepared",
    "held_out_cases",
    "open_instance_source",
    "prepare_instance",
    "synthetic_plan",
    "timed_plan",
    "unseen_cases",
]
logger = logging.getLogger(__name__)
COCO_SIZES = ((32.0,), (64.0,), (128.0,), (256.0,), (512.0,))
COCO_IMAGE = (832, 1344)


@dataclass(frozen=True)
class InstancePrepared:
    """What training starts from."""

    source: InstanceSource
    plan: InstancePlan

    @property
    def fold(self) -> Fold:
        return self.source.fold

    @cached_property
    def train(self) -> tuple[InstanceCase, ...]:
        """Training cases."""
        return self.source.cases("train")

    @cached_property
    def val(self) -> tuple[InstanceCase, ...]:
        """Validation cases."""
        return self.source.cases("val")


@process_group.one_error
def prepare_instance(
    source: InstanceSource,
    output_dir: str,
    dataset: str,
    arch: str,
    image_size: Sequence[int] = (),
    resize: str = "scale",
    scale: float = 0.0,
    channels: int = 0,
    normalisation: str = "auto",
    percentiles: Sequence[float] = (),
    value_range: Sequence[float] = (),
    mean: Sequence[float] = (),
    std: Sequence[float] = (),
    norm: str = "auto",
    stem_stride: int = 0,
    stride_in_1x1: bool | str = "auto",
    anchor_sizes: str | Sequence[Sequence[float]] = "auto",
    aspect_ratios: Sequence[float] = (),
    canonical_size: float = 0.0,
    canonical_level: int = 0,
    anchor_offset: float | str = "auto",
    round_anchors: bool | str = "auto",
    pool_sampling: int | str = "auto",
    pool_aligned: bool | str = "auto",
    box_head: str = "auto",
    mask_size: int = 0,
    layers: Sequence[int] = (),
    base_features: int = 0,
    fpn_channels: int = 0,
    box_features: int = 0,
    mask_features: int = 0,
    rpn_pre_nms: int = 1000,
    rpn_post_nms: int = 1000,
    rpn_nms: float = 0.7,
    score_threshold: float = 0.05,
    box_nms: float = 0.5,
    max_detections: int = 500,
    tile_overlap: int = -1,
    label_threshold: float = 0.5,
    min_area: int = 1,
    max_objects: int = 0,
    flip_axes: Sequence[int] = (),
    pretrained: str = "",
    resume: bool = False,
    overwrite: bool = False,
) -> InstancePrepared:
    """Plan a training and write plan and fold to `output_dir`, beside where the weights will lie.

    A field left at `auto`, 0 or empty is what the weights of `pretrained` need; else what the objects of the training
    images suggest (`scale`, `anchor_sizes`, `canonical_size`: see `anchor_report`) or the images do (`channels`,
    `value_range`); else the plan's default.

    Args:
        source: dataset and fold.
        output_dir: folder of the run.
        dataset: name in tables and pictures.
        arch: one of `ARCHITECTURES`; `layers`, `base_features`, `fpn_channels`, `box_features` and `mask_features`
            override parts of it.
        image_size: network pixels (y, x), one number for both; empty takes 256 image pixels, enlarged.
        resize, scale, stem_stride, stride_in_1x1, aspect_ratios, anchor_offset, round_anchors, pool_sampling,
            pool_aligned, box_head, mask_size, norm, percentiles, normalisation: see `InstancePlan`.
        channels: 1 or 3; 0 takes 3 if any image has colour.
        value_range: of the files' values that become 0 and 1 with `--normalisation range`; empty takes (0, 255) for
            8 bits, else that of the images.
        mean, std: per channel, of values scaled to 0 to 1. Empty takes 0.5 and 0.25, without weights.
        anchor_sizes: per level, network pixels.
        canonical_size, canonical_level: network pixels, and level from P2 on; see `InstancePlan`.
        rpn_pre_nms, rpn_post_nms, rpn_nms, score_threshold, box_nms, max_detections, label_threshold, min_area: of the
            inference, see `InstancePlan`.
        tile_overlap: network pixels; -1 takes the width of the largest training objects (all but one in 200), from an
            eighth to half of a tile.
        max_objects: most objects of a crop, 0 for no cap, of which the samples are cut; here images with more are
            counted and stated, as are those with more than `max_detections`.
        flip_axes: of the training and of TTA, checked.
        pretrained: file of the weights that training starts from; empty for none.
        resume: goes on with the training in `output_dir`; excludes `overwrite`.
        overwrite: a training in `output_dir` is moved to `previous-N` there.

    Raises:
        InputError: a key breaks a rule, or another training is in the folder.
    """
    check_start(resume, overwrite)
    if bool(mean) != bool(std):
        raise InputError(f"--mean {list(mean)} with --std {list(std)}: one is empty. Cure: give both or none")
    if max_objects < 0:
        raise InputError(f"--max_objects {max_objects}: must not be negative. Cure: 200, or 0 for no cap")
    if not set(flip_axes) <= {0, 1}:
        raise InputError(f"--flip_axes {list(flip_axes)}: pictures have the axes 0 (y) and 1 (x). Cure: [0,1]")
    _require_scored_objects(source)
    values = settle_fields(
        {
            "scale": scale,
            "channels": channels,
            "normalisation": normalisation,
            "percentiles": tuple(percentiles),
            "value_range": tuple(value_range),
            "mean": tuple(mean),
            "std": tuple(std),
            "norm": norm,
            "stem_stride": stem_stride,
            "stride_in_1x1": stride_in_1x1,
            "anchor_sizes": anchor_sizes,
            "aspect_ratios": tuple(aspect_ratios),
            "canonical_size": canonical_size,
            "canonical_level": canonical_level,
            "anchor_offset": anchor_offset,
            "round_anchors": round_anchors,
            "pool_sampling": pool_sampling,
            "pool_aligned": pool_aligned,
            "box_head": box_head,
            "mask_size": mask_size,
            "layers": tuple(layers),
            "base_features": base_features,
            "fpn_channels": fpn_channels,
            "box_features": box_features,
            "mask_features": mask_features,
            "image_size": tuple(image_size),
            "max_detections": max_detections,
            "tile_overlap": tile_overlap if tile_overlap >= 0 else "auto",
        },
        source,
        arch,
        resize,
        pretrained,
        max_objects,
    )
    plan = InstancePlan(
        dataset=dataset,
        classes=source.dataset.classes,
        category_ids=source.dataset.category_ids,
        arch=arch,
        resize=resize,
        rpn_pre_nms=rpn_pre_nms,
        rpn_post_nms=rpn_post_nms,
        rpn_nms=rpn_nms,
        score_threshold=score_threshold,
        box_nms=box_nms,
        label_threshold=label_threshold,
        min_area=min_area,
        **values,
    )
    plan.check("keys")
    process_group.first_alone(lambda: protect_training(Path(output_dir), plan, source.fold, overwrite, source.digest))
    logger.info("%s", source.describe())
    logger.info("plan of %s:\n%s", plan.dataset, plan.describe())
    logger.info("%d images for training, %d for validation", len(source.fold.train), len(source.fold.val))
    process_group.first_alone(
        lambda: record_start(Path(output_dir), plan, source.fold, source.digest, source.images.digests)
    )
    note_data(output_dir, lambda: instance_facts(source))
    return InstancePrepared(source, plan)


def _require_scored_objects(source: InstanceSource) -> None:
    """Without an object to find every score is undefined, which a training would notice after its first epochs.

    Label maps are opened at the check of the dataset only, which counts the objects of a given part.
    """
    cases = source.cases("val")
    empty = all(case.label_path is None and all(one.crowd for one in case.annotations) for case in cases)
    given = {case.split for case in cases} == {"val"}
    if cases and (empty or (given and not source.report.objects.get("val", 1))):
        raise InputError(
            f"{len(cases)} images to validate on have no object. Cure: annotate some, another --fold, --val_list or "
            "--select, a larger --eval_samples, or --fold_rule drawn"
        )


def held_out_cases(
    source: InstanceSource, ckpt_path: str, plan: InstancePlan, part: str = "val"
) -> tuple[InstanceCase, ...]:
    """Cases for the evaluation of a model, none of which it was trained on.

    Args:
        source: dataset and fold.
        ckpt_path: the model.
        plan: of the model.
        part: `val`, `test`, or `all`.

    Raises:
        InputError: the model was trained on some of them or has other classes than the dataset, or there are none, or
            they have no objects to compare with.
    """
    dataset = source.dataset
    if plan.classes != dataset.classes:
        raise InputError(
            f"{ckpt_path}: was trained on the classes {list(plan.classes)}, the dataset has {list(dataset.classes)}. "
            "Cure: the dataset of the training, or one with its classes"
        )
    cases = source.cases(part)
    if not cases:
        raise InputError(f"--part {part}: {dataset.root} has no such images. Cure: --part val, or a part {part}")
    if all(case.label_path is None and not case.annotations for case in cases):
        raise InputError(
            f"--part {part}: none of the {len(cases)} images has an object to compare with. "
            "Cure: --part val, or predict them by inference"
        )
    names = tuple(sorted(case.name for case in cases))
    for group, (trained, scored) in leaking_images(source.fold.train, names, source.groups).items():
        logger.warning("group %s has %d images in training and %d among those scored", group, trained, scored)
    check_held_out(Fold(source.fold.train, names), ckpt_path, source.digest, source.images.digests)
    return cases


def unseen_cases(source: InstanceSource) -> tuple[InstanceCase, ...]:
    """What is predicted after a training: the dataset's `test` part, the validation cases if it has none."""
    return source.cases("test") or source.cases("val")


def synthetic_plan(
    arch: str, image_size: Sequence[int] = COCO_IMAGE, num_classes: int = 80, **changes: Any
) -> InstancePlan:
    """Plan of a network for RGB pictures of no dataset: what recipes are timed on.

    Args:
        arch: one of `ARCHITECTURES`.
        image_size: network pixels (y, x), one number for both.
        num_classes: without background; COCO has 80.
        changes: other fields of the plan.

    Raises:
        InputError: the architecture is unknown, or a field out of range.
    """
    sizes = tuple(int(size) for size in image_size)
    values = architecture(arch) | {
        "dataset": "synthetic",
        "classes": tuple(f"class {i}" for i in range(num_classes)),
        "category_ids": tuple(range(1, num_classes + 1)),
        "channels": 3,
        "mean": IMAGENET_MEAN,
        "std": IMAGENET_STD,
        "normalisation": "range",
        "resize": "fit",
        "image_size": sizes * 2 if len(sizes) == 1 else sizes,
        "anchor_sizes": COCO_SIZES,
        "tile_overlap": min(InstancePlan.tile_overlap, min(sizes) // 2),
        "max_detections": 100,
        "arch": arch,
    }
    plan = InstancePlan(**(values | changes))
    plan.check("--synthetic, --image_size")
    return plan


def timed_plan(prepared: InstancePrepared, arch: str, image_size: Sequence[int]) -> InstancePlan:
    """What a benchmark times: the network of a training, or with a size in pixels one for COCO's 80 classes."""
    return synthetic_plan(arch, image_size) if any(image_size) else prepared.plan
