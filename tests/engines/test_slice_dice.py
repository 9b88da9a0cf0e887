"""Dice over validation slices."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from monai_ext.engines.slice_dice import SliceDice, hard_dice


def probabilities(background: torch.Tensor) -> torch.Tensor:
    return torch.stack([1 - background, background], 1)


def test_hard_dice_of_hand_made_slices() -> None:
    """Reference: left half background. Prediction: three of four columns background."""
    labels = torch.zeros(2, 1, 4, 4, dtype=torch.long)
    labels[0, 0, :, :2] = 1
    predicted = torch.zeros(2, 4, 4)
    predicted[0, :, :3] = 0.9
    found = hard_dice(probabilities(predicted), labels)
    assert found[0].tolist() == pytest.approx([2 * 4 / (4 + 8), 2 * 8 / (12 + 8)])
    assert found[1].tolist() == [1.0, 1.0]  # background absent from both


def test_every_slice_counts_once_whatever_the_batches() -> None:
    generator = torch.Generator().manual_seed(0)
    p = probabilities(torch.rand(5, 8, 8, generator=generator))
    y = torch.randint(0, 2, (5, 1, 8, 8), generator=generator)
    scores = []
    for parts in ([5], [2, 3], [1, 1, 1, 1, 1]):
        metric, engine = SliceDice(), SimpleNamespace(state=SimpleNamespace(metrics={}))
        for a, b in zip(p.split(parts), y.split(parts), strict=True):
            metric.update((a, b))
        metric.completed(engine, "soft_dice")  # type: ignore[arg-type]
        scores.append((engine.state.metrics["soft_dice"], *engine.state.class_scores.values()))
        assert list(engine.state.class_scores) == ["membrane", "background"]
    assert scores[0] == pytest.approx(scores[1])
    assert scores[0] == pytest.approx(scores[2])


def test_labels_are_brought_to_the_size_of_the_probabilities() -> None:
    labels = torch.zeros(1, 1, 8, 8, dtype=torch.long)
    labels[..., 4:] = 1
    background = torch.zeros(1, 4, 4)
    background[..., 2:] = 1
    metric = SliceDice()
    metric.update((probabilities(background), labels))
    assert metric.compute() == pytest.approx(1.0, abs=1e-6)
    metric.reset()
    assert metric.compute() != metric.compute()  # not a number without slices
