"""Classification data as a CSV table: a file and its label or labels in each row."""

from __future__ import annotations

import csv
import difflib
import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from monai_ext.datasets.classification_dataset import (
    SPLIT_NAMES,
    ClassificationDataset,
    ImageCase,
    class_order,
    shortened,
)
from monai_ext.datasets.confined_path import CURE, path_fault, shown
from monai_ext.datasets.file_names import IMAGE_ENDINGS, image_ending
from monai_ext.errors import InputError, Problems

TABLE_NAME = "labels.csv"
CLASSES_NAME = "classes.txt"
# the first name of each column is the documented one
COLUMNS = {
    "file": ("file", "path", "image", "filename", "file_name"),
    "label": ("label", "labels", "class"),
    "split": ("split", "subset"),
}
GROUP_COLUMNS = ("group", "patient", "patient_id", "subject", "subject_id")
SEPARATORS = re.compile(r"[;|]")


def is_class_table(path: str | Path) -> bool:
    """A CSV file, or a folder that holds `labels.csv`."""
    path = Path(path)
    return (path.is_file() and path.suffix.lower() == ".csv") or (path / TABLE_NAME).is_file()


def read_class_table(
    path: str | Path, image_dir: str | Path = "", multi_label: bool | str = "auto", classes: Sequence[str] = ()
) -> ClassificationDataset:
    """Read a table with the columns `file`, `label` and, if there is one, `split` (train, val, test).

    Several labels of an image are separated by `;` or `|`, which makes the dataset multi-label; a multi-label image
    without label belongs to no class. Further columns are kept for groups; one called `group` or `patient` is the group
    of the case. Labels are names; where `classes.txt` (a name per line) lies beside the table, or `classes` is given,
    they may be numbers from 0 as well. Files without ending get the ending of the image that is there.

    Args:
        path: CSV file (UTF-8, separated by commas, semicolons or tabs), or a folder with `labels.csv`.
        image_dir: what files are relative to and must lie in; empty takes the folder of the table.
        multi_label: True, False, or `auto`: if any image has several labels.
        classes: names in the order that a model has them; empty takes `classes.txt`, else the labels that occur.

    Raises:
        InputError: one error with all problems: columns missing or unknown, files missing, listed twice or outside
            the folder (see `confined_path`), labels missing, unknown or out of range, parts that are not known.
    """
    path = Path(path)
    path = path / TABLE_NAME if path.is_dir() else path
    header, rows, lines = read_rows(path)
    problems, notes = Problems(f"table {path}"), list[str]()
    columns = _columns(header, problems)
    problems.raise_if_any()
    root = Path(image_dir) if image_dir else path.parent
    given = tuple(classes) or _class_names(path.parent / CLASSES_NAME)
    labels = [[part.strip() for part in SEPARATORS.split(row[columns["label"]]) if part.strip()] for row in rows]
    several = any(len(found) > 1 for found in labels)
    if multi_label is False and several:
        first = next(number for number, found in enumerate(labels) if len(found) > 1)
        problems.add(
            f"line {lines[first]}",
            f"has {len(labels[first])} labels, multi_label is off",
            "--multi_label True, or one label",
        )
    several = several if multi_label == "auto" else bool(multi_label)
    files = _files(rows, lines, columns["file"], root, problems)
    splits = _splits(rows, columns.get("split", ""), problems)
    unlabelled = [
        f"line {lines[n]}" for n, found in enumerate(labels) if not found and splits[n] != "test" and not several
    ]
    if unlabelled:
        problems.add(
            f"{len(unlabelled)} rows", f"have no label: {shortened(unlabelled)}", "fill it in or delete the row"
        )
    order = given or class_order({label for found in labels for label in found})
    index = _label_index(order, bool(given), labels, problems)
    group_column = next((name for name in header if name.strip().lower() in GROUP_COLUMNS), "")
    further = [name for name in header if name not in columns.values()]
    if further:
        notes.append(f"further columns, not used but for groups: {shortened(further)}")
    problems.raise_if_any()
    cases = [
        ImageCase(
            name, file, tuple(sorted({index[label] for label in found})), split, row.get(group_column, "").strip()
        )
        for row, (name, file), found, split in zip(rows, files, labels, splits, strict=True)
    ]
    return ClassificationDataset(
        root, order, tuple(sorted(cases, key=lambda case: case.name)), several, table=path, notes=tuple(notes)
    )


def read_rows(path: Path) -> tuple[list[str], list[dict[str, str]], list[int]]:
    """Column names, rows and line numbers of a table; line 1 tells whether commas, semicolons or tabs separate.

    Raises:
        InputError: no file, not UTF-8, no rows, a column twice, rows of another length.
    """
    if not path.is_file():
        raise InputError(f"{path}: table does not exist. Cure: correct the path")
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            first = file.readline()
            file.seek(0)
            reader = csv.reader(file, delimiter=max(",;\t", key=first.count))
            lines = [(reader.line_num, line) for line in reader if any(cell.strip() for cell in line)]
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: not a CSV table in UTF-8 ({error}). Cure: export it as CSV, UTF-8") from None
    if len(lines) < 2:
        raise InputError(f"{path}: has no rows. Cure: a first line file,label, then a line per image")
    header = [name.strip() for name in lines[0][1]]
    problems = Problems(f"table {path}")
    twice = sorted(name for name, count in Counter(header).items() if count > 1)
    if twice:
        problems.add("line 1", f"has columns twice: {', '.join(map(repr, twice))}", "one name per column")
    wrong = [f"line {number}" for number, line in lines[1:] if len(line) != len(header)]
    if wrong:
        problems.add(
            f"{len(wrong)} rows",
            f"have not {len(header)} cells like line 1: {shortened(wrong)}",
            "quote cells with commas",
        )
    problems.raise_if_any()
    return header, [dict(zip(header, line, strict=True)) for _, line in lines[1:]], [number for number, _ in lines[1:]]


