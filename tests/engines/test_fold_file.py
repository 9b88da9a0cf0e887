from __future__ import annotations

from pathlib import Path

import pytest

from monai_ext.engines.fold_file import read_fold_file
from monai_ext.errors import InputError


def test_content_of_a_training(tmp_path: Path) -> None:
    path = tmp_path / "fold.json"
    path.write_text('{"train": ["a", "b"], "val": ["c"], "data": "12", "contents": ["x", "y"]}')
    assert read_fold_file(path) == {"train": ["a", "b"], "val": ["c"], "data": "12", "contents": ["x", "y"]}


@pytest.mark.parametrize(
    "text",
    [
        "", "{", "[]", "[" * 100_000, '{"train": ["a"]}', '{"train": "ab", "val": []}', '{"train": [["a"]], "val": []}',
        '{"train": ["a"], "val": ["b"], "data": 3}', '{"train": ["a"], "val": ["b"], "contents": {"a": 1}}', "\udcff",
    ],
    ids=range(10),
)  # fmt: skip
def test_anything_else_is_refused_with_the_file_and_a_cure(tmp_path: Path, text: str) -> None:
    path = tmp_path / "fold.json"
    path.write_text(text, errors="surrogateescape")
    with pytest.raises(InputError, match=r"fold\.json: .*Cure: restore"):
        read_fold_file(path)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"fold\.json: cannot be read.*Cure"):
        read_fold_file(tmp_path / "fold.json")
