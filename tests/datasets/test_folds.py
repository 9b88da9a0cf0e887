from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monai_ext.datasets.folds import Fold, leaking_groups, load_splits, make_folds, read_groups, select_fold
from monai_ext.datasets.msd import read_msd
from monai_ext.datasets.segmentation_dataset import Case, SegmentationDataset
from monai_ext.errors import InputError

FROZEN_TEN = [[0, 7], [3, 9], [4, 6], [1, 8], [2, 5]]
FROZEN_484 = [9, 10, 11, 17, 19, 27, 28, 31]


def names_of(count: int) -> list[str]:
    return [f"case_{i:03d}" for i in range(count)]


def dataset_of(root: Path, names: list[str]) -> SegmentationDataset:
    cases = tuple(Case(name, (root / f"{name}.nii.gz",)) for name in names)
    return SegmentationDataset("set", root, ("MRI",), {"background": 0, "front": 1}, cases)


def numbers(fold: Fold) -> list[int]:
    return [int(name[-3:]) for name in fold.val]


def test_split_of_ten_cases_is_frozen() -> None:
    # the rule of scikit-learn's KFold(5, shuffle=True, random_state=12345), on which published splits rest
    assert [numbers(fold) for fold in make_folds(names_of(10))] == FROZEN_TEN


def test_split_of_the_brain_tumour_task_has_the_published_sizes() -> None:
    folds = make_folds(names_of(484))
    assert [len(fold.val) for fold in folds] == [97, 97, 97, 97, 96]
    assert numbers(folds[0])[:8] == FROZEN_484


def test_order_of_the_names_does_not_matter() -> None:
    assert make_folds(names_of(23)[::-1]) == make_folds(names_of(23))


def test_seed_changes_the_split() -> None:
    assert make_folds(names_of(23), fold_seed=0) != make_folds(names_of(23))


