"""Groups of images that belong together, such as those of one patient, from a table or from file names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from monai_ext.datasets.class_table import COLUMNS, read_rows
from monai_ext.datasets.classification_dataset import ClassificationDataset, shortened
from monai_ext.datasets.file_names import name_without_ending
from monai_ext.errors import InputError, Problems

NAME_PREFIX = "name:"


def case_groups(dataset: ClassificationDataset, group_by: str = "") -> dict[str, str]:
    r"""Group of every image.

    Args:
        dataset: whose images need a group.
        group_by: `name:REGEX`, whose first group of parentheses is found in the file name, else in the case's name
            (`name:BloodImage_(\d+)`); a column of the dataset's table; `FILE.csv:column` of another table, which names
            images as the dataset does, or by file name, with or without ending; empty takes the groups that the
            dataset came with.

    Returns:
        Case name to group; empty if `group_by` is empty and the dataset has no groups.

    Raises:
        InputError: a wrong pattern, table or column missing, images without group or with two.
    """
    if not group_by:
        known = {case.name: case.group for case in dataset.cases if case.group}
        # an image whose patient is not known is on its own
        return {case.name: case.group or case.name for case in dataset.cases} if known else {}
    if group_by.startswith(NAME_PREFIX):
        return _from_names(dataset, group_by.removeprefix(NAME_PREFIX))
    file_part, separator, column = group_by.rpartition(":")
    if separator:
        path = Path(file_part)
        path = path if path.is_file() or path.is_absolute() else dataset.root / path
    elif dataset.table is not None:
        path = dataset.table
    else:
        path = _table_with_column(dataset.root, column)
    return _from_table(dataset, path, column)


def leaking_images(train: Iterable[str], val: Iterable[str], groups: Mapping[str, str]) -> dict[str, tuple[int, int]]:
    """Groups on both sides of a split, sorted, with their number of images in each; empty is good."""
    sides = [_count(groups[name] for name in part if name in groups) for part in (train, val)]
    return {group: (sides[0][group], sides[1][group]) for group in sorted(sides[0].keys() & sides[1].keys())}


def join_duplicates(
    names: Sequence[str], groups: Mapping[str, str], duplicates: Iterable[Sequence[str]]
) -> dict[str, str]:
    """Groups in which copies of an image belong together, so that no fold validates on what it trained on.

    Args:
        names: of all cases.
        groups: case name to group; images that are not in it are on their own.
        duplicates: names of images with equal content.
    """
    found = {name: groups.get(name, f"image {name}") for name in names}
    leader = {group: group for group in found.values()}

    def first(group: str) -> str:
        while leader[group] != group:
            group = leader[group]
        return group

    for same in duplicates:
        together = sorted({first(found[name]) for name in same if name in found})
        for group in together[1:]:
            leader[group] = together[0]
    return {name: first(group) for name, group in found.items()}


def _count(values: Iterable[str]) -> dict[str, int]:
    counted: dict[str, int] = {}
    for value in values:
        counted[value] = counted.get(value, 0) + 1
    return counted


def _from_names(dataset: ClassificationDataset, text: str) -> dict[str, str]:
    try:
        pattern = re.compile(text)
    except re.error as error:
        raise InputError(
            f"group_by: {text!r} is no regular expression ({error}). Cure: name:BloodImage_(\\d+)"
        ) from None
    if not pattern.groups:
        raise InputError(f"group_by: {text!r} has no parentheses. Cure: name:REGEX with (...) around the patient")
    groups, without = dict[str, str](), list[str]()
    for case in dataset.cases:
        match = pattern.search(case.path.name) or pattern.search(case.name)
        if match is None or not match.group(1):
            without.append(case.name)
        else:
            groups[case.name] = match.group(1)
    if without:
        raise InputError(
            f"group_by: {text!r} is not found in {len(without)} of {len(dataset.cases)} names: {shortened(without)}. "
            "Cure: a pattern that fits all"
        )
    return groups


def _from_table(dataset: ClassificationDataset, path: Path, column: str) -> dict[str, str]:
    header, rows, _ = read_rows(path)
    if column not in header:
        raise InputError(f"{path}: has no column '{column}' (group_by). Cure: choose one of {', '.join(header)}")
    lowered = {name.lower(): name for name in header}
    files = next((lowered[name] for name in (*COLUMNS["file"], "case", "name", "id") if name in lowered), header[0])
    table: dict[str, set[str]] = {}
    for row in rows:
        stored = Path(row[files].strip().replace("\\", "/")).as_posix()
        table.setdefault(stored, set()).add(row[column].strip())
    problems, groups, without = Problems(f"groups from {path}, column '{column}'"), dict[str, str](), list[str]()
    for case in dataset.cases:
        keys = (case.name, case.path.as_posix(), case.path.name, name_without_ending(case.path))
        found = next((table[key] for key in keys if key in table), {""})
        if len(found) > 1:
            problems.add(case.name, f"has several values: {', '.join(sorted(found))}", "keep one row")
        elif found == {""}:
            without.append(case.name)
        groups[case.name] = min(found)
    if without:
        problems.add(
            f"{len(without)} of {len(dataset.cases)} images",
            f"have no value: {shortened(without)}",
            f"a row for each, with the path below {dataset.root} in column '{files}'",
        )
    problems.raise_if_any()
    return groups


def _table_with_column(root: Path, column: str) -> Path:
    tables = sorted(path for path in root.glob("*.csv") if not path.name.startswith("."))
    fitting = [path for path in tables if column in read_rows(path)[0]]
    if len(fitting) != 1:
        several = "several tables have it" if fitting else f"no table in {root} has it"
        raise InputError(f"group_by: column '{column}': {several}. Cure: FILE.csv:{column}, or name:REGEX")
    return fitting[0]