def _columns(header: Sequence[str], problems: Problems) -> dict[str, str]:
    """Column of the table for `file`, `label` and `split`."""
    lowered = {name.strip().lower(): name for name in header}
    found = {
        role: lowered[next(name for name in names if name in lowered)]
        for role, names in COLUMNS.items()
        if any(name in lowered for name in names)
    }
    for role in ("file", "label"):
        if role not in found:
            problems.add(
                "line 1", f"has no column '{role}', columns are {', '.join(header)}", f"name a column '{role}'"
            )
    known = {*found.values(), *(lowered[name] for name in GROUP_COLUMNS if name in lowered)}
    for name in header:
        # a column misspelt is a split or label that silently does not count
        near = difflib.get_close_matches(name.strip().lower(), COLUMNS, n=1, cutoff=0.75)
        if name not in known and near and near[0] not in found:
            problems.add("line 1", f"has an unknown column '{name}'", f"call it '{near[0]}', or something unlike it")
    return found


def _class_names(path: Path) -> tuple[str, ...]:
    if not path.is_file():
        return ()
    try:
        names = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text ({error}). Cure: a class name per line, UTF-8") from None
    twice = sorted(name for name, count in Counter(names).items() if count > 1)
    if twice or not names:
        what = f"holds names twice: {', '.join(twice)}" if twice else "is empty"
        raise InputError(f"{path}: {what}. Cure: each class name in one line, in the order of the numbers")
    return tuple(names)


def _files(
    rows: list[dict[str, str]], lines: list[int], column: str, root: Path, problems: Problems
) -> list[tuple[str, Path]]:
    """Case name and path of each row."""
    found, missing, unknown = list[tuple[str, Path]](), list[str](), list[str]()
    faults: dict[str, list[str]] = {}
    for number, row in zip(lines, rows, strict=True):
        stored = row[column].strip().replace("\\", "/")
        if not stored:
            problems.add(f"line {number}", "names no file", "fill it in or delete the row")
        fault = path_fault(root, stored) if stored else ""
        if fault:
            faults.setdefault(fault, []).append(shown(stored))
            found.append((f"line {number}", root))
            continue
        path = Path(os.path.normpath(root / stored))
        if not image_ending(path) and not path.exists():
            path = next(
                (file for file in (path.with_name(path.name + e) for e in IMAGE_ENDINGS) if file.is_file()), path
            )
        if stored and not path.is_file():
            missing.append(stored)
        elif stored and path.suffix and not image_ending(path) and path.suffix.lower() != ".dcm":
            unknown.append(stored)
        base = Path(os.path.normpath(root))
        found.append(((path.relative_to(base) if path.is_relative_to(base) else path).as_posix(), path))
    for fault, named in faults.items():
        where = f"{len(named)} of {len(rows)} files ({shortened(named)})"
        problems.add(where, f"each {fault} {root}", f"--image_dir, the folder they are in; {CURE}")
    if missing:
        problems.add(
            f"{len(missing)} of {len(rows)} files",
            f"do not exist in {root}: {shortened(missing)}",
            "restore them, or give --image_dir, the folder that files are relative to",
        )
    if unknown:
        problems.add(
            f"{len(unknown)} files",
            f"are no images by their names: {shortened(unknown)}",
            f"one of {', '.join(IMAGE_ENDINGS)}, .dcm",
        )
    places: dict[str, list[int]] = {}
    for number, (name, _) in zip(lines, found, strict=True):
        places.setdefault(name, []).append(number)
    twice = [f"{name} (lines {', '.join(map(str, at))})" for name, at in places.items() if len(at) > 1 and name != "."]
    if twice:
        problems.add(
            f"{len(twice)} files",
            f"are listed more than once: {shortened(twice)}",
            "one row each, labels joined by ';'",
        )
    return found


def _splits(rows: list[dict[str, str]], column: str, problems: Problems) -> list[str]:
    if not column or not any(row[column].strip() for row in rows):
        return [""] * len(rows)
    values = [row[column].strip() for row in rows]
    wrong = sorted({value or "(empty)" for value in values if value.lower() not in SPLIT_NAMES})
    if wrong:
        count = sum(value.lower() not in SPLIT_NAMES for value in values)
        problems.add(
            f"column '{column}'", f"holds other values in {count} rows: {shortened(wrong)}", "train, val or test"
        )
    return [SPLIT_NAMES.get(value.lower(), "") for value in values]


def _label_index(
    order: Sequence[str], given: bool, labels: Sequence[Sequence[str]], problems: Problems
) -> dict[str, int]:
    """Class number of every label that occurs."""
    index = {name: number for number, name in enumerate(order)}
    if not given:
        negative = sorted(name for name in order if re.fullmatch(r"-\d+", name))
        if negative and all(name.lstrip("-").isdecimal() for name in order):
            problems.add(
                "labels",
                f"are out of range: {', '.join(negative)}",
                "numbers from 0; delete rows whose label is unknown",
            )
        return index
    for name in sorted({label for found in labels for label in found} - index.keys()):
        count = sum(name in found for found in labels)
        if re.fullmatch(r"-?\d+", name) and not any(known.isdecimal() for known in order):
            if 0 <= int(name) < len(order):
                index[name] = int(name)
                continue
            problems.add(
                f"label {name}",
                f"is out of range in {count} rows",
                f"0 to {len(order) - 1}, or one of {shortened([*order])}",
            )
        else:
            problems.add(f"label '{name}'", f"is no class, in {count} rows", f"one of {shortened([*order])}")
    return index
