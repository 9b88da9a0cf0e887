from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from monai_ext.datasets import conversion
from monai_ext.datasets.conversion import ConversionPlan, link_or_copy, require_free_target, write_dataset
from monai_ext.datasets.segmentation_dataset import Case
from monai_ext.errors import InputError

Writer = Callable[..., Path]


@pytest.fixture
def plan(tmp_path: Path, write_nifti: Writer) -> ConversionPlan:
    for name in ("a", "b"):
        write_nifti(f"source/{name}.nii.gz", np.random.default_rng(0).normal(size=(6, 5, 4)).astype(np.float32))
        write_nifti(f"source/{name}_seg.nii.gz", np.ones((6, 5, 4), np.uint8))
    cases = tuple(Case(n, (tmp_path / f"source/{n}.nii.gz",), tmp_path / f"source/{n}_seg.nii.gz") for n in "ab")
    return ConversionPlan("test", ("T1",), {"background": 0, "x": 1}, cases, 3, tables={"cases.csv": "case\na\nb\n"})


def test_description_tables_and_files(plan: ConversionPlan, tmp_path: Path) -> None:
    write_dataset(plan, tmp_path / "deeper/new")
    description = json.loads((tmp_path / "deeper/new/dataset.json").read_text())
    assert description["name"] == "new"
    assert description["tensorImageSize"] == "3D"
    assert description["training"][0] == {"image": "./imagesTr/a.nii.gz", "label": "./labelsTr/a.nii.gz"}
    assert (tmp_path / "deeper/new/cases.csv").read_text() == "case\na\nb\n"
    assert not (tmp_path / "deeper/new/imagesTs").exists()


@pytest.mark.parametrize("broken", ["rename", "inspect_dataset"])
def test_nothing_is_left_when_it_is_interrupted(
    broken: str, plan: ConversionPlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os if broken == "rename" else conversion, broken, stop)
    with pytest.raises(KeyboardInterrupt):
        write_dataset(plan, tmp_path / "new")
    assert {path.name for path in tmp_path.iterdir()} == {"source"}
    assert len(list((tmp_path / "source").iterdir())) == 4


def test_all_unreadable_files_are_listed_and_nothing_is_written(plan: ConversionPlan, tmp_path: Path) -> None:
    for name in ("a.nii.gz", "b_seg.nii.gz"):
        path = tmp_path / "source" / name
        path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(InputError) as caught:
        write_dataset(plan, tmp_path / "new")
    assert f"dataset {tmp_path / 'new'} (not written): 2 problems" in str(caught.value)
    assert str(caught.value).count("damaged or incomplete") == 2
    assert {path.name for path in tmp_path.iterdir()} == {"source"}


def test_existing_or_inner_targets_are_refused(plan: ConversionPlan, tmp_path: Path) -> None:
    source = tmp_path / "source"
    (tmp_path / "old").mkdir()
    with pytest.raises(InputError, match="old: exists already"):
        require_free_target(source, tmp_path / "old")
    with pytest.raises(InputError, match="old: exists already"):
        write_dataset(plan, tmp_path / "old")
    with pytest.raises(InputError, match="lies in the source"):
        require_free_target(source, source / "new")
    with pytest.raises(InputError, match="nothing: is not a folder"):
        require_free_target(tmp_path / "nothing", tmp_path / "new")


def test_files_are_copied_where_links_are_not_possible(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise OSError("links are not supported")

    (tmp_path / "a").write_bytes(b"content")
    assert link_or_copy(tmp_path / "a", tmp_path / "b").samefile(tmp_path / "a")
    monkeypatch.setattr(os, "link", refuse)
    assert link_or_copy(tmp_path / "a", tmp_path / "c").read_bytes() == b"content"
    assert not (tmp_path / "c").samefile(tmp_path / "a")
