from __future__ import annotations

import errno
import logging
import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from monai_ext.datasets.image_files import read_image, read_label
from monai_ext.datasets.segmentation_dataset import SegmentationDataset
from monai_ext.errors import InputError
from monai_ext.planning.plan import Plan
from monai_ext.preprocessing import case_store, prepare
from monai_ext.preprocessing.case_preprocessing import restore_stored_labels
from monai_ext.preprocessing.case_store import CaseStore, StorageError
from monai_ext.preprocessing.prepare import prepare_cases

MakePlan = Callable[..., Plan]


def times(folder: Path) -> dict[str, int]:
    return {str(p.relative_to(folder)): p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()}


def redone(before: dict[str, int], after: dict[str, int]) -> set[str]:
    """Cases whose image was written again."""
    return {Path(name).parent.name for name in after if name.endswith("image.npy") and after[name] != before.get(name)}


@pytest.mark.parametrize("num_workers", [0, 2])
def test_stores_every_case(
    balls: SegmentationDataset, make_plan: MakePlan, tmp_path: Path, num_workers: int, caplog: pytest.LogCaptureFixture
) -> None:
    plan, folder = make_plan(axes=(2, 0, 1)), tmp_path / "store"
    with caplog.at_level(logging.WARNING, logger="monai_ext"):
        store = prepare_cases(balls, plan, folder, num_workers=num_workers, progress=False)
    assert [r.getMessage()[:12] for r in caplog.records] == ["case case_2:"]  # the one without foreground
    assert store.names == ["case_0", "case_1", "case_2"]
    for case in balls.training:
        store.verify(case.name)
        stored = store.load(case.name)
        raw, _ = read_image(case.images)
        assert stored.placement.raw_shape == raw.shape[1:]
        assert case.label is not None
        assert stored.label is not None
        label, geometry = read_label(case.label)
        assert stored.geometry == read_image(case.images)[1]
        restored = restore_stored_labels(stored.label, stored.placement, geometry, plan)
        inside = tuple(slice(*b) for b in stored.placement.box)
        np.testing.assert_array_equal(restored[inside], label[inside])
        for value, voxels in stored.locations.items():
            assert (stored.label[tuple(voxels.T)] == value).all()


def test_second_run_does_nothing(balls: SegmentationDataset, make_plan: MakePlan, tmp_path: Path) -> None:
    prepare_cases(balls, make_plan(), tmp_path / "store", progress=False)
    before = times(tmp_path)
    prepare_cases(balls, make_plan(batch_size=7), tmp_path / "store", progress=False)  # what is stored does not depend
    assert times(tmp_path) == before


def test_changed_plan_redoes_all(balls: SegmentationDataset, make_plan: MakePlan, tmp_path: Path) -> None:
    folder = tmp_path / "store"
    prepare_cases(balls, make_plan(), folder, progress=False)
    before = times(folder)
    store = prepare_cases(balls, make_plan(spacing=(1.0, 1.5, 1.0)), folder, progress=False)
    assert redone(before, times(folder)) == {"case_0", "case_1", "case_2"}
    assert store.load("case_0").placement.stored_shape[1] == 12


def test_changed_raw_file_redoes_its_case(
    balls: SegmentationDataset, make_plan: MakePlan, tmp_path: Path, tools: SimpleNamespace
) -> None:
    folder = tmp_path / "store"
    prepare_cases(balls, make_plan(), folder, progress=False)
    before = times(folder)
    image, _ = tools.ball_case((18, 21, 22), seed=9)
    tools.save_nifti(balls.training[1].images[0], image[0])  # same size
    prepare_cases(balls, make_plan(), folder, progress=False)
    assert redone(before, times(folder)) == {"case_1"}


def test_touched_raw_file_keeps_its_case(balls: SegmentationDataset, make_plan: MakePlan, tmp_path: Path) -> None:
    folder = tmp_path / "store"
    prepare_cases(balls, make_plan(), folder, progress=False)
    before = times(folder)
    os.utime(balls.training[0].images[0], ns=(1, 1))
    prepare_cases(balls, make_plan(), folder, progress=False)
    after = times(folder)
    assert redone(before, after) == set()
    prepare_cases(balls, make_plan(), folder, progress=False)
    assert times(folder) == after  # the new time is known now


def test_new_label_redoes_its_case(balls: SegmentationDataset, make_plan: MakePlan, tmp_path: Path) -> None:
    folder = tmp_path / "store"
    bare = replace(balls, training=tuple(replace(case, label=None) for case in balls.training[:1]))
    store = prepare_cases(bare, make_plan(), folder, progress=False)
    assert store.load("case_0").label is None
    store = prepare_cases(replace(balls, training=balls.training[:1]), make_plan(), folder, progress=False)
    assert store.load("case_0").label is not None


def test_truncated_store_file_is_mended(balls: SegmentationDataset, make_plan: MakePlan, tmp_path: Path) -> None:
    folder = tmp_path / "store"
    prepare_cases(balls, make_plan(), folder, progress=False)
    before = times(folder)
    with (folder / "case_1" / "image.npy").open("rb+") as file:
        file.truncate(500)
    (folder / "case_2" / "case.json").write_text("{")
    store = prepare_cases(balls, make_plan(), folder, progress=False)
    assert redone(before, times(folder)) == {"case_1", "case_2"}
    for name in store.names:
        store.verify(name)


