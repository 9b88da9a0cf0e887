"""Facts of single files, and the index that keeps them."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from monai_ext.datasets import image_index
from monai_ext.datasets.class_open import open_classification
from monai_ext.datasets.image_index import inspect_image, inspect_images
from picture_sets import write_folders, write_picture


def test_only_new_and_changed_files_are_decoded_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cases = open_classification(write_folders(tmp_path / "set", {"a": 3, "b": 2})).cases
    index, decoded = tmp_path / "store" / "index.json", list[str]()
    inspect = inspect_image

    def counted(path: Path, with_statistics: bool = False) -> image_index.ImageFacts:
        decoded.append(path.name)
        return inspect(path, with_statistics)

    monkeypatch.setattr(image_index, "inspect_image", counted)
    first, errors = inspect_images(cases, index, {"a/0.png"})
    assert (len(first), errors, len(decoded)) == (5, {}, 5)
    decoded.clear()
    assert inspect_images(cases, index, {"a/0.png"}) == (first, {})
    assert decoded == []
    # statistics asked for later need the pixels
    inspect_images(cases, index, {"a/0.png", "a/1.png"})
    assert decoded == ["1.png"]
    decoded.clear()
    write_picture(cases[4].path, seed=99)
    os.utime(cases[3].path, ns=(1, 1))
    again, _ = inspect_images(cases, index)
    assert sorted(decoded) == sorted(case.path.name for case in cases[3:])
    assert again["b/1.png"].digest != first["b/1.png"].digest
    assert again["b/0.png"] == first["b/0.png"]


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"version": 0, "images": {}}', '{"version": 1, "images": {"a": 1}}']
)
def test_a_damaged_index_is_made_anew(tmp_path: Path, content: str) -> None:
    cases = open_classification(write_folders(tmp_path / "set", {"a": 1, "b": 1})).cases
    index = tmp_path / "index.json"
    index.write_text(content)
    assert len(inspect_images(cases, index)[0]) == 2
    assert len(json.loads(index.read_text())["images"]) == 2


def test_unreadable_files_are_looked_at_each_time(tmp_path: Path) -> None:
    cases = open_classification(write_folders(tmp_path / "set", {"a": 2})).cases
    good = cases[0].path.read_bytes()
    cases[0].path.write_bytes(good[:60])
    for _ in range(2):
        facts, errors = inspect_images(cases, tmp_path / "index.json")
        assert list(facts) == ["a/1.png"]
        assert list(errors) == ["a/0.png"]
    cases[0].path.write_bytes(good)
    assert not inspect_images(cases, tmp_path / "index.json")[1]


def test_worker_processes_find_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cases = open_classification(write_folders(tmp_path / "set", {"a": 3, "b": 3})).cases
    cases[1].path.write_bytes(b"")
    alone = inspect_images(cases)
    monkeypatch.setattr(image_index, "FEW_IMAGES", 2)
    assert inspect_images(cases, num_workers=2) == alone
