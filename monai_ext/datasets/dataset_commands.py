"""`python -m monai_ext dataset ...`: check a dataset, or convert one from another layout."""

from __future__ import annotations

import difflib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from monai_ext.errors import InputError

if TYPE_CHECKING:
    from monai_ext.datasets.conversion import ConversionPlan
    from monai_ext.datasets.dataset_check import CaseReport
    from monai_ext.datasets.segmentation_dataset import SegmentationDataset

LAYOUTS = ("nnunet", "bids", "folders")
TRAIN = "python -m monai.bundle run training --config_file bundles/nnunet/configs/train.json"
FEW_CASES = 32  # fewer are checked faster than worker processes start
LISTED_SIZES = 6


class DatasetCommands:
    """Datasets: check one, or convert one to the format of the Medical Segmentation Decathlon."""

    def check(self, folder: str, num_workers: int = -1, **unknown: Any) -> None:
        """Open every file of a dataset; print all problems, or what it holds and the next command.

        Args:
            folder: with dataset.json (Decathlon or nnU-Net raw form).
            num_workers: processes; -1 is one per CPU for larger datasets.
        """
        _refuse_unknown(unknown, ("num_workers",))
        from monai_ext.datasets.dataset_check import inspect_dataset
        from monai_ext.datasets.msd import read_msd

        path = Path(str(folder))
        if path.is_dir() and not (path / "dataset.json").is_file() and (layout := _detected(path)):
            raise InputError(
                f"{path}: has no dataset.json, but is of the layout '{layout}'. "
                f"Cure: python -m monai_ext dataset convert {path} NEW_FOLDER"
            )
        dataset = read_msd(path)
        workers = _workers(num_workers, len(dataset.training) + len(dataset.test))
        reports, warnings = inspect_dataset(dataset, workers, progress=True, mixed_sizes=True)
        print(summary(dataset, reports, warnings))

    def convert(
        self,
        source: str,
        target: str,
        layout: str = "",
        suffixes: Any = "",
        label_suffix: str = "",
        match: str = "",
        skip_incomplete: bool = False,
        images: str = "",
        masks: str = "",
        labels: Any = "",
        channels: Any = "",
        above: int | None = None,
        background: int | None = None,
        colour: str = "",
        num_workers: int = -1,
        **unknown: Any,
    ) -> None:
        """Write a dataset in Decathlon form to a new folder; the source stays as it is.

        Args:
            source: nnU-Net raw folder, BIDS-like folder, or folder of images and masks.
            target: new folder; it appears only when complete and checked.
            layout: nnunet, bids or folders; detected if left away.
            suffixes: bids: images that are the channels, in order, e.g. T1w,FLAIR.
            label_suffix: bids: how names of label maps end, e.g. desc-manual_dseg.
            match: bids: part of the name that images must have, e.g. acq-iso.
            skip_incomplete: bids: leave out sessions that lack a channel.
            images: folders: name of the folder of images.
            masks: folders: name of the folder of masks.
            labels: bids, folders: class names in the order of the stored values, e.g. background,nucleus.
            channels: folders: channel names, e.g. CT.
            above: folders: stored values above this are class 1, others background.
            background: folders: stored value that is the background; the lowest if left away.
            colour: folders: rgb or grey turns all pictures into one kind.
            num_workers: processes of the check; -1 is one per CPU for larger datasets.
        """
        options = {
            "suffixes": _words(suffixes),
            "label_suffix": str(label_suffix),
            "match": str(match),
            "skip_incomplete": skip_incomplete,
            "images": str(images),
            "masks": str(masks),
            "labels": _words(labels),
            "channels": _words(channels),
            "above": above,
            "background": background,
            "colour": str(colour),
        }
        _refuse_unknown(unknown, ("layout", "num_workers", *options))
        for name in ("above", "background"):
            value = options[name]
            if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
                raise InputError(f"--{name} {value}: must be a whole number. Cure: a value that the masks hold")
        from monai_ext.datasets.conversion import require_free_target, write_dataset

        folder, new = Path(str(source)), Path(str(target))
        require_free_target(folder, new)
        plan = plan_conversion(folder, str(layout), options)
        workers = _workers(num_workers, len(plan.cases))
        dataset, reports, warnings = write_dataset(plan, new, workers, progress=True)
        print(f"converted {folder} (layout {plan.layout}) to {new}")
        for note in plan.notes:
            print(f"  {note}")
        print(summary(dataset, reports, warnings))


