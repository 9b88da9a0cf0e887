"""`python -m monai_ext anchors DATASET`: sizes of objects, how anchors fit them, and a proposal for the config."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from inspect import signature
from pathlib import Path
from typing import Any

from monai_ext.atomic_files import write_text
from monai_ext.datasets.instance_dataset import InstanceCase, InstanceDataset
from monai_ext.datasets.instance_open import open_instances
from monai_ext.datasets.instance_selection import select_images
from monai_ext.errors import InputError
from monai_ext.planning.anchor_report import AnchorReport, anchor_report
from monai_ext.planning.instance_objects import object_boxes
from monai_ext.planning.instance_plan import LEVELS
from monai_ext.planning.size_values import level_sizes, not_negative, pair, ratios

PARTS = ("train", "all")


def print_anchors(dataset_dir: str, options: Mapping[str, Any]) -> None:
    """What the command does; options are those of `anchors_of_dataset` as they were typed.

    Raises:
        InputError: an unknown option, or as `anchors_of_dataset`.
    """
    known = list(signature(anchors_of_dataset).parameters)[1:]
    unknown = sorted(set(options) - set(known))
    if unknown:
        listed = ", ".join(f"--{name}" for name in unknown)
        raise InputError(f"{listed}: unknown. Cure: one of {', '.join(f'--{name}' for name in known)}")
    print(anchors_of_dataset(dataset_dir, **options))


def anchors_of_dataset(
    dataset_dir: str,
    scale: float = 0.0,
    fit: int | Sequence[int] = (),
    stem_stride: int = 2,
    sizes: Any = (),
    aspect_ratios: Sequence[float] = (0.5, 1.0, 2.0),
    canonical_size: float = 0.0,
    anchor_offset: float = 0.0,
    round_anchors: bool = False,
    select: str | Mapping[str, Any] = "",
    part: str = "train",
    layout: str = "auto",
    skip_broken: bool = False,
    write: str = "",
) -> str:
    """Look at the objects of a dataset, and write the proposal to a file if one is named.

    Args:
        dataset_dir, layout, skip_broken: see `open_instances`.
        scale: network pixels per image pixel; 0 takes the proposed one.
        fit: network pixels (y, x) that images are fitted into, instead of enlarged alike.
        stem_stride: of the network: 2, or 1 for small objects.
        sizes: anchors per level to be compared with the proposal.
        aspect_ratios, canonical_size, anchor_offset, round_anchors: see `InstancePlan`.
        select: see `parse_select`.
        part: `train` looks at training images, at all where there is no such part; `all` always.
        write: JSON file for the proposal, to be given after the config of a training.

    Returns:
        Text for the console.

    Raises:
        InputError: an option or the dataset breaks a rule, or there is no object.
    """
    if stem_stride not in (1, 2):
        raise InputError(f"--stem_stride {stem_stride}: is not known. Cure: 1 for small objects, or 2")
    if part not in PARTS:
        raise InputError(f"--part {part}: is not known. Cure: one of {', '.join(PARTS)}")
    scale, canonical_size = not_negative("scale", scale), not_negative("canonical_size", canonical_size)
    aspect_ratios = ratios(aspect_ratios)
    size = pair([fit] if isinstance(fit, int) else fit) if fit else ()
    if size and scale:
        raise InputError(f"--scale {scale:g} and --fit {list(size)} exclude each other. Cure: give one of them")
    compared = level_sizes(sizes) if sizes else ()
    dataset = select_images(open_instances(dataset_dir, layout, skip_broken=skip_broken), select)
    cases = _cases(dataset, part)
    found = object_boxes(cases)
    if not len(found.boxes):
        raise InputError(f"{dataset.root}: {len(cases)} images have no object. Cure: annotate some, or --part all")
    report = anchor_report(
        found.boxes,
        tuple(2 * stem_stride * 2**level for level in range(LEVELS)),
        found.image_sizes,
        scale=scale,
        factors=found.fit_factors(size) if size else None,
        sizes=compared,
        aspect_ratios=aspect_ratios,
        canonical_size=canonical_size,
        offset=anchor_offset,
        round_anchors=round_anchors,
    )
    sampled = f", a sample of {len(found.sizes)}" if len(found.sizes) < len(cases) else ""
    lines = [f"{dataset.name}: {len(cases)} images{sampled}", found.describe(), report.describe()]
    if write:
        _write(Path(write), json.dumps(_overlay(report, stem_stride, size, aspect_ratios), indent=4) + "\n")
        lines.append(f"written to {write}: --config_file \"['bundles/mask_rcnn/configs/train.json','{write}']\"")
    return "\n".join(lines)


def _write(path: Path, text: str) -> None:
    if path.suffix.lower() != ".json" or path.is_dir():
        raise InputError(f"--write {path}: is no name of a JSON file. Cure: a name that ends in .json")
    if path.exists():
        raise InputError(f"--write {path}: exists already. Cure: another name, or remove it")
    try:
        write_text(path, text)
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"--write {path}: cannot be written ({reason}). Cure: a writable folder") from error


def _cases(dataset: InstanceDataset, part: str) -> tuple[InstanceCase, ...]:
    """Training images where there are any and they are wanted; else all but those that are to be predicted."""
    trained = dataset.part("train")
    if part == "train" and trained:
        return trained
    return tuple(c for c in dataset.cases if c.split != "test" or c.label_path is not None or c.annotations)


def _overlay(
    report: AnchorReport, stem_stride: int, fit: Sequence[int], aspect_ratios: Sequence[float]
) -> dict[str, Any]:
    """Keys of the bundle; all that the proposed sizes hold for."""
    keys = report.proposal.overlay() | {"stem_stride": stem_stride, "aspect_ratios": list(aspect_ratios)}
    if fit:
        del keys["scale"]
        return {"resize": "fit", "image_size": list(fit), **keys}
    return {"resize": "scale", **keys}
