"""The phantom: the same every time, and its colours do not tell the class."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from monai_ext.datasets.class_check import check_classification
from monai_ext.datasets.class_open import open_classification
from monai_ext.datasets.class_phantom import CLASSES, draw_picture, make_class_phantom
from monai_ext.errors import InputError


def test_layout_and_content(tmp_path: Path) -> None:
    folder = make_class_phantom(tmp_path / "p", num_train=3, num_val=2)
    dataset, report = check_classification(open_classification(folder))
    assert dataset.classes == CLASSES
    assert report.counts == {"train": (3,) * 4, "val": (2,) * 4}
    assert report.kinds == {"RGB 8-bit": 20}
    assert not report.warnings
    assert min(report.smallest) >= 76
    assert max(report.largest) <= 96
    stored = np.asarray(Image.open(folder / "val" / "discs" / "discs_004.png"))
    np.testing.assert_array_equal(stored, draw_picture("discs", 0, 4))
    assert not np.array_equal(draw_picture("discs", 0, 4), draw_picture("discs", 1, 4))


def test_a_finished_phantom_is_left_alone_and_others_are_replaced(tmp_path: Path) -> None:
    folder = make_class_phantom(tmp_path, num_train=2, num_val=1)
    times = {path: path.stat().st_mtime_ns for path in folder.rglob("*.png")}
    assert {path: path.stat().st_mtime_ns for path in make_class_phantom(tmp_path, 2, 1).rglob("*.png")} == times
    (folder / "train" / "discs" / "discs_000.png").unlink()
    make_class_phantom(tmp_path, 2, 1)
    assert (folder / "train" / "discs" / "discs_000.png").exists()
    make_class_phantom(tmp_path, num_train=1, num_val=1)
    assert sum(1 for _ in folder.rglob("*.png")) == 8
    assert [path.name for path in folder.glob(".*")] == [".phantom-1-1-1-0"]


def test_other_files_are_never_touched(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    with pytest.raises(InputError, match="holds files that are no phantom"):
        make_class_phantom(tmp_path)
    with pytest.raises(InputError, match="0 and 20 pictures per class"):
        make_class_phantom(tmp_path / "x", num_train=0)


def test_colours_do_not_tell_the_class() -> None:
    # nearest neighbours of mean and deviation of each channel; chance is 0.25
    features, labels = [], []
    for label, kind in enumerate(CLASSES):
        for index in range(40):
            picture = draw_picture(kind, 0, index) / 255
            features.append([*picture.mean((0, 1)), *picture.std((0, 1))])
            labels.append(label)
    for columns in (slice(0, 3), slice(0, 6)):
        x, y = np.array(features)[:, columns], np.array(labels)
        distance = np.square((x - x[:, None]) / x.std(0)).sum(-1)
        np.fill_diagonal(distance, np.inf)
        nearest = y[np.argsort(distance, axis=1)[:, :9]]
        guess = np.array([np.bincount(row, minlength=4).argmax() for row in nearest])
        assert (guess == y).mean() < 0.55
