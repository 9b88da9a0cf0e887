"""BIDS-like folders as a source of conversion: `sub-XX/[ses-YY/]anat` with label maps under `derivatives`."""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from monai_ext.datasets.conversion import ConversionPlan
from monai_ext.datasets.conversion_masks import choose_classes, list_values
from monai_ext.datasets.file_names import is_hidden
from monai_ext.datasets.segmentation_dataset import Case
from monai_ext.errors import InputError, Problems

Session = tuple[str, str]  # subject and session, the latter empty where there are none
ENDINGS = (".nii.gz", ".nii")
LABEL_SUFFIXES = ("dseg", "seg", "mask")
TABLE_FILE = "cases.csv"


def is_bids(folder: Path) -> bool:
    """A folder that holds `sub-*` folders."""
    return any(path.is_dir() for path in folder.glob("sub-*"))


def plan_bids(
    folder: Path,
    suffixes: Sequence[str] = (),
    label_suffix: str = "",
    names: Sequence[str] = (),
    match: str = "",
    skip_incomplete: bool = False,
) -> ConversionPlan:
    """Plan the conversion of a BIDS-like folder; all label maps are opened.

    A case is a session of a subject. Sessions without label map become test cases.

    Args:
        folder: holds `sub-*`, perhaps `derivatives` and `participants.tsv`.
        suffixes: of the images that are the channels, in order (`T1w`, `FLAIR`); empty if there is only one.
        label_suffix: how names of label maps end (`desc-manual_dseg`); empty takes `dseg`, `seg` and `label-*_mask`.
        names: of the classes in the order of their values; empty takes those of a `*_dseg.tsv`.
        match: part of the name that images must have (`acq-iso`), where a session has several of one suffix.
        skip_incomplete: leave out sessions that lack a channel instead of refusing.

    Raises:
        InputError: one error with all problems: channels missing, several candidates, unreadable label maps.
    """
    problems = Problems(f"BIDS folder {folder}")
    images = _images(folder, match)
    channels = _channels(images, suffixes, folder)
    labels = _labels(folder, label_suffix)
    cases, skipped = list[Case](), list[str]()
    sessions = [session for session, found in sorted(images.items()) if any(s in found for s in channels)]
    for session in sessions:
        name = "_".join(part for part in session if part)
        files = [images[session].get(suffix, []) for suffix in channels]
        missing = [suffix for suffix, found in zip(channels, files, strict=True) if not found]
        for suffix, found in zip(channels, files, strict=True):
            if len(found) > 1:
                listed = ", ".join(path.name for path in found)
                problems.add(name, f"has {len(found)} images {suffix}: {listed}", "choose by --match, e.g. acq-iso")
        label = labels.get(session, [])
        if len(label) > 1:
            listed = ", ".join(str(path.relative_to(folder)) for path in label)
            problems.add(
                name, f"has {len(label)} label maps: {listed}", "choose by --label_suffix, e.g. desc-manual_dseg"
            )
        if missing and (skip_incomplete or not label):
            skipped.append(f"{name} without {', '.join(missing)}")
        elif missing:
            cure = "add it, choose other --suffixes, or --skip_incomplete True"
            problems.add(name, f"has a label map but no {', '.join(missing)}", cure)
        elif all(len(found) == 1 for found in files) and len(label) <= 1:
            cases.append(Case(name, tuple(found[0] for found in files), label[0] if label else None))
    for session in sorted(set(labels) - set(sessions)):
        listed = ", ".join(str(path.relative_to(folder)) for path in labels[session])
        problems.add("_".join(filter(None, session)), f"has a label map but no image: {listed}", "add or remove files")
    masks = [case.label for case in cases if case.label is not None]
    if not labels:
        suffix = f"*_{label_suffix}" if label_suffix else "*_dseg, *_seg or *_label-*_mask"
        problems.add("derivatives", f"no label map {suffix}.nii.gz is there", "name them with --label_suffix")
    values, _ = list_values(masks, problems)
    known = {} if names else _class_names(folder, problems)
    if not known:
        known = _name_of_mask(masks)
    if values:
        classes, class_names = choose_classes(values, names, problems, known=known)
    problems.raise_if_any()
    return ConversionPlan(
        layout="bids",
        channels=tuple(channels),
        labels=class_names,
        cases=tuple(cases),
        spatial_dims=3,
        values=classes,
        tables={TABLE_FILE: _table(folder, cases)},
        notes=(
            *([f"left out: {'; '.join(skipped)}"] if skipped else []),
            f"{TABLE_FILE} tells subject and session of every case: train with --group_by subject",
            *classes.describe(class_names),
        ),
    )


def _images(folder: Path, match: str) -> dict[Session, dict[str, list[Path]]]:
    """Images by session and suffix."""
    found: dict[Session, dict[str, list[Path]]] = defaultdict(lambda: defaultdict(list))
    for pattern in ("sub-*/anat/sub-*", "sub-*/ses-*/anat/sub-*"):
        for path in sorted(folder.glob(pattern)):
            suffix = _suffix(path)
            if suffix and suffix not in LABEL_SUFFIXES and (not match or match in path.name):
                found[_session(path)][suffix].append(path)
    return found


