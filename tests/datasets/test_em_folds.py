"""Folds over slices: the published lists, and disjoint ones."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monai_ext.datasets.em_folds import choose_slice_fold, slice_folds
from monai_ext.errors import InputError

THIRTY = [f"{i:02d}" for i in range(30)]
# validation slices of NVIDIA's UNet Medical, seed 0
PUBLISHED = [
    [0, 3, 12, 15, 21, 25],
    [4, 7, 9, 18, 19, 25],
    [1, 4, 6, 20, 23, 29],
    [5, 8, 14, 16, 22, 23],
    [11, 17, 22, 24, 26, 27],
]


def test_legacy_folds_are_the_published_ones() -> None:
    folds = slice_folds(THIRTY, fold_rule="legacy")
    assert [[int(name) for name in fold.val] for fold in folds] == PUBLISHED
    for fold in folds:
        assert sorted((*fold.train, *fold.val)) == THIRTY
    validated = [name for fold in folds for name in fold.val]
    assert {name for name in validated if validated.count(name) > 1} == {"04", "22", "23", "25"}
    assert set(THIRTY) - set(validated) == {"02", "10", "13", "28"}


def test_first_fold_is_the_same_for_both_rules() -> None:
    assert slice_folds(THIRTY)[0] == slice_folds(THIRTY, fold_rule="legacy")[0]


@given(st.integers(2, 60), st.integers(2, 10), st.integers(0, 100))
def test_disjoint_folds_validate_every_slice_once(count: int, nfolds: int, seed: int) -> None:
    names = [f"{i:02d}" for i in range(count)]
    if nfolds > count:
        with pytest.raises(InputError, match=f"--nfolds {nfolds}: there are {count} labelled slices"):
            slice_folds(names, nfolds, seed)
        return
    folds = slice_folds(names, nfolds, seed)
    assert sorted(name for fold in folds for name in fold.val) == names
    for fold in folds:
        assert sorted((*fold.train, *fold.val)) == names
    sizes = [len(fold.val) for fold in folds]
    assert max(sizes) - min(sizes) <= 1


def test_all_slices_and_folds_that_do_not_exist() -> None:
    everything = choose_slice_fold(THIRTY, "all", fold_rule="legacy")
    assert list(everything.train) == list(everything.val) == THIRTY
    for fold in (5, -1, "x"):
        with pytest.raises(
            InputError, match=r"fold .* does not exist, there are 5 folds. Cure: choose one of 0, 1, 2, 3, 4 or all"
        ):
            choose_slice_fold(THIRTY, fold)


def test_rules_that_do_not_fit_are_listed_together() -> None:
    with pytest.raises(InputError) as caught:
        slice_folds(THIRTY, nfolds=40, fold_rule="legacy")
    assert "the legacy rule has five folds" in str(caught.value)
    assert "there are 30 labelled slices" in str(caught.value)
    with pytest.raises(InputError, match="--fold_rule 'random': is not known"):
        slice_folds(THIRTY, fold_rule="random")
