"""Soft Dice with squared denominators: values by hand, a direct formula, dtypes, ignored pixels, gradients."""

from __future__ import annotations

import pytest
import torch

from monai_ext.evaluation.soft_dice import soft_dice


def random_case(seed: int, num_classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(3, num_classes, 7, 5, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, num_classes, (3, 1, 7, 5), generator=generator)
    return logits.softmax(1), labels


def test_value_by_hand() -> None:
    """Two pixels, labels 1 and 0. Class 1: 2 * 0.8 / (0.64 + 0.16 + 1); class 0: 2 * 0.6 / (0.04 + 0.36 + 1)."""
    probabilities = torch.tensor([[[[0.2, 0.6]], [[0.8, 0.4]]]], dtype=torch.float64)
    labels = torch.tensor([[[[1, 0]]]])
    expected = torch.tensor([[1.2 / 1.4, 1.6 / 1.8]], dtype=torch.float64)
    torch.testing.assert_close(soft_dice(probabilities, labels, epsilon=0.0), expected)
    expected = torch.tensor([[1.7 / 1.9, 2.1 / 2.3]], dtype=torch.float64)
    torch.testing.assert_close(soft_dice(probabilities, labels, epsilon=0.5), expected)


@pytest.mark.parametrize("num_classes", [2, 4])
def test_equals_the_formula_on_one_hot_labels(num_classes: int) -> None:
    probabilities, labels = random_case(0, num_classes)
    target = torch.nn.functional.one_hot(labels[:, 0], num_classes).movedim(-1, 1).double()
    shared, axes = (probabilities * target), (2, 3)
    sums = probabilities.pow(2).sum(axes) + target.pow(2).sum(axes)
    expected = (2 * shared.sum(axes) + 1e-6) / (sums + 1e-6)
    torch.testing.assert_close(soft_dice(probabilities, labels), expected)


def test_perfect_and_opposite() -> None:
    labels = torch.tensor([[[[0, 1], [1, 1]]]])
    certain = torch.nn.functional.one_hot(labels[:, 0], 2).movedim(-1, 1).float()
    assert soft_dice(certain, labels).tolist() == [[1.0, 1.0]]
    # only epsilon is left of the numerator, over 1 + 3 pixels
    torch.testing.assert_close(soft_dice(1 - certain, labels), torch.full((1, 2), 1e-6 / 4))


def test_absent_class_without_probability_scores_1() -> None:
    labels = torch.ones(1, 1, 4, 4, dtype=torch.uint8)
    probabilities = torch.stack([torch.zeros(1, 4, 4), torch.ones(1, 4, 4)], dim=1)
    assert soft_dice(probabilities, labels).tolist() == [[1.0, 1.0]]


def test_samples_do_not_mix() -> None:
    probabilities, labels = random_case(1, 2)
    alone = torch.cat([soft_dice(probabilities[i : i + 1], labels[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(soft_dice(probabilities, labels), alone)


def test_masked_pixels_with_a_label_of_no_class_do_not_count() -> None:
    probabilities, labels = random_case(2, 2)
    expected = soft_dice(probabilities[..., :3], labels[..., :3])
    labels = labels.clone()
    labels[..., 3:] = -1
    torch.testing.assert_close(soft_dice(probabilities * (labels >= 0), labels), expected)


@pytest.mark.parametrize(
    ("given", "computed"),
    [(torch.float16, torch.float32), (torch.bfloat16, torch.float32), (torch.float64, torch.float64)],
)
def test_computes_in_float32_at_least(given: torch.dtype, computed: torch.dtype) -> None:
    """600 x 600 pixels: a sum of 360000 is beyond float16 (65504) and beyond bfloat16's 8 bits of precision."""
    probabilities = torch.full((1, 2, 600, 600), 0.5, dtype=given)
    labels = torch.ones(1, 1, 600, 600, dtype=torch.uint8)
    scores = soft_dice(probabilities, labels)
    assert scores.dtype == computed
    # class 1: 2 * n/2 / (n/4 + n); class 0 gets nothing but epsilon; rounding of float32 sums of 360000 terms
    torch.testing.assert_close(scores, torch.tensor([[0.0, 0.8]], dtype=computed), rtol=1e-5, atol=1e-6)


def test_gradient() -> None:
    probabilities, labels = random_case(3, 2)
    assert torch.autograd.gradcheck(lambda p: soft_dice(p, labels), probabilities.requires_grad_())


@pytest.mark.parametrize(
    ("probabilities", "labels", "message"),
    [
        (torch.zeros(1, 2, 4, 4, dtype=torch.int64), torch.zeros(1, 1, 4, 4, dtype=torch.int64), "floating point"),
        (torch.zeros(1, 2, 4, 4), torch.zeros(1, 1, 4, 4), "integers"),
        (torch.zeros(1, 2, 4, 4), torch.zeros(1, 4, 4, dtype=torch.int64), "do not fit"),
        (torch.zeros(2, 2, 4, 4), torch.zeros(1, 1, 4, 4, dtype=torch.int64), "do not fit"),
    ],
)
def test_refuses(probabilities: torch.Tensor, labels: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        soft_dice(probabilities, labels)
