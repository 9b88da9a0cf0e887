"""Cross-validation folds: by case, by group (patient, scanner, site), or from a file."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from monai_ext.datasets.segmentation_dataset import SegmentationDataset
from monai_ext.errors import InputError, Problems

CASE_COLUMNS = ("case", "name", "id")


@dataclass(frozen=True)
class Fold:
    """Names of the cases to train on and to validate on, both sorted."""

    train: tuple[str, ...]
    val: tuple[str, ...]


def make_folds(
    names: Sequence[str], nfolds: int = 5, fold_seed: int = 12345, groups: Mapping[str, str] | None = None
) -> list[Fold]:
    """Split cases into folds; every case is validated exactly once.

    Without groups the split is that of nnU-Net v1 and v2: sorted names, K-fold with a shuffle seeded 12345. With
    groups no group is on both sides of a fold; the groups, largest first and in seeded random order among equals, go
    to the fold with the fewest cases.

    Args:
        names: case names, in any order.
        nfolds: number of folds, at least 2.
        fold_seed: seed of the shuffle, 0 to 2**32 - 1.
        groups: case name to group name.

    Raises:
        InputError: fewer than two folds, more folds than cases or groups, a name twice, a case without a group.
    """
    ordered = sorted(names)
    repeated = sorted(name for name, count in Counter(ordered).items() if count > 1)
    if repeated:
        raise InputError(f"case names must be unique, found twice: {_shortened(repeated)}. Cure: rename the files")
    if nfolds < 2:
        raise InputError(f"nfolds must be at least 2, found {nfolds}. Cure: 5, or fold=all to train on every case")
    if not 0 <= fold_seed < 2**32:
        raise InputError(f"fold_seed must be 0 to 4294967295, found {fold_seed}. Cure: leave it at 12345")
    # published splits depend on this generator: scikit-learn's KFold draws from the legacy RandomState
    shuffler = np.random.RandomState(fold_seed)
    if groups is None:
        blocks = _blocks_of_cases(ordered, nfolds, shuffler)
    else:
        blocks = _blocks_of_groups(ordered, nfolds, shuffler, groups)
    folds = []
    for block in blocks:
        held_out = set(block)
        folds.append(Fold(tuple(name for name in ordered if name not in held_out), tuple(sorted(block))))
    return folds


def read_groups(dataset: SegmentationDataset, group_by: str) -> dict[str, str]:
    """Read the group of every training case from a table.

    Args:
        dataset: whose training cases need a group.
        group_by: `FILE.csv:column`, or only `column`, which is then looked for in `*.csv` in the dataset folder and in
            `<folder name>_cases.csv` beside it. The case names are in a column `case`, `name` or `id`, else the first.

    Returns:
        Case name to group, for the training cases.

    Raises:
        InputError: file or column missing, several tables with the column, cases missing, without value or in
            conflict.
    """
    file_part, separator, column = group_by.rpartition(":")
    if not column:
        raise InputError(f"group_by: no column given in '{group_by}'. Cure: FILE.csv:column")
    if separator:
        path = Path(file_part)
        if not path.is_file() and (dataset.root / path).is_file():
            path = dataset.root / path
        if not path.is_file():
            raise InputError(f"{path}: table of groups (group_by) does not exist. Cure: correct the path before ':'")
    else:
        path = _table_with_column(dataset.root, column)
    header, rows = _read_table(path)
    if column not in header:
        raise InputError(f"{path}: has no column '{column}'. Cure: choose one of {', '.join(header)}")
    case_column = next((h for h in header if h.strip().lower() in CASE_COLUMNS), header[0])
    problems, found = Problems(f"groups from {path}, column '{column}'"), dict[str, str]()
    wanted = {case.name for case in dataset.training}
    for row in rows:
        name, group = (row.get(case_column) or "").strip(), (row.get(column) or "").strip()
        if name not in wanted:
            continue
        if not group:
            problems.add(name, "has no value", "fill it in")
        if found.get(name, group) != group:
            problems.add(name, f"is listed as '{found[name]}' and as '{group}'", "keep one row")
        found[name] = group
    missing = sorted(wanted - found.keys())
    if missing:
        problems.add(
            f"{len(missing)} of {len(wanted)} cases",
            f"not in column '{case_column}': {_shortened(missing)}",
            "add a row for each; names are file names without ending",
        )
    problems.raise_if_any()
    return found


def leaking_groups(folds: Sequence[Fold], groups: Mapping[str, str]) -> list[str]:
    """Groups that are in the training and in the validation part of one fold, sorted; empty is good."""
    leaking: set[str] = set()
    for fold in folds:
        if fold.train != fold.val:  # fold `all` validates on what it trains on, and says so
            leaking |= {groups[n] for n in fold.train if n in groups} & {groups[n] for n in fold.val if n in groups}
    return sorted(leaking)


def load_splits(path: Path, names: Sequence[str]) -> list[Fold]:
    """Read folds from a file in the form of nnU-Net's `splits_final.json`: `[{"train": [...], "val": [...]}, ...]`.

    Cases may be left out. All problems are reported at once.

    Raises:
        InputError: file missing, not JSON, another form, unknown or repeated names, empty or overlapping parts.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: file of folds does not exist. Cure: correct the path, or leave the key out")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise InputError(
            f"{path}: not JSON, line {error.lineno}, column {error.colno}: {error.msg}. Cure: correct that place"
        ) from None
    except (ValueError, RecursionError) as error:  # not UTF-8, numbers of thousands of digits, too deeply nested
        raise InputError(f"{path}: not JSON that can be read ({error}). Cure: write it as nnU-Net does") from None
    problems = Problems(f"folds in {path}")
    form = 'a list of {"train": [names], "val": [names]}'
    if not isinstance(content, list) or not content:
        raise InputError(f"{path}: must be {form}, found {type(content).__name__}. Cure: write one entry per fold")
    folds, known = [], set(names)
    for index, entry in enumerate(content):
        parts = [entry.get(key) if isinstance(entry, dict) else None for key in ("train", "val")]
        if not all(isinstance(part, list) and all(isinstance(n, str) for n in part) for part in parts):
            problems.add(f"fold {index}", f"must be an entry of {form}", "write both lists")
            continue
        train, val = (list(part or []) for part in parts)
        for key, part in (("train", train), ("val", val)):
            unknown = sorted(set(part) - known)
            repeated = sorted(n for n, count in Counter(part).items() if count > 1)
            if not part:
                problems.add(f"fold {index}", f"'{key}' is empty", "give it at least one case")
            if unknown:
                problems.add(
                    f"fold {index}", f"'{key}' names {len(unknown)} unknown cases: {_shortened(unknown)}", "remove them"
                )
            if repeated:
                problems.add(f"fold {index}", f"'{key}' names twice: {_shortened(repeated)}", "keep one")
        both = sorted(set(train) & set(val))
        if both:
            problems.add(f"fold {index}", f"in train and in val: {_shortened(both)}", "keep each on one side")
        folds.append(Fold(tuple(sorted(train)), tuple(sorted(val))))
    problems.raise_if_any()
    return folds


