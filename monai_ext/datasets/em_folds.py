"""Folds over the slices of one stack: disjoint, or as NVIDIA's UNet Medical drew them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from monai_ext.datasets.folds import Fold, select_fold
from monai_ext.errors import Problems

FOLD_RULES = ("disjoint", "legacy")
TRAIN_SHARE = 0.8


def slice_folds(names: Sequence[str], nfolds: int = 5, fold_seed: int = 0, fold_rule: str = "disjoint") -> list[Fold]:
    """Split slices into folds.

    A permutation of all slices, drawn with NumPy's legacy generator, is turned to the right by some slices per fold;
    its tail is validated. `disjoint` turns by the size of the folds before, so that every slice is validated once.
    `legacy` turns by `int((1 - 0.8) * n)` and takes the first four fifths for training: with 30 slices it turns by 5
    instead of 6 (rounding), so neighbouring folds share a slice and some slices are never validated. Fold 0 is the same
    for both rules where five divides the number of slices.

    Args:
        names: slice names in the order of the stack.
        nfolds: number of folds; 5 for `legacy`.
        fold_seed: seed of the permutation.
        fold_rule: `disjoint` or `legacy`.

    Raises:
        InputError: an unknown rule, a number of folds that does not fit, too few slices.
    """
    problems = Problems("folds of the stack")
    if fold_rule not in FOLD_RULES:
        problems.add(f"--fold_rule {fold_rule!r}", "is not known", f"one of {', '.join(FOLD_RULES)}")
    if fold_rule == "legacy" and nfolds != 5:
        problems.add(f"--nfolds {nfolds}", "the legacy rule has five folds", "--nfolds 5, or --fold_rule disjoint")
    if not 2 <= nfolds <= len(names):
        cure = f"2 to {len(names)}" if len(names) > 1 else "a stack with more labelled slices"
        problems.add(f"--nfolds {nfolds}", f"there are {len(names)} labelled slices", cure)
    problems.raise_if_any()
    count = len(names)
    order = np.arange(count)
    np.random.RandomState(fold_seed).shuffle(order)
    folds = []
    turned = 0
    for fold in range(nfolds):
        held_out = count - int(TRAIN_SHARE * count) if fold_rule == "legacy" else count // nfolds
        held_out += fold_rule == "disjoint" and fold < count % nfolds
        turn = fold * int((1.0 - TRAIN_SHARE) * count) if fold_rule == "legacy" else turned
        rolled = np.roll(order, turn)
        val = sorted(int(i) for i in rolled[count - held_out :])
        train = sorted(int(i) for i in rolled[: count - held_out])
        folds.append(Fold(tuple(names[i] for i in train), tuple(names[i] for i in val)))
        turned += held_out
    return folds


def choose_slice_fold(
    names: Sequence[str], fold: int | str, nfolds: int = 5, fold_seed: int = 0, fold_rule: str = "disjoint"
) -> Fold:
    """One fold by number, or `all`: every slice for training and validation.

    Raises:
        InputError: the fold does not exist, or as `slice_folds`.
    """
    return select_fold(slice_folds(names, nfolds, fold_seed, fold_rule), fold)
