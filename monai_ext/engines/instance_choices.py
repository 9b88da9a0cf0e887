"""Fields of a plan that a person left open: settled by the weight file, the training objects, or the images."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from monai_ext.engines.class_preparation import IMAGENET_MEAN, IMAGENET_STD
from monai_ext.engines.instance_source import InstanceSource
from monai_ext.errors import InputError
from monai_ext.planning.anchor_report import anchor_report
from monai_ext.planning.instance_objects import ObjectBoxes, object_boxes
from monai_ext.planning.instance_plan import LEVELS, InstancePlan, architecture
from monai_ext.planning.size_values import level_sizes, not_negative, pair, ratios

logger = logging.getLogger(__name__)
ZERO_COUNTS = ("pool_sampling", "anchor_offset", "tile_overlap")  # 0 is a value of these, only `auto` leaves them open
CROP = 256  # image pixels
COCO_IMAGE = (832, 1344)
MEAN, STD = 0.5, 0.25  # of values scaled to 0 to 1, where nothing better is known
DEFAULTS = {"stem_stride": 2, "max_detections": InstancePlan.max_detections}
OVERLAP_PERCENTILE = 99.5


def settle_fields(
    given: Mapping[str, Any],
    source: InstanceSource,
    arch: str,
    resize: str,
    pretrained: str = "",
    max_objects: int = 0,
) -> dict[str, Any]:
    """Values of fields of `InstancePlan`.

    A field is open if it is `auto`, empty, or 0 where 0 is no value. Open ones are what the weights of `pretrained`
    need; else what the training objects or the images suggest; else the default of the plan.

    Args:
        given: by a person.
        source: dataset and fold.
        arch: one of `ARCHITECTURES`.
        resize: see `InstancePlan`.
        pretrained: file of weights; empty for none.
        max_objects: most objects of a crop, to state how many there are beyond; 0 for no cap.

    Raises:
        InputError: an unknown architecture, values of a wrong form, or no object to train on.
    """
    values: dict[str, Any] = {name: value for name, value in given.items() if not _is_open(name, value)}
    needed = {name: value for name, value in _needs(pretrained).items() if name in given}
    for name in sorted(values.keys() & needed.keys()):
        if _plain(values[name]) != _plain(needed[name]):
            logger.warning("--%s %s: the weights of %s need %s", name, values[name], pretrained, needed[name])
    moments = "mean" in values
    values = architecture(arch) | DEFAULTS | needed | values
    if len(values["layers"]) != 4:
        raise InputError(f"--layers {list(values['layers'])}: must be four numbers, blocks per stage. Cure: [1,2,2,1]")
    if values["stem_stride"] not in (1, 2):
        raise InputError(f"--stem_stride {values['stem_stride']}: is not known. Cure: 1 for small objects, or 2")
    _settle_images(values, source, moments, bool(pretrained))
    _settle_objects(values, source, resize, max_objects)
    return values


def _is_open(name: str, value: Any) -> bool:
    if isinstance(value, str):
        return value in ("auto", "")
    if isinstance(value, bool):
        return False
    if isinstance(value, Sequence):
        return not len(value)
    return name not in ZERO_COUNTS and value == 0


def _plain(value: Any) -> Any:
    return [_plain(one) for one in value] if isinstance(value, (list, tuple)) else value


def _needs(pretrained: str) -> dict[str, Any]:
    """Fields of the plan that the weights of a file need."""
    if not pretrained:
        return {}
    from monai_ext.networks.mask_rcnn.detector_weights import plan_options_of_detector_weights

    return plan_options_of_detector_weights(pretrained)


def _settle_images(values: dict[str, Any], source: InstanceSource, moments: bool, pretrained: bool) -> None:
    """Channels and range of values."""
    values.setdefault("channels", source.images.channels)
    values.setdefault("value_range", source.images.value_range)
    if not np.isfinite(values["value_range"]).all():
        raise InputError(
            f"value_range {list(values['value_range'])}: the images hold values that are no finite numbers. "
            "Cure: export them without NaN and infinity"
        )
    channels = values["channels"]
    if channels not in (1, 3):
        raise InputError(f"--channels {channels}: pictures become grey or RGB. Cure: 1 or 3")
    if "mean" not in values:
        as_imagenet = pretrained and channels == 3
        values["mean"] = IMAGENET_MEAN if as_imagenet else (MEAN,) * channels
        values["std"] = IMAGENET_STD if as_imagenet else (STD,) * channels
    elif not moments and len(values["mean"]) != channels:  # of weights for another number of channels
        for name in ("mean", "std"):
            values[name] = (float(np.mean(values[name])),) * channels
    for name in ("mean", "std"):
        values[name] = tuple(round(float(value), 6) for value in values[name])


def _settle_objects(values: dict[str, Any], source: InstanceSource, resize: str, max_objects: int) -> None:
    """Enlargement, anchors, the canonical size, the size of crops, and the overlap of tiles."""
    if "image_size" in values:
        values["image_size"] = pair(values["image_size"])
    elif resize == "fit":
        values["image_size"] = COCO_IMAGE
    if "anchor_sizes" in values:
        values["anchor_sizes"] = level_sizes(values["anchor_sizes"])
    if "aspect_ratios" in values:
        values["aspect_ratios"] = ratios(values["aspect_ratios"])
    for name in ("scale", "canonical_size"):
        if name in values:
            values[name] = not_negative(name, values[name])
    cases = source.cases("train")
    found = object_boxes(cases)
    if not len(found.boxes):
        raise InputError(
            f"{len(cases)} images to train on have no object. Cure: another --select, --fold or --train_list"
        )
    _state_caps(found, max_objects, values["max_detections"])
    strides = tuple(2 * int(values["stem_stride"]) * 2**level for level in range(LEVELS))
    factors = found.fit_factors(values["image_size"]) if resize == "fit" else None
    report = anchor_report(
        found.boxes,
        strides,
        found.image_sizes,
        scale=values.get("scale", 0.0),
        factors=factors,
        sizes=values.get("anchor_sizes", ()),
        aspect_ratios=values.get("aspect_ratios", InstancePlan.aspect_ratios),
        canonical_size=values.get("canonical_size", 0.0),
        offset=values.get("anchor_offset", InstancePlan.anchor_offset),
        round_anchors=values.get("round_anchors", InstancePlan.round_anchors),
    )
    logger.info("objects to train on, and anchors:\n%s", report.describe())
    for name in ("scale", "canonical_size", "anchor_sizes"):
        values.setdefault(name, getattr(report.proposal, name))
    scale, divisor = float(values["scale"]), strides[3]
    if "image_size" not in values:
        largest = np.array([case.size for case in cases]).max(axis=0)
        crop = np.minimum(CROP, largest) * scale
        values["image_size"] = tuple(int(np.ceil(side / divisor)) * divisor for side in crop)
    widths = (found.boxes[:, 2:] - found.boxes[:, :2]).max(axis=1) * (scale if factors is None else factors)
    _settle_tiles(values, widths)


def _settle_tiles(values: dict[str, Any], widths: np.ndarray) -> None:
    """Overlap of tiles: the width of all but one in 200 objects, at least an eighth of a tile, at most half of it.

    Args:
        values: of the plan.
        widths: `[G]` the longer side of each training object, network pixels.
    """
    tile = min(values["image_size"])
    if "tile_overlap" not in values:
        wanted = 8 * int(np.ceil(np.percentile(widths, OVERLAP_PERCENTILE) / 8))
        values["tile_overlap"] = min(max(wanted, tile // 8), tile // 2)
    large = int((widths > tile).sum())
    if large:
        logger.warning(
            "%d of %d training objects are larger than a crop or tile of %s pixels and are never seen whole: "
            "a larger --image_size, or a smaller --scale",
            *(large, len(widths), "x".join(map(str, values["image_size"]))),
        )


def _state_caps(found: ObjectBoxes, max_objects: int, max_detections: int) -> None:
    """Log how many training objects are beyond what is trained on at once and what can be found."""
    caps = (
        (max_objects, "max_objects", "as many, drawn anew for each crop, are trained on"),
        (max_detections, "max_detections", "as many can be found in an image or tile"),
    )
    for cap, key, what in caps:
        images, excess = found.beyond(cap) if cap > 0 else (0, 0)
        if images:
            logger.warning(
                "%d of %d training images hold more objects than --%s %d, %d in excess, most %d: %s",
                *(images, len(found.sizes), key, cap, excess, int(found.counts.max()), what),
            )
