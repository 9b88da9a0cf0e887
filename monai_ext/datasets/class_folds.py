"""Training and validation part of classification data: the given split, or folds drawn by class and group."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from monai_ext.datasets.class_groups import case_groups, leaking_images
from monai_ext.datasets.classification_dataset import ClassificationDataset, ImageCase, shortened
from monai_ext.datasets.folds import Fold, select_fold
from monai_ext.errors import InputError, Problems

logger = logging.getLogger(__name__)
FOLD_RULES = ("auto", "given", "drawn")


def choose_class_fold(
    dataset: ClassificationDataset,
    fold: int | str = 0,
    nfolds: int = 5,
    fold_seed: int = 12345,
    fold_rule: str = "auto",
    groups: Mapping[str, str] | None = None,
) -> Fold:
    """One fold by number, or `all`: everything but the test part for training and for validation.

    A group on both sides of a given split is named in the log; drawn folds never separate a group.

    Args:
        dataset: classification data.
        fold: number from 0, or `all`.
        nfolds, fold_seed: of drawn folds.
        fold_rule: `given` takes the dataset's own train and val; `drawn` pools them and draws (see `stratified_folds`);
            `auto` takes the given split where there is one.
        groups: case name to group; None takes the groups that the dataset came with.

    Raises:
        InputError: unknown rule, no given split, no such fold, or as `stratified_folds`.
    """
    if fold_rule not in FOLD_RULES:
        raise InputError(f"--fold_rule {fold_rule!r}: is not known. Cure: one of {', '.join(FOLD_RULES)}")
    train, val = ([case.name for case in dataset.part(split)] for split in ("train", "val"))
    groups = case_groups(dataset) if groups is None else groups
    has_split = bool(train and val)
    if fold_rule == "given" and not has_split:
        parts = ", ".join(f"'{split}'" for split in dataset.splits if split) or "none"
        raise InputError(
            f"--fold_rule given: {dataset.root} has no own training and validation part (parts: {parts}). "
            "Cure: folders train and val, a column split, or --fold_rule drawn"
        )
    if fold_rule == "drawn" or not has_split:
        pool = [case for case in dataset.cases if case.split != "test"]
        folds = stratified_folds(pool, dataset.classes, nfolds, fold_seed, groups)
        return select_fold(folds, fold)
    try:
        chosen = select_fold([Fold(tuple(sorted(train)), tuple(sorted(val)))], fold)
    except InputError:
        raise InputError(
            f"fold {fold!r} does not exist: {dataset.root} has one own split, fold 0. "
            "Cure: --fold 0 or all, or --fold_rule drawn for cross-validation of train and val together"
        ) from None
    if chosen.train != chosen.val:
        warn_of_leaks(chosen, groups)
    return chosen


def warn_of_leaks(fold: Fold, groups: Mapping[str, str]) -> None:
    """Log the groups that are on both sides of a fold."""
    leaking = leaking_images(fold.train, fold.val, groups)
    if leaking:
        listed = shortened([f"{group} ({train} and {val} images)" for group, (train, val) in leaking.items()], 5)
        logger.warning(
            "%d groups are in training and in validation, scores will be too good: %s. Cure: --fold_rule drawn",
            len(leaking),
            listed,
        )


def stratified_folds(
    cases: Sequence[ImageCase],
    classes: Sequence[str],
    nfolds: int = 5,
    fold_seed: int = 12345,
    groups: Mapping[str, str] | None = None,
) -> list[Fold]:
    """Folds with the same share of every class, in which no group is separated; every case is validated once.

    Whole groups (single cases without groups) are dealt one by one, those with the rarest classes and the largest
    first, in seeded random order among equals, each to the fold that holds the smallest share of its classes. The idea
    is that of iterative stratification (Sechidis et al., ECML 2011), which also serves several labels per image.

    Raises:
        InputError: fewer than two folds, more folds than groups, a case without group, a class that a fold would
            validate without having it in training.
    """
    names = {case.name for case in cases}
    problems = Problems("folds by class")
    if isinstance(nfolds, bool) or not isinstance(nfolds, int) or nfolds < 2:
        problems.add(
            f"--nfolds {nfolds}", "must be a whole number, at least 2", "5, or --fold all to train on every case"
        )
    if not 0 <= fold_seed < 2**32:
        problems.add(f"--fold_seed {fold_seed}", "must be 0 to 4294967295", "12345")
    without = sorted(name for name in names if groups and name not in groups)
    if without:
        problems.add(f"{len(without)} images", f"have no group: {shortened(without)}", "a group for each")
    problems.raise_if_any()
    units: dict[str, list[ImageCase]] = {}
    for case in sorted(cases, key=lambda case: case.name):
        units.setdefault(groups[case.name] if groups else case.name, []).append(case)
    if nfolds > len(units):
        what = "groups" if groups else "images"
        raise InputError(f"--nfolds {nfolds}: there are {len(units)} {what}. Cure: at most that many folds")
    assigned = _deal(list(units.values()), len(classes), nfolds, np.random.default_rng(fold_seed))
    _require_every_class(units, assigned, classes, nfolds)
    blocks: list[set[str]] = [set() for _ in range(nfolds)]
    for members, chosen in zip(units.values(), assigned, strict=True):
        blocks[chosen] |= {case.name for case in members}
    return [Fold(tuple(sorted(names - block)), tuple(sorted(block))) for block in blocks]


def _deal(units: list[list[ImageCase]], num_classes: int, nfolds: int, generator: np.random.Generator) -> list[int]:
    """Fold of every unit."""
    # one more than the classes counts images, so that folds are of one size where classes leave a choice
    counts = [Counter(column for case in members for column in (*case.labels, num_classes)) for members in units]
    totals = np.zeros(num_classes + 1)
    for held_by_unit in counts:
        for column, count in held_by_unit.items():
            totals[column] += count
    rarest = np.array(
        [min((totals[k] for k in held_by_unit if k < num_classes), default=np.inf) for held_by_unit in counts]
    )
    sizes = np.array([held_by_unit[num_classes] for held_by_unit in counts])
    held = np.zeros((nfolds, num_classes + 1))
    assigned = [0] * len(units)
    for unit in np.lexsort((generator.random(len(units)), -sizes, rarest)):
        columns = np.fromiter(counts[unit].keys(), dtype=np.int64)
        added = np.fromiter(counts[unit].values(), dtype=np.float64)
        # growth of the squared shares: smallest where these classes are fewest
        cost = (added * (2 * held[:, columns] + added) / totals[columns] ** 2).sum(axis=1)
        chosen = min(range(nfolds), key=lambda fold: (round(cost[fold], 12), held[fold, -1], fold))
        held[chosen, columns] += added
        assigned[unit] = chosen
    return assigned


def _require_every_class(
    units: Mapping[str, Sequence[ImageCase]], assigned: Sequence[int], classes: Sequence[str], nfolds: int
) -> None:
    where: dict[int, set[int]] = {}
    groups: dict[int, list[str]] = {}
    for (group, members), fold in zip(units.items(), assigned, strict=True):
        for label in sorted({label for case in members for label in case.labels}):
            where.setdefault(label, set()).add(fold)
            groups.setdefault(label, []).append(group)
    problems = Problems("folds by class")
    for label, folds in sorted(where.items()):
        if len(folds) == 1:
            held = groups[label]
            kind = "one image or group" if len(held) == 1 else f"{len(held)} images or groups"
            problems.add(
                f"class '{classes[label]}'",
                f"has {kind} ({shortened(held, 3)}), all in one of {nfolds} folds, which cannot train it",
                "more images, leave the class out, or a split of your own with --fold_rule given",
            )
    problems.raise_if_any()