def select_fold(folds: Sequence[Fold], fold: int | Literal["all"] | str) -> Fold:
    """The fold to train; `all` trains and validates on every case (no held-out score).

    Raises:
        InputError: no such fold; the message lists the allowed values.
    """
    if fold == "all":
        every = tuple(sorted({name for part in folds for name in (*part.train, *part.val)}))
        return Fold(every, every)
    allowed = f"Cure: choose one of {', '.join(str(i) for i in range(len(folds)))} or all"
    if isinstance(fold, str) and fold.strip().isdecimal():
        fold = int(fold)
    if isinstance(fold, bool) or not isinstance(fold, int) or not 0 <= fold < len(folds):
        raise InputError(f"fold {fold!r} does not exist, there are {len(folds)} folds. {allowed}")
    return folds[fold]


def _blocks_of_cases(ordered: list[str], nfolds: int, shuffler: np.random.RandomState) -> list[list[str]]:
    if nfolds > len(ordered):
        raise InputError(
            f"{nfolds} folds need {nfolds} cases, found {len(ordered)}. Cure: set nfolds to 2 or more cases"
        )
    order = np.arange(len(ordered))
    shuffler.shuffle(order)
    return [[ordered[i] for i in block] for block in np.array_split(order, nfolds)]


def _blocks_of_groups(
    ordered: list[str], nfolds: int, shuffler: np.random.RandomState, groups: Mapping[str, str]
) -> list[list[str]]:
    without = [name for name in ordered if name not in groups]
    if without:
        raise InputError(f"{len(without)} cases have no group: {_shortened(without)}. Cure: add them to the table")
    members: dict[str, list[str]] = {}
    for name in ordered:
        members.setdefault(groups[name], []).append(name)
    if nfolds > len(members):
        raise InputError(
            f"{nfolds} folds need {nfolds} groups, found {len(members)} ({_shortened(sorted(members))}). "
            f"Cure: set nfolds to {len(members)} or less, or group by another column"
        )
    keys = sorted(members)
    shuffler.shuffle(keys)
    blocks: list[list[str]] = [[] for _ in range(nfolds)]
    for key in sorted(keys, key=lambda key: -len(members[key])):  # stable: the shuffle decides among equals
        min(blocks, key=len).extend(members[key])
    return blocks


def _table_with_column(root: Path, column: str) -> Path:
    beside = root.resolve().parent / f"{root.resolve().name}_cases.csv"
    tables = sorted(p for p in root.glob("*.csv") if not p.name.startswith(".")) + [beside] * beside.is_file()
    headers = {path: _read_table(path)[0] for path in tables}
    fitting = [path for path, header in headers.items() if column in header]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        listed = ", ".join(map(str, fitting))
        raise InputError(f"group_by: column '{column}' is in several tables: {listed}. Cure: FILE.csv:{column}")
    if not tables:
        raise InputError(
            f"{root}: no table for group_by '{column}', neither *.csv nor {beside}. Cure: FILE.csv:{column}"
        )
    listed = "; ".join(f"{path} has {', '.join(header)}" for path, header in headers.items())
    raise InputError(f"group_by: no table has a column '{column}': {listed}. Cure: choose one of these columns")


def _read_table(path: Path) -> tuple[list[str], list[dict[str, str]]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            rows = list(reader)
            header = list(reader.fieldnames or [])
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: not a CSV table in UTF-8 ({error}). Cure: export it as CSV, UTF-8") from None
    if not header:
        raise InputError(f"{path}: is empty. Cure: a first line with column names, then one line per case")
    return header, rows


def _shortened(names: Sequence[str], limit: int = 10) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
