"""What becomes of predicted slices."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import itk
import numpy as np
import pytest
import torch

from monai_ext.engines.slice_outputs import SliceEvaluation, StackPrediction, masks_name
from monai_ext.errors import InputError


def stripes(size: int = 32) -> torch.Tensor:
    """Labels `[1, 1, size, size]`: two cells, a membrane of four pixels between them."""
    labels = torch.ones(1, 1, size, size, dtype=torch.long)
    labels[..., size // 2 - 2 : size // 2 + 2] = 0
    return labels


def state(labels: torch.Tensor, background: torch.Tensor, names: list[str]) -> Any:
    prediction = torch.cat([1 - background, background], 1)
    output = {"image": torch.randn(labels.shape), "pred": prediction, "label": labels}
    return SimpleNamespace(state=SimpleNamespace(output=output, batch={"case": names}))


def evaluate(folder: Path, labels: torch.Tensor, background: torch.Tensor) -> dict[str, Any]:
    (folder / "model.pt").write_bytes(b"weights")
    evaluation = SliceEvaluation(folder / "evaluation", {"fold": 3}, str(folder / "model.pt"), [0.25, 0.5])
    evaluation._collect(state(labels, background, ["slice 04"]))
    evaluation._finish()
    return json.loads((folder / "evaluation" / "summary.json").read_text())


def test_perfect_slice_scores_one(tmp_path: Path) -> None:
    summary = evaluate(tmp_path, stripes(), stripes().float())
    for name in ("soft_dice", "soft_dice_network", "dice_membrane", "dice_background"):
        assert summary[name] == pytest.approx(1)
    assert summary["v_rand"] > 0.9  # thinning may move the line between the cells by a pixel
    assert summary["fold"] == 3
    assert len(summary["model_sha256"]) == 64
    assert list(json.loads((tmp_path / "evaluation" / "metrics.json").read_text())) == ["slice 04"]
    for name in ("probabilities.tif", "overlay.png", "metrics.csv"):
        assert (tmp_path / "evaluation" / name).stat().st_size > 0


def test_merged_cells_cost_the_partition_not_the_pixels(tmp_path: Path) -> None:
    """A membrane with a gap: hard Dice stays high, V_rand falls to that of one segment, 2 / 3."""
    background = stripes().float()
    background[..., 10:14, :] = 1
    summary = evaluate(tmp_path, stripes(), background)
    assert summary["dice_membrane"] > 0.9
    assert summary["v_rand"] == pytest.approx(2 * 0.5 / (1 + 0.5), abs=0.05)


def test_smaller_prediction_is_scored_at_both_sizes(tmp_path: Path) -> None:
    labels = stripes()
    background = torch.nn.functional.interpolate(labels.float(), size=(12, 12), mode="bilinear")
    summary = evaluate(tmp_path, labels, background)
    assert summary["soft_dice_network"] != summary["soft_dice"]
    assert itk.array_from_image(itk.imread(str(tmp_path / "evaluation/probabilities.tif"))).shape[-2:] == (32, 32)


@pytest.mark.parametrize(("form", "dtype"), [("probability", np.float32), ("labels", np.uint8)])
def test_stack_is_written_page_by_page_at_full_size(tmp_path: Path, form: str, dtype: type) -> None:
    prediction = StackPrediction(tmp_path / "out" / "test-masks.tif", form)
    background = torch.linspace(0, 1, 8 * 8).reshape(1, 1, 8, 8)
    for _ in range(3):
        prediction._collect(state(torch.zeros(1, 1, 16, 16), background, []))
    prediction._finish()
    pages = itk.array_from_image(itk.imread(str(tmp_path / "out" / "test-masks.tif")))
    assert pages.shape == (3, 16, 16)
    assert pages.dtype == dtype
    assert pages.min() == 0
    assert pages.max() == (1 if form == "probability" else 255)
    with pytest.raises(InputError, match="exists already"):
        prediction.check_new(overwrite=False)
    prediction.check_new(overwrite=True)


def test_names_and_formats() -> None:
    assert masks_name("a/test-volume.tif") == "test-masks.tif"
    assert masks_name("cells.tiff") == "cells-masks.tif"
    assert masks_name("TEST-volume.TIF") == "TEST-masks.tif"
    assert masks_name("my.tif.copy.tif") == "my.tif.copy-masks.tif"
    for thresholds in ([], [5], [0.0]):
        with pytest.raises(InputError, match="--thresholds"):
            SliceEvaluation("x", {}, "model.pt", thresholds)
    with pytest.raises(InputError, match="--pred_format 'npy'"):
        StackPrediction("x.tif", "npy")
