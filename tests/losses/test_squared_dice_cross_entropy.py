"""Loss of the EM recipe: values against the formula, gradients, ignored pixels."""

from __future__ import annotations

import math

import pytest
import torch

from monai_ext.losses.squared_dice_cross_entropy import SquaredDiceCrossEntropy


def formula(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Written out pixel by pixel, in float64."""
    p = logits.double().softmax(1)
    cross_entropy = torch.stack(
        [-p[n, labels[n, 0, y, x], y, x].log() for n, _, y, x in torch.ones_like(labels).nonzero().tolist()]
    ).mean()
    dice = []
    for n in range(len(p)):
        for c in range(p.shape[1]):
            t = (labels[n, 0] == c).double()
            dice.append((2 * (p[n, c] * t).sum() + 1e-6) / ((p[n, c] ** 2).sum() + (t**2).sum() + 1e-6))
    return cross_entropy + 1 - torch.stack(dice).mean()


def test_value_and_gradient_follow_the_formula() -> None:
    torch.manual_seed(0)
    logits = torch.randn(3, 2, 5, 4, requires_grad=True)
    labels = torch.randint(0, 2, (3, 1, 5, 4))
    loss = SquaredDiceCrossEntropy()
    value = loss(logits, labels)
    expected = formula(logits, labels)
    torch.testing.assert_close(value.double(), expected, rtol=1e-5, atol=1e-6)  # float32
    (found,) = torch.autograd.grad(value, logits)
    (wanted,) = torch.autograd.grad(expected, logits)
    torch.testing.assert_close(found, wanted.float(), rtol=1e-4, atol=1e-6)
    assert value.item() == pytest.approx(float(loss.last_parts["cross_entropy"] + loss.last_parts["dice"]))


def test_hand_made_value() -> None:
    """Equal logits everywhere, half of the pixels of each class: CE log 2, Dice 2 * 0.5 * 2 / (4 / 4 + 2) = 2 / 3."""
    labels = torch.tensor([[[[0, 1], [1, 0]]]])
    loss = SquaredDiceCrossEntropy()
    assert float(loss(torch.zeros(1, 2, 2, 2), labels)) == pytest.approx(math.log(2) + 1 / 3, abs=1e-5)
    assert float(loss(torch.nn.functional.one_hot(labels[:, 0], 2).permute(0, 3, 1, 2) * 50.0, labels)) < 1e-5


def test_ignored_pixels_change_nothing() -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(1, 2, 4, 4), torch.randint(0, 2, (1, 1, 4, 4))
    loss = SquaredDiceCrossEntropy()
    wide_logits = torch.cat([logits, torch.randn(1, 2, 4, 3)], dim=3)
    wide_labels = torch.cat([labels, torch.full((1, 1, 4, 3), -1)], dim=3)
    torch.testing.assert_close(loss(wide_logits, wide_labels), loss(logits, labels))


def test_half_precision_is_computed_in_float32() -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(1, 2, 64, 64).bfloat16(), torch.randint(0, 2, (1, 1, 64, 64))
    value = SquaredDiceCrossEntropy()(logits, labels)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value.double(), formula(logits, labels), rtol=1e-5, atol=1e-6)
