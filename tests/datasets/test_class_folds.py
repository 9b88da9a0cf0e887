"""Given splits, and folds drawn by class and group."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monai_ext.datasets.class_folds import choose_class_fold, stratified_folds
from monai_ext.errors import InputError
from picture_sets import made_up

SPLIT = made_up([[0], [1], [0], [1], [0]], 2, ["train", "train", "val", "val", "test"])


def test_the_given_split_is_taken_where_there_is_one() -> None:
    for rule in ("auto", "given"):
        fold = choose_class_fold(SPLIT, fold_rule=rule)
        assert (fold.train, fold.val) == (("0000.png", "0001.png"), ("0002.png", "0003.png"))
    everything = choose_class_fold(SPLIT, "all")
    assert everything.train == everything.val == ("0000.png", "0001.png", "0002.png", "0003.png")
    with pytest.raises(InputError, match=r"fold 1 does not exist: .* has one own split, fold 0"):
        choose_class_fold(SPLIT, 1)


def test_drawn_folds_pool_train_and_val_but_never_test() -> None:
    folds = [choose_class_fold(SPLIT, fold, nfolds=2, fold_rule="drawn") for fold in range(2)]
    assert sorted(name for fold in folds for name in fold.val) == ["0000.png", "0001.png", "0002.png", "0003.png"]
    for fold in folds:
        assert sorted(SPLIT.case(name).labels for name in fold.val) == [(0,), (1,)]


def test_rules_that_do_not_fit() -> None:
    without = made_up([[0], [1]] * 5, 2)
    with pytest.raises(InputError, match=r"--fold_rule given: .* has no own training and validation part"):
        choose_class_fold(without, fold_rule="given")
    with pytest.raises(InputError, match="--fold_rule 'kfold': is not known"):
        choose_class_fold(without, fold_rule="kfold")
    with pytest.raises(InputError, match="fold 5 does not exist, there are 5 folds"):
        choose_class_fold(without, 5)
    with pytest.raises(InputError, match="--nfolds 11: there are 10 images"):
        choose_class_fold(without, nfolds=11)
    with pytest.raises(InputError) as caught:
        choose_class_fold(without, nfolds=1, fold_seed=-1, groups={"0000.png": "a"})
    assert all(part in str(caught.value) for part in ("--nfolds 1", "--fold_seed -1", "9 images: have no group"))


def test_groups_on_both_sides_of_a_given_split_are_named(caplog: pytest.LogCaptureFixture) -> None:
    groups = {"0000.png": "A", "0001.png": "B", "0002.png": "A", "0003.png": "C"}
    with caplog.at_level(logging.WARNING):
        choose_class_fold(SPLIT, groups=groups)
    assert "1 groups are in training and in validation" in caplog.text
    assert "A (1 and 1 images)" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        choose_class_fold(SPLIT, groups=groups | {"0002.png": "D"})
        choose_class_fold(SPLIT, "all", groups=groups)
    assert not caplog.records


def test_groups_of_the_dataset_count_without_asking() -> None:
    dataset = made_up([[0], [0], [1], [1]] * 10, 2)
    grouped = replace(dataset, cases=tuple(replace(c, group=f"P{i // 4}") for i, c in enumerate(dataset.cases)))
    fold = choose_class_fold(grouped)
    patients = {case.name: case.group for case in grouped.cases}
    assert len(fold.val) == 8
    assert not {patients[name] for name in fold.train} & {patients[name] for name in fold.val}


def test_classes_have_the_same_share_in_every_fold() -> None:
    labels = [[0]] * 101 + [[1]] * 30 + [[2]] * 7
    dataset = made_up(labels, 3)
    folds = stratified_folds(dataset.cases, dataset.classes)
    for fold in folds:
        held = Counter(dataset.case(name).labels[0] for name in fold.val)
        assert held[0] in (20, 21)
        assert held[1] == 6
        assert held[2] in (1, 2)
        assert sorted((*fold.train, *fold.val)) == [case.name for case in dataset.cases]
    assert max(len(f.val) for f in folds) - min(len(f.val) for f in folds) <= 1
    assert folds == stratified_folds(dataset.cases[::-1], dataset.classes), "order of the cases does not matter"
    assert folds != stratified_folds(dataset.cases, dataset.classes, fold_seed=1)


def test_multi_label_shares() -> None:
    rng = np.random.default_rng(0)
    labels = [[int(k) for k in np.flatnonzero(rng.random(4) < (0.5, 0.3, 0.1, 0.04))] for _ in range(500)]
    dataset = made_up(labels, 4)
    totals = np.array(dataset.counts())
    for fold in stratified_folds(dataset.cases, dataset.classes):
        held = np.zeros(4)
        for name in fold.val:
            held[list(dataset.case(name).labels)] += 1
        assert abs(held - totals / 5).max() <= 2, (held, totals)
        assert abs(len(fold.val) - 100) <= 3


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 6))
def test_no_group_is_separated(seed: int, nfolds: int) -> None:
    rng = np.random.default_rng(seed)
    dataset = made_up([[int(k)] for k in rng.integers(0, 3, 120)], 3)
    groups = {case.name: f"P{k}" for case, k in zip(dataset.cases, rng.integers(0, 25, 120), strict=True)}
    folds = stratified_folds(dataset.cases, dataset.classes, nfolds, seed, groups)
    assert sorted(name for fold in folds for name in fold.val) == [case.name for case in dataset.cases]
    for fold in folds:
        assert not {groups[name] for name in fold.train} & {groups[name] for name in fold.val}
        # 25 groups of about 5 images: fair to within about a group
        assert abs(len(fold.val) - 120 / nfolds) <= 12


def test_a_class_of_one_image_or_group_cannot_be_drawn() -> None:
    dataset = made_up([[0]] * 9 + [[1]], 2)
    with pytest.raises(InputError, match=r"class 'c1': has one image or group \(0009.png\), all in one of 5 folds"):
        choose_class_fold(dataset)
    groups = {case.name: "P" if case.labels == (1,) else case.name for case in dataset.cases}
    with pytest.raises(InputError, match=r"class 'c1': has one image or group \(P\)"):
        stratified_folds(dataset.cases, dataset.classes, 3, 0, groups)