def plan_conversion(folder: Path, layout: str, options: dict[str, Any]) -> ConversionPlan:
    """Detect the layout unless it is given, and plan the conversion.

    Raises:
        InputError: unknown or unrecognised layout, options of another layout, or problems of the source.
    """
    if layout and layout not in LAYOUTS:
        raise InputError(f"--layout {layout}: unknown. Cure: choose one of {', '.join(LAYOUTS)}")
    layout = layout or ("folders" if options["images"] or options["masks"] else _detected(folder))
    used = {
        "nnunet": (),
        "bids": ("suffixes", "label_suffix", "match", "skip_incomplete", "labels"),
        "folders": ("images", "masks", "labels", "channels", "above", "background", "colour"),
    }
    if not layout:
        raise InputError(
            f"{folder}: no layout recognised, neither nnunet (dataset.json, imagesTr), nor bids (sub-*), nor folders "
            "(images and masks, or NAME.png and NAME_mask.png). Cure: --images NAME --masks NAME, or --layout"
        )
    useless = [name for name, value in options.items() if _is_given(value) and name not in used[layout]]
    if useless:
        allowed = ", ".join(f"--{name}" for name in used[layout]) or "none"
        raise InputError(
            f"--{', --'.join(useless)}: not for the layout {layout}. Cure: leave it away; this layout takes {allowed}"
        )
    if layout == "nnunet":
        from monai_ext.datasets.nnunet_layout import plan_nnunet

        return plan_nnunet(folder)
    given = {name: options[name] for name in used[layout] if name != "labels"} | {"names": options["labels"]}
    if layout == "bids":
        from monai_ext.datasets.bids_layout import plan_bids

        return plan_bids(folder, **given)
    from monai_ext.datasets.image_folder import plan_image_folder

    return plan_image_folder(folder, **given)


def summary(dataset: SegmentationDataset, reports: Sequence[CaseReport], warnings: Sequence[str]) -> str:
    """What a checked dataset holds, warnings, and the command to type next."""
    kind = "images" if dataset.spatial_dims == 2 else "volumes"
    labelled = {case.name for case in dataset.training}
    held = [report.values for report in reports if report.name in labelled]
    lines = [
        f"{dataset.root}: {len(dataset.training)} {kind} with label, {len(dataset.test)} without; no problem found",
        f"channels: {', '.join(dataset.channels)}",
        "classes, and in how many labels they are:",
    ]
    width = max(map(len, dataset.labels))
    for name, value in dataset.labels.items():
        lines.append(f"  {value:>3} {name:<{width}}  {sum(value in values for values in held)} of {len(held)}")
    sizes = [tuple(reversed(report.shape)) for report in reports]
    spacings = [tuple(reversed(report.spacing)) for report in reports if report.spacing is not None]
    lines += [f"size (x, y, z): {_range(sizes)}", f"spacing (x, y, z) in mm: {_range(spacings)}"]
    different = sorted(set(sizes), key=lambda size: (-sizes.count(size), size))
    mixed = dataset.spatial_dims == 2 and len(different) > 1
    if mixed:
        most = ", ".join(f"{x}x{y} ({sizes.count((x, y, z))})" for x, y, z in different[:LISTED_SIZES])
        more = f" and {len(different) - LISTED_SIZES} more" if len(different) > LISTED_SIZES else ""
        lines.append(f"sizes differ: {most}{more}")
    if warnings:
        lines.append(f"{len(warnings)} warnings:" if len(warnings) > 1 else "1 warning:")
        lines += [f"  - {warning}" for warning in warnings]
    options = " --spatial_dims 2" * (dataset.spatial_dims == 2) + " --mixed_sizes True" * mixed
    table = " --group_by subject" if _has_subjects(dataset.root) else ""
    return "\n".join([*lines, f"next: {TRAIN} --dataset_dir {dataset.root}{options}{table}"])


def _range(values: Sequence[tuple[float, ...]]) -> str:
    def joined(numbers: Sequence[float]) -> str:
        return "x".join(f"{number:g}" for number in numbers)

    axes = [sorted(axis) for axis in zip(*values, strict=True)]
    low, middle, high = ([axis[place] for axis in axes] for place in (0, len(values) // 2, -1))
    if low == high:
        return joined(low)
    return f"{joined(low)} to {joined(high)}, median {joined(middle)}"


def _has_subjects(folder: Path) -> bool:
    table = folder / "cases.csv"
    return table.is_file() and "subject" in table.read_text(encoding="utf-8").split("\n", 1)[0].split(",")


def _detected(folder: Path) -> str:
    from monai_ext.datasets.bids_layout import is_bids
    from monai_ext.datasets.image_folder import is_image_folder
    from monai_ext.datasets.nnunet_layout import is_nnunet

    tests = {"nnunet": is_nnunet, "bids": is_bids, "folders": is_image_folder}
    return next((layout for layout, fits in tests.items() if fits(folder)), "")


def _is_given(value: Any) -> bool:
    return value is not None and value is not False and value not in ("", ())


def _words(value: Any) -> tuple[str, ...]:
    """`a,b` as the command line gives it: text, a tuple of words, or one number."""
    parts = value if isinstance(value, tuple | list) else str(value).split(",")
    return tuple(str(part).strip() for part in parts if str(part).strip())


def _workers(wanted: int, cases: int) -> int:
    if wanted >= 0:
        return wanted
    return 0 if cases < FEW_CASES else len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 4


def _refuse_unknown(unknown: dict[str, Any], known: Sequence[str]) -> None:
    """fire would run the command first and complain about a misspelt option afterwards."""
    if unknown:
        name = next(iter(unknown))
        near = difflib.get_close_matches(name, known, n=1)
        hint = f" (nearest: --{near[0]})" if near else ""
        raise InputError(f"--{name}: unknown option{hint}. Cure: options are {', '.join(f'--{k}' for k in known)}")