def test_removed_cases_stay_but_are_not_listed(balls: SegmentationDataset, make_plan: MakePlan, tmp_path: Path) -> None:
    folder = tmp_path / "store"
    prepare_cases(balls, make_plan(), folder, progress=False)
    store = prepare_cases(replace(balls, training=balls.training[1:]), make_plan(), folder, progress=False)
    assert store.names == ["case_1", "case_2"]
    assert (folder / "case_0" / "image.npy").is_file()


@pytest.mark.parametrize("num_workers", [0, 2])
def test_bad_cases_are_reported_together(
    balls: SegmentationDataset, make_plan: MakePlan, tmp_path: Path, tools: SimpleNamespace, num_workers: int
) -> None:
    first, second, third = balls.training
    first.images[0].write_bytes(b"not an image")
    assert third.label is not None
    tools.save_nifti(third.label, np.zeros((4, 4, 4), dtype=np.uint8))
    with pytest.raises(InputError, match="2 problems") as caught:
        prepare_cases(balls, make_plan(), tmp_path / "store", num_workers=num_workers, progress=False)
    text = str(caught.value)
    assert "case case_0" in text
    assert "case case_2" in text
    assert second.name not in text
    assert CaseStore(tmp_path / "store").names == ["case_1"]


@pytest.mark.parametrize("missing", ["image", "label"])
def test_missing_files(balls: SegmentationDataset, make_plan: MakePlan, tmp_path: Path, missing: str) -> None:
    case = balls.training[0]
    path = case.images[0] if missing == "image" else case.label
    assert path is not None
    path.unlink()
    with pytest.raises(InputError, match=rf"1 problem\n.*case_0: .*{path.name}.*Cure"):
        prepare_cases(balls, make_plan(), tmp_path / "store", progress=False)


def test_full_disk_stops_and_goes_on_later(
    balls: SegmentationDataset, make_plan: MakePlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "store"
    real, calls = np.save, []

    def full(*arguments: object, **options: object) -> None:
        calls.append(arguments)
        if len(calls) > 3:  # image and label of the first case, image of the second
            raise OSError(errno.ENOSPC, "No space left on device")
        real(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(StorageError, match=r"case case_1.*Cure"):
        prepare_cases(balls, make_plan(), folder, progress=False)
    assert sorted(p.name for p in folder.iterdir()) == [case_store.LOCK_FILE, "case_0"]
    monkeypatch.undo()
    before = times(folder)
    assert len(prepare_cases(balls, make_plan(), folder, progress=False).names) == 3
    assert redone(before, times(folder)) == {"case_1", "case_2"}


def test_killed_run_is_repaired(
    balls: SegmentationDataset, make_plan: MakePlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "store"
    prepare_cases(balls, make_plan(), folder, progress=False)
    abandoned = folder / f".unfinished-{prepare.__name__}-1-case_1"
    (folder / "case_1").rename(abandoned)  # as if killed between the two renames
    os.utime(abandoned, (0, 0))
    store = prepare_cases(balls, make_plan(), folder, progress=False)
    assert store.names == ["case_0", "case_1", "case_2"]
    assert sorted(p.name for p in folder.iterdir()) == [case_store.LOCK_FILE, *store.names]


def test_other_failures_name_the_case(
    balls: SegmentationDataset, make_plan: MakePlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("no")

    monkeypatch.setattr(prepare, "preprocess", broken)
    with pytest.raises(RuntimeError, match="case case_0: ZeroDivisionError: no"):
        prepare_cases(balls, make_plan(), tmp_path / "store", progress=False)


def test_killed_worker(
    balls: SegmentationDataset, make_plan: MakePlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # ends every worker at once, as the system does when memory runs out
    monkeypatch.setattr(prepare, "_use_one_thread", partial(os._exit, 9))
    with pytest.raises(InputError, match=r"killed.*case_0, case_1, case_2.*Cure"):
        prepare_cases(balls, make_plan(), tmp_path / "store", num_workers=2, progress=False)


def test_folder_that_cannot_be_made(balls: SegmentationDataset, make_plan: MakePlan, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"cannot be made.*Cure"):
        prepare_cases(balls, make_plan(), tmp_path / "file" / "store", progress=False)


def test_progress_bar(
    balls: SegmentationDataset, make_plan: MakePlan, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    prepare_cases(balls, make_plan(), tmp_path / "store")
    assert "3/3" in capfd.readouterr().err


def test_run_without_end_is_followed_by_a_look_at_the_checksums(
    balls: SegmentationDataset, make_plan: MakePlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a power failure a file may have its size and name but not its content."""
    plan, folder = make_plan(), tmp_path / "store"
    monkeypatch.setattr(case_store.UnsyncedWrites, "end", lambda self: None)  # the power fails here
    prepare_cases(balls, plan, folder, progress=False)
    monkeypatch.undo()
    markers = list(folder.glob(".unfinished-*unsynced"))
    assert len(markers) == 1
    lost = folder / "case_1" / "image.npy"
    lost.write_bytes(bytes(lost.stat().st_size))
    before = times(folder)
    prepare_cases(balls, plan, folder, progress=False)
    assert redone(before, times(folder)) == {"case_1"}
    CaseStore(folder).verify("case_1")
    assert not list(folder.glob(".unfinished-*"))


def test_finished_run_leaves_no_marker_and_checksums_unread(
    balls: SegmentationDataset, make_plan: MakePlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare_cases(balls, make_plan(), tmp_path, progress=False)
    assert not list(tmp_path.glob(".unfinished-*"))
    monkeypatch.setattr(CaseStore, "verify", lambda self, name: pytest.fail("read all files of a store that is whole"))
    prepare_cases(balls, make_plan(), tmp_path, progress=False)
