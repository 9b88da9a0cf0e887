from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from monai_ext.datasets.bids_layout import is_bids, plan_bids
from monai_ext.datasets.conversion import write_dataset
from monai_ext.datasets.folds import read_groups
from monai_ext.datasets.image_files import read_image, read_label
from monai_ext.errors import InputError

Writer = Callable[..., Path]
SHAPE = (6, 5, 4)


@pytest.fixture
def bids(tmp_path: Path, write_nifti: Writer) -> Path:
    """Two subjects with two sessions, one without; T1w and FLAIR; the second session of sub-02 has no label."""
    rng = np.random.default_rng(0)
    for subject, session in (("sub-01", "ses-1"), ("sub-01", "ses-2"), ("sub-02", "ses-1"), ("sub-02", "ses-2")):
        stem = f"{subject}/{session}/anat/{subject}_{session}"
        for suffix in ("T1w", "FLAIR"):
            write_nifti(f"bids/{stem}_{suffix}.nii.gz", rng.normal(size=SHAPE).astype(np.float32))
        if (subject, session) != ("sub-02", "ses-2"):
            write_nifti(f"bids/derivatives/manual/{stem}_dseg.nii.gz", rng.choice([0, 17, 53], SHAPE).astype(np.int16))
    root = tmp_path / "bids"
    write_nifti("bids/sub-03/anat/sub-03_T1w.nii.gz", rng.normal(size=SHAPE).astype(np.float32))
    write_nifti("bids/sub-03/anat/sub-03_FLAIR.nii.gz", rng.normal(size=SHAPE).astype(np.float32))
    write_nifti("bids/derivatives/manual/sub-03/anat/sub-03_dseg.nii.gz", np.full(SHAPE, 17, np.uint8))
    (root / "participants.tsv").write_text("participant_id\tage\tsite\nsub-01\t30\tA\nsub-02\t40\tB\n")
    (root / "derivatives/manual/manual_dseg.tsv").write_text("index\tname\n17\tleft\n53\tright\n")
    return root


def message_of(folder: Path, **options: object) -> str:
    with pytest.raises(InputError) as caught:
        plan_bids(folder, **options)  # type: ignore[arg-type]
    assert "Cure: " in str(caught.value)
    return str(caught.value)


def test_sessions_become_cases(bids: Path, tmp_path: Path) -> None:
    assert is_bids(bids)
    plan = plan_bids(bids, suffixes=("FLAIR", "T1w"))
    dataset, reports, _ = write_dataset(plan, tmp_path / "new")
    assert [case.name for case in dataset.training] == ["sub-01_ses-1", "sub-01_ses-2", "sub-02_ses-1", "sub-03"]
    assert [case.name for case in dataset.test] == ["sub-02_ses-2"]
    assert dataset.channels == ("FLAIR", "T1w")
    assert dataset.labels == {"background": 0, "left": 1, "right": 2}
    image, _ = read_image(dataset.training[0].images)
    stem = bids / "sub-01/ses-1/anat/sub-01_ses-1"
    np.testing.assert_array_equal(image, read_image([Path(f"{stem}_{s}.nii.gz") for s in ("FLAIR", "T1w")])[0])
    assert dataset.training[0].label is not None
    labels, _ = read_label(dataset.training[0].label)
    stored, _ = read_label(bids / "derivatives/manual/sub-01/ses-1/anat/sub-01_ses-1_dseg.nii.gz")
    np.testing.assert_array_equal(labels, np.searchsorted([0, 17, 53], stored))
    assert reports[-1].name == "sub-03"
    assert reports[-1].values == (1,)
    assert "value 53 -> 2 right" in plan.notes