def _labels(folder: Path, label_suffix: str) -> dict[Session, list[Path]]:
    """Label maps by session: those under `derivatives`, else those beside the images."""
    found: dict[Session, list[Path]] = defaultdict(list)
    for pattern in ("derivatives/**/sub-*", "sub-*/**/sub-*"):
        for path in sorted(folder.glob(pattern)):
            if path.is_dir() or not _is_label(path, label_suffix):
                continue
            session = _session(path)
            beside = not path.is_relative_to(folder / "derivatives")
            if not beside or not any(p.is_relative_to(folder / "derivatives") for p in found[session]):
                found[session].append(path)
    return {session: paths for session, paths in found.items() if paths}


def _is_label(path: Path, label_suffix: str) -> bool:
    suffix = _suffix(path)
    if label_suffix:
        return bool(suffix) and _stem(path).endswith(f"_{label_suffix.strip('_')}")
    return suffix in ("dseg", "seg") or (suffix == "mask" and "_label-" in path.name)


def _channels(images: Mapping[Session, Mapping[str, list[Path]]], suffixes: Sequence[str], folder: Path) -> list[str]:
    counts: dict[str, int] = defaultdict(int)
    for found in images.values():
        for suffix in found:
            counts[suffix] += 1
    listed = ", ".join(f"{suffix} ({count} sessions)" for suffix, count in sorted(counts.items())) or "none"
    if not counts:
        raise InputError(f"{folder}: has no image sub-*/[ses-*/]anat/*.nii.gz. Cure: correct the folder, or --match")
    unknown = [suffix for suffix in suffixes if suffix not in counts]
    if unknown:
        raise InputError(f"--suffixes: no image ends in {', '.join(unknown)}. Cure: choose of {listed}")
    if len(set(suffixes)) < len(suffixes):
        raise InputError(f"--suffixes: {','.join(suffixes)} names one twice. Cure: name each channel once")
    if not suffixes and len(counts) > 1:
        raise InputError(
            f"{folder}: has images {listed}. Cure: name the channels, --suffixes {','.join(sorted(counts))}"
        )
    return list(suffixes) or list(counts)


def _class_names(folder: Path, problems: Problems) -> dict[int, str]:
    """Names by value of all `*dseg.tsv` (columns `index`, `name`)."""
    names: dict[int, str] = {}
    for path in sorted({*folder.glob("*dseg.tsv"), *folder.glob("derivatives/**/*dseg.tsv")}):
        for row in _rows(path):
            index, name = (row.get("index") or "").strip(), (row.get("name") or "").strip()
            if not index.isdecimal() or len(index) > 9 or not name:
                problems.add(path.relative_to(folder), "needs columns index (integers) and name", "correct the table")
                break
            if names.setdefault(int(index), name) != name:
                what = f"calls {index} '{name}', another table calls it '{names[int(index)]}'"
                problems.add(path.relative_to(folder), what, "make them agree, or name all classes with --labels")
    return names


def _name_of_mask(masks: Sequence[Path]) -> dict[int, str]:
    """`sub-01_label-lesion_mask`: value 1 is called lesion, if all masks say so."""
    named = {part.removeprefix("label-") for path in masks for part in _stem(path).split("_") if "label-" in part}
    return {1: named.pop()} if len(named) == 1 and all(_suffix(path) == "mask" for path in masks) else {}


def _table(folder: Path, cases: Sequence[Case]) -> str:
    """Case, subject, session, then the columns of `participants.tsv`."""
    path = folder / "participants.tsv"
    rows = _rows(path) if path.is_file() else []
    by_subject = {(row.get("participant_id") or "").strip(): row for row in rows}
    columns = [c for c in (rows[0] if rows else {}) if c and c not in ("participant_id", "case", "subject", "session")]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["case", "subject", "session", *columns])
    for case in cases:
        subject, session = _session(case.images[0])
        row = by_subject.get(subject, {})
        writer.writerow([case.name, subject, session, *(row.get(column) or "" for column in columns)])
    return text.getvalue()


def _rows(path: Path) -> list[dict[str, str]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            return list(csv.DictReader(file, delimiter="\t"))
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: is no table in UTF-8 ({error}). Cure: save it as tab-separated UTF-8") from None


def _stem(path: Path) -> str:
    return next((path.name.removesuffix(ending) for ending in ENDINGS if path.name.endswith(ending)), "")


def _suffix(path: Path) -> str:
    """`T1w` of `sub-01_ses-1_T1w.nii.gz`; empty for anything else."""
    stem = _stem(path)
    return stem.rpartition("_")[2] if "_" in stem and not is_hidden(path) else ""


def _session(path: Path) -> Session:
    parts = _stem(path).split("_")
    return parts[0], next((part for part in parts if part.startswith("ses-")), "")
