from __future__ import annotations

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from monai_ext.datasets import phantom
from monai_ext.datasets.dataset_check import check_dataset
from monai_ext.datasets.image_files import read_image, read_label
from monai_ext.datasets.msd import read_msd
from monai_ext.datasets.phantom import draw_case, make_phantom
from monai_ext.errors import InputError


def contents(folder: Path) -> dict[str, str]:
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def test_dataset_is_complete_and_passes_the_check(tmp_path: Path) -> None:
    folder = make_phantom(tmp_path / "Phantom", num_cases=6)
    assert folder == tmp_path / "Phantom"
    dataset = read_msd(folder)
    assert (len(dataset.training), len(dataset.test)) == (6, 2)
    assert dataset.foreground_classes == {"ellipsoid": 1, "tube": 2}
    assert check_dataset(dataset) == []
    spacings = set()
    for case in dataset.training:
        assert case.label is not None
        image, geometry = read_image(case.images)
        label, _ = read_label(case.label)
        assert np.unique(label).tolist() == [0, 1, 2]
        depth, height, width = geometry.shape
        assert 20 <= depth <= 32
        assert 32 <= height <= 48
        assert 32 <= width <= 48
        assert geometry.spacing[1:] == (1.0, 1.0)
        assert 1.5 <= geometry.spacing[0] <= 2.0
        assert geometry.orientation == "LAS"
        assert image[0, label == 1].mean() > image.mean()
        spacings.add(geometry.spacing[0])
    assert len(spacings) > 1


def test_same_seed_gives_the_same_bytes_and_another_seed_does_not(tmp_path: Path) -> None:
    first, second = (contents(make_phantom(tmp_path / name, 2)) for name in ("a", "b"))
    other = contents(make_phantom(tmp_path / "c", 2, seed=1))
    assert first == second
    assert first.keys() == other.keys()
    assert all(first[name] != other[name] for name in first)


def test_cases_do_not_depend_on_their_number(tmp_path: Path) -> None:
    few, many = (contents(make_phantom(tmp_path / str(n), n)) for n in (2, 4))
    assert few["imagesTr/phantom_002.nii.gz"] == many["imagesTr/phantom_002.nii.gz"]


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return float(2 * (a & b).sum() / max(1, a.sum() + b.sum()))


def test_intensity_alone_does_not_separate_the_classes() -> None:
    """Even thresholds chosen per case with the label in hand stay below what a network is asked to reach (0.85)."""
    scores = []
    thresholds = range(250, 1000, 20)
    for index in range(8):
        image, label, _ = draw_case(0, index)
        bands = [(low, high) for low in thresholds for high in thresholds if high > low]
        ellipsoid = max(dice((image > low) & (image <= high), label == 1) for low, high in bands)
        tube = max(dice(image > low, label == 2) for low in thresholds)
        scores.append((ellipsoid + tube) / 2)
    assert 0.4 < np.mean(scores) < 0.8


def test_complete_folder_is_left_alone(tmp_path: Path) -> None:
    folder = make_phantom(tmp_path / "p", 2)
    before = {p: p.stat().st_mtime_ns for p in folder.rglob("*")}
    assert make_phantom(folder, 2) == folder
    assert {p: p.stat().st_mtime_ns for p in folder.rglob("*")} == before


@pytest.mark.parametrize("change", ["other seed", "other number", "file missing", "foreign"])
def test_another_folder_is_not_overwritten(change: str, tmp_path: Path) -> None:
    folder = tmp_path / "p"
    if change == "foreign":
        folder.mkdir()
        (folder / "thesis.txt").write_text("mine", encoding="utf-8")
    else:
        make_phantom(folder, 2)
    if change == "file missing":
        (folder / "labelsTr" / "phantom_001.nii.gz").unlink()
    before = contents(folder)
    with pytest.raises(InputError, match=r"p: exists and is not the phantom with num_cases=.*Cure: "):
        make_phantom(folder, 3 if change == "other number" else 2, seed=1 if change == "other seed" else 0)
    assert contents(folder) == before
    assert os.listdir(tmp_path) == ["p"]


def test_interrupted_writing_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full_disk(*_: object) -> None:
        raise OSError("no space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(phantom, "_write", full_disk)
        with pytest.raises(InputError, match="no space"):
            make_phantom(tmp_path / "p", 2)
    assert os.listdir(tmp_path) == []
    assert make_phantom(tmp_path / "p", 2).is_dir()


def test_several_callers_may_ask_for_it_at_once(tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        folders = list(pool.map(lambda _: make_phantom(tmp_path / "p", 2), range(4)))
    assert folders == [tmp_path / "p"] * 4
    assert os.listdir(tmp_path) == ["p"]
    assert contents(tmp_path / "p") == contents(make_phantom(tmp_path / "q", 2))


def test_empty_folder_is_filled(tmp_path: Path) -> None:
    (tmp_path / "p").mkdir()
    assert len(read_msd(make_phantom(tmp_path / "p", 2)).training) == 2


def test_one_case_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"num_cases must be at least 2, found 1.*Cure: 20"):
        make_phantom(tmp_path / "p", 1)
