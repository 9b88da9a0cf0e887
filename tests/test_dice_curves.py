"""Curves of several trainings in one file and one picture."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from monai_ext.dice_curves import add_curve, draw_curves, read_curves
from monai_ext.errors import InputError


def log(path: Path, *dice: float) -> Path:
    rows = [{"epoch": 1, "iteration": 5, "minutes": 0.5, "loss": 1.0}]
    rows += [{"epoch": i, "iteration": 10 * i, "minutes": 1.0 * i, "mean_dice": d} for i, d in enumerate(dice, start=2)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_curves_grow_run_by_run_and_replace_their_own_name(tmp_path: Path) -> None:
    curves = tmp_path / "curves.csv"
    assert add_curve(curves, "a", log(tmp_path / "a.jsonl", 0.5, 0.6)) == 2
    assert add_curve(curves, "b", log(tmp_path / "b.jsonl", 0.7)) == 1
    assert add_curve(curves, "a", log(tmp_path / "a.jsonl", 0.8)) == 1
    rows = read_curves(curves)
    assert [(r["run"], r["minutes"], r["steps"], r["mean_dice"]) for r in rows] == [
        ("b", "2.0", "20", "0.7"),
        ("a", "2.0", "20", "0.8"),
    ]


def test_picture_shows_every_run(tmp_path: Path) -> None:
    curves = tmp_path / "curves.csv"
    add_curve(curves, "a", log(tmp_path / "a.jsonl", 0.5, 0.6, 0.7))
    draw_curves(curves, tmp_path / "one.png")
    add_curve(curves, "b", log(tmp_path / "b.jsonl", 0.2, 0.3))
    draw_curves(curves, tmp_path / "two.png")
    one, two = (np.asarray(Image.open(tmp_path / name).convert("RGB"), int) for name in ("one.png", "two.png"))

    def has_orange(picture: np.ndarray) -> bool:
        return bool(((picture[..., 0] > 220) & (picture[..., 2] < 80)).any())

    assert not has_orange(one)
    assert has_orange(two)  # the second colour of the cycle


def test_log_without_validation_and_foreign_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no epoch was validated"):
        add_curve(tmp_path / "curves.csv", "a", log(tmp_path / "a.jsonl"))
    (tmp_path / "curves.csv").write_text("x,y\n1,2\n")
    with pytest.raises(InputError, match="has columns"):
        read_curves(tmp_path / "curves.csv")