def test_table_of_participants_gives_groups(bids: Path, tmp_path: Path) -> None:
    dataset, _, _ = write_dataset(plan_bids(bids, suffixes=("T1w",)), tmp_path / "new")
    assert read_groups(dataset, "subject") == {
        "sub-01_ses-1": "sub-01",
        "sub-01_ses-2": "sub-01",
        "sub-02_ses-1": "sub-02",
        "sub-03": "sub-03",
    }
    with (tmp_path / "new/cases.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert rows[2] == {"case": "sub-02_ses-1", "subject": "sub-02", "session": "ses-1", "age": "40", "site": "B"}
    assert rows[-1]["age"] == ""  # not in participants.tsv


def test_channels_must_be_chosen_if_there_are_several(bids: Path) -> None:
    assert "has images FLAIR (5 sessions), T1w (5 sessions)" in message_of(bids)
    assert "no image ends in T2w" in message_of(bids, suffixes=("T2w",))


def test_all_problems_of_the_sessions_are_listed(bids: Path, write_nifti: Writer) -> None:
    (bids / "sub-01/ses-2/anat/sub-01_ses-2_FLAIR.nii.gz").unlink()
    write_nifti("bids/sub-02/ses-1/anat/sub-02_ses-1_run-2_T1w.nii.gz", np.zeros(SHAPE, np.float32))
    write_nifti("bids/derivatives/auto/sub-03/anat/sub-03_desc-auto_dseg.nii.gz", np.zeros(SHAPE, np.uint8))
    write_nifti("bids/derivatives/auto/sub-09/anat/sub-09_dseg.nii.gz", np.zeros(SHAPE, np.uint8))
    text = message_of(bids, suffixes=("T1w", "FLAIR"))
    assert "sub-01_ses-2: has a label map but no FLAIR" in text
    assert "sub-02_ses-1: has 2 images T1w" in text
    assert "sub-03: has 2 label maps" in text
    assert "sub-09: has a label map but no image" in text


def test_incomplete_sessions_can_be_left_out(bids: Path) -> None:
    (bids / "sub-01/ses-2/anat/sub-01_ses-2_FLAIR.nii.gz").unlink()
    plan = plan_bids(bids, suffixes=("T1w", "FLAIR"), skip_incomplete=True)
    assert len(plan.cases) == 4
    assert plan.notes[0] == "left out: sub-01_ses-2 without FLAIR"


def test_channels_on_other_grids_are_problems_and_nothing_is_written(bids: Path, write_nifti: Writer) -> None:
    for name in ("sub-01/ses-1/anat/sub-01_ses-1", "sub-02/ses-1/anat/sub-02_ses-1"):
        write_nifti(f"bids/{name}_FLAIR.nii.gz", np.zeros((6, 5, 3), np.float32))
    target = bids.parent / "new"
    with pytest.raises(InputError) as caught:
        write_dataset(plan_bids(bids, suffixes=("T1w", "FLAIR")), target)
    lines = str(caught.value).split("\n")
    assert lines[0].endswith("2 problems")
    assert "sub-01_ses-1: " in lines[1]
    assert "differs from the first channel in shape 6x5x4 against 6x5x3" in lines[1]
    assert "sub-02_ses-1: " in lines[2]
    assert {path.name for path in bids.parent.iterdir()} == {"bids"}


def test_label_suffix_and_masks_named_by_their_label(bids: Path, write_nifti: Writer) -> None:
    for subject in ("sub-01/ses-1/anat/sub-01_ses-1", "sub-03/anat/sub-03"):
        lesion = np.zeros(SHAPE, np.uint8)
        lesion[2] = 1
        write_nifti(f"bids/derivatives/les/{subject}_label-lesion_mask.nii.gz", lesion)
    (bids / "derivatives/manual/manual_dseg.tsv").unlink()
    plan = plan_bids(bids, suffixes=("T1w",), label_suffix="label-lesion_mask")
    assert plan.labels == {"background": 0, "lesion": 1}
    assert [case.name for case in plan.cases if case.label] == ["sub-01_ses-1", "sub-03"]
    assert "no label map *_nothing.nii.gz is there" in message_of(bids, suffixes=("T1w",), label_suffix="nothing")


def test_tables_that_disagree_and_labels_beside_images(bids: Path, write_nifti: Writer) -> None:
    (bids / "dseg.tsv").write_text("index\tname\n17\tother\n")
    assert "calls 17 'other', another table calls it 'left'" in message_of(bids, suffixes=("T1w",))
    assert plan_bids(bids, suffixes=("T1w",), names=("no", "l", "r")).labels == {"no": 0, "l": 1, "r": 2}
    (bids / "dseg.tsv").write_text("value\tname\n17\tother\n")
    assert "needs columns index (integers) and name" in message_of(bids, suffixes=("T1w",))
    (bids / "dseg.tsv").unlink()
    (bids / "derivatives/manual/sub-03/anat/sub-03_dseg.nii.gz").rename(bids / "sub-03/anat/sub-03_seg.nii.gz")
    plan = plan_bids(bids, suffixes=("T1w",))
    assert plan.cases[-1].label == bids / "sub-03/anat/sub-03_seg.nii.gz"


def test_links_to_absent_content(bids: Path, tmp_path: Path) -> None:
    path = bids / "sub-03/anat/sub-03_T1w.nii.gz"
    path.unlink()
    path.symlink_to(tmp_path / "annex/key")
    with pytest.raises(InputError, match="points to content that is not here"):
        write_dataset(plan_bids(bids, suffixes=("T1w",)), tmp_path / "new")