@given(
    count=st.integers(2, 60),
    nfolds=st.integers(2, 8),
    seed=st.integers(0, 2**32 - 1),
    num_groups=st.one_of(st.none(), st.integers(2, 12)),
)
def test_every_case_is_validated_once_and_never_trained_in_that_fold(
    count: int, nfolds: int, seed: int, num_groups: int | None
) -> None:
    names = names_of(count)
    groups = None if num_groups is None else {n: f"g{(i * i + seed) % num_groups}" for i, n in enumerate(names)}
    available = count if groups is None else len(set(groups.values()))
    if available < nfolds:
        with pytest.raises(InputError, match=f"{nfolds} folds need {nfolds} .*, found {available}"):
            make_folds(names, nfolds, seed, groups)
        return
    folds = make_folds(names, nfolds, seed, groups)
    assert sorted(name for fold in folds for name in fold.val) == names
    for fold in folds:
        assert sorted((*fold.train, *fold.val)) == names
        assert list(fold.train) == sorted(fold.train)
        assert list(fold.val) == sorted(fold.val)
        assert fold.val
    if groups is not None:
        assert leaking_groups(folds, groups) == []
        largest = max(list(groups.values()).count(g) for g in set(groups.values()))
        sizes = [len(fold.val) for fold in folds]
        assert max(sizes) - min(sizes) <= largest  # largest first, to the smallest fold
    else:
        assert {len(fold.val) for fold in folds} <= {count // nfolds, count // nfolds + 1}


def test_grouped_split_is_deterministic_and_seeded() -> None:
    groups = {name: f"p{i // 2}" for i, name in enumerate(names_of(20))}
    folds = make_folds(names_of(20), groups=groups)
    assert folds == make_folds(names_of(20)[::-1], groups=dict(reversed(groups.items())))
    assert folds != make_folds(names_of(20), groups=groups, fold_seed=1)
    assert [len(fold.val) for fold in folds] == [4] * 5


@pytest.mark.parametrize(
    ("names", "options", "message"),
    [
        (names_of(3), {}, "5 folds need 5 cases, found 3"),
        (names_of(9), {"nfolds": 1}, "nfolds must be at least 2, found 1"),
        (["a", "b", "a"], {"nfolds": 2}, "found twice: a"),
        (names_of(9), {"fold_seed": -1}, "fold_seed must be 0 to 4294967295, found -1"),
        (["a", "b"], {"nfolds": 2, "groups": {"a": "1"}}, "1 cases have no group: b"),
        (["a", "b", "c"], {"nfolds": 3, "groups": dict.fromkeys("abc", "1")}, "3 folds need 3 groups, found 1"),
    ],
)
def test_impossible_splits_are_refused(names: list[str], options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=rf"{message}.*Cure: "):
        make_folds(names, **options)  # type: ignore[arg-type]


def test_leaking_groups_are_named() -> None:
    folds = [Fold(("a", "b"), ("c", "d")), Fold(("c", "d"), ("a", "b"))]
    assert leaking_groups(folds, {"a": "1", "b": "2", "c": "2", "d": "3"}) == ["2"]
    assert leaking_groups([Fold(("a", "b"), ("a", "b"))], {"a": "1", "b": "2"}) == []


@pytest.mark.parametrize("group_by", ["{root}/table.csv:patient", "table.csv:patient", "patient"])
def test_groups_are_read_from_a_table(group_by: str, tmp_path: Path) -> None:
    table = "\ufeffscan,Case,patient\n9,a,P1\n8,b, P2 \n7,c,P1\n6,unlisted,P9\n"  # with the mark that Excel writes
    (tmp_path / "table.csv").write_text(table, encoding="utf-8")
    groups = read_groups(dataset_of(tmp_path, ["a", "b", "c"]), group_by.format(root=tmp_path))
    assert groups == {"a": "P1", "b": "P2", "c": "P1"}


def test_table_beside_the_dataset_and_first_column_as_case(tmp_path: Path) -> None:
    root = tmp_path / "set"
    root.mkdir()
    (tmp_path / "set_cases.csv").write_text("file,site\na,X\nb,Y\n", encoding="utf-8")
    assert read_groups(dataset_of(root, ["a", "b"]), "site") == {"a": "X", "b": "Y"}


@pytest.mark.parametrize(
    ("table", "group_by", "message"),
    [
        (None, "patient", r"no table for group_by 'patient', neither \*\.csv nor .*_cases\.csv"),
        (None, "no.csv:patient", r"no\.csv: table of groups .* does not exist"),
        ("case,site\na,1\nb,1\n", "patient", r"no table has a column 'patient': .*table\.csv has case, site"),
        ("case,site\na,1\nb,1\n", "table.csv:patient", "has no column 'patient'. Cure: choose one of case, site"),
        ("case,site\na,1\n", "site", "1 of 2 cases: not in column 'case': b"),
        ("case,site\na,1\nb,\n", "site", "b: has no value"),
        ("case,site\na,1\nb,1\na,2\n", "site", "a: is listed as '1' and as '2'"),
        ("", "table.csv:site", r"table\.csv: is empty"),
        ("case,site\na,1\n", "table.csv:", "no column given"),
    ],
)
def test_bad_tables_are_refused(table: str | None, group_by: str, message: str, tmp_path: Path) -> None:
    if table is not None:
        (tmp_path / "table.csv").write_text(table, encoding="utf-8")
    with pytest.raises(InputError, match=message) as caught:
        read_groups(dataset_of(tmp_path, ["a", "b"]), group_by)
    assert "Cure: " in str(caught.value)


def test_column_in_two_tables_is_refused(tmp_path: Path) -> None:
    for name in ("x.csv", "y.csv"):
        (tmp_path / name).write_text("case,site\na,1\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"is in several tables: .*x\.csv, .*y\.csv.*Cure: FILE\.csv:site"):
        read_groups(dataset_of(tmp_path, ["a"]), "site")


def test_file_of_splits_wins(tmp_path: Path) -> None:
    path = tmp_path / "splits_final.json"
    path.write_text(json.dumps([{"train": ["c", "a"], "val": ["b"]}, {"train": ["b"], "val": ["a"]}]))
    assert load_splits(path, ["a", "b", "c"]) == [Fold(("a", "c"), ("b",)), Fold(("b",), ("a",))]


@pytest.mark.parametrize(
    ("content", "messages"),
    [
        ('[{"train": ["a"]', ["not JSON, line 1, column 17"]),
        ('{"train": ["a"], "val": ["b"]}', ["must be a list", "found dict"]),
        ("[]", ["must be a list"]),
        ('[{"train": ["a"]}, ["a"]]', ["2 problems", "fold 0: must be an entry", "fold 1: must be an entry"]),
        (
            '[{"train": ["a", "z", "a"], "val": ["a"]}, {"train": [], "val": ["b"]}]',
            [
                "4 problems",
                "fold 0: 'train' names 1 unknown cases: z",
                "fold 0: 'train' names twice: a",
                "fold 0: in train and in val: a",
                "fold 1: 'train' is empty",
            ],
        ),
    ],
)
def test_bad_files_of_splits_are_refused(content: str, messages: list[str], tmp_path: Path) -> None:
    path = tmp_path / "splits_final.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(InputError) as caught:
        load_splits(path, ["a", "b"])
    for message in (*messages, str(path), "Cure: "):
        assert message in str(caught.value)


def test_missing_file_of_splits_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no\.json: file of folds does not exist.*Cure: "):
        load_splits(tmp_path / "no.json", ["a"])


def test_fold_is_chosen_by_number_or_all() -> None:
    folds = make_folds(names_of(10))
    assert select_fold(folds, 3) == folds[3]
    assert select_fold(folds, "3") == folds[3]
    assert select_fold(folds, "all") == Fold(tuple(names_of(10)), tuple(names_of(10)))


@pytest.mark.parametrize("fold", [5, -1, "x", True, 1.0, None])
def test_fold_that_does_not_exist_is_refused(fold: object) -> None:
    with pytest.raises(InputError, match=r"there are 5 folds. Cure: choose one of 0, 1, 2, 3, 4 or all"):
        select_fold(make_folds(names_of(10)), fold)  # type: ignore[arg-type]


@pytest.mark.real_data
def test_both_sides_of_a_head_stay_together(data_folder: Path) -> None:
    dataset = read_msd(data_folder / "Task04_Hippocampus")
    names = [case.name for case in dataset.training]
    groups = read_groups(dataset, "subject")
    folds = make_folds(names, groups=groups)
    assert [len(fold.val) for fold in folds] == [40] * 5
    for fold in folds:
        assert not {groups[n] for n in fold.train} & {groups[n] for n in fold.val}
    assert leaking_groups(folds, groups) == []
    assert len(leaking_groups(make_folds(names), groups)) > 10  # the plain split does separate pairs
