"""Classification loss against torch, and its own rules: one loss for a label and its one-hot target, focal factors."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from monai_ext.engines import process_group
from monai_ext.errors import InputError
from monai_ext.losses.classification_loss import ClassificationLoss
from rank_processes import on_ranks

WEIGHTS = [0.5, 1.0, 2.0, 0.0, 3.0]


def case(dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(7, 5, generator=generator, dtype=torch.float64)
    return logits.to(dtype).requires_grad_(), torch.tensor([0, 1, 2, 3, 4, 1, 4])


def soft(logits: torch.Tensor) -> torch.Tensor:
    return torch.rand(logits.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).softmax(1)


@pytest.mark.parametrize("weights", [None, WEIGHTS])
@pytest.mark.parametrize("gamma", [0.0, 2.0])
def test_label_and_one_hot_target_are_one_loss(weights: list[float] | None, gamma: float) -> None:
    logits, labels = case()
    loss = ClassificationLoss(class_weights=weights, focal_gamma=gamma)
    found = loss(logits, labels)
    torch.testing.assert_close(loss(logits, F.one_hot(labels, 5).double()), found)
    if gamma == 0:
        weight = None if weights is None else torch.tensor(weights, dtype=torch.float64)
        torch.testing.assert_close(found, F.cross_entropy(logits, labels, weight=weight))


def test_soft_targets_without_weights_are_those_of_torch() -> None:
    logits, _ = case()
    torch.testing.assert_close(ClassificationLoss()(logits, soft(logits)), F.cross_entropy(logits, soft(logits)))


def test_soft_targets_are_linear_between_labels() -> None:
    """Mixup: the loss of a mixture is the mixture of the losses, weights included (in the divisor as well)."""
    logits, labels = case()
    one, other = F.one_hot(labels, 5).double(), F.one_hot(labels.flip(0), 5).double()
    weights = torch.tensor(WEIGHTS, dtype=torch.float64)
    nll = -logits.log_softmax(1) * weights
    mixed = 0.3 * one + 0.7 * other
    expected = (0.3 * (one * nll).sum() + 0.7 * (other * nll).sum()) / (mixed * weights).sum()
    torch.testing.assert_close(ClassificationLoss(class_weights=WEIGHTS)(logits, mixed), expected)


@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_several_labels_are_binary_cross_entropy(weights: list[float] | None) -> None:
    logits, _ = case()
    targets = (soft(logits) > 0.2).double()
    pos = None if weights is None else torch.tensor(weights, dtype=torch.float64)
    expected = F.binary_cross_entropy_with_logits(logits, targets, pos_weight=pos)
    torch.testing.assert_close(ClassificationLoss(True, weights)(logits, targets), expected)
    torch.testing.assert_close(ClassificationLoss(True, weights)(logits, targets.long()), expected)


def test_focal_factor_by_hand() -> None:
    """Two classes with p = 0.9 and 0.1: the right image counts 0.1^2, the wrong one 0.9^2."""
    logits = torch.tensor([[0.0, math.log(9)], [0.0, math.log(9)]], dtype=torch.float64)
    found = ClassificationLoss(focal_gamma=2.0)(logits, torch.tensor([1, 0]))
    assert found.item() == pytest.approx(-(0.01 * math.log(0.9) + 0.81 * math.log(0.1)) / 2)
    binary = ClassificationLoss(True, focal_gamma=2.0)(logits[:, 1:], torch.tensor([[1.0], [0.0]]))
    assert binary.item() == pytest.approx(-(0.01 * math.log(0.9) + 0.81 * math.log(0.1)) / 2)


@pytest.mark.parametrize("gamma", [0.0, 1.0, 2.5])
@pytest.mark.parametrize("multi_label", [False, True])
def test_gradients(multi_label: bool, gamma: float) -> None:
    logits, labels = case()
    loss = ClassificationLoss(multi_label, WEIGHTS, gamma)
    assert torch.autograd.gradcheck(lambda x: loss(x, soft(logits)), logits)
    if not multi_label:
        assert torch.autograd.gradcheck(lambda x: loss(x, labels), logits)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("multi_label", [False, True])
def test_half_precision_logits_are_computed_in_float32(multi_label: bool, dtype: torch.dtype) -> None:
    logits, _ = case(dtype)
    loss = ClassificationLoss(multi_label, focal_gamma=2.0)
    found = loss(logits, soft(logits).float())
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, loss(logits.float(), soft(logits).float()))


@pytest.mark.parametrize("gamma", [0.0, 2.0])
@pytest.mark.parametrize("multi_label", [False, True])
def test_extreme_logits_stay_finite(multi_label: bool, gamma: float) -> None:
    logits = torch.tensor([[1e4, -1e4], [-1e4, 1e4], [0.0, 0.0]], requires_grad=True)
    targets = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.5, 0.5]])
    loss = ClassificationLoss(multi_label, focal_gamma=gamma)(logits, targets)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert torch.isfinite(loss)
    assert torch.isfinite(gradient).all()


def test_labels_that_weigh_nothing_give_zero() -> None:
    """PyTorch's own gives 0 / 0 for such a batch."""
    logits, _ = case()
    for gamma in (0.0, 2.0):
        found = ClassificationLoss(class_weights=WEIGHTS, focal_gamma=gamma)(logits[:2], torch.tensor([3, 3]))
        assert found.item() == 0
        assert torch.autograd.grad(found, logits)[0].abs().max() == 0


@pytest.mark.parametrize("weights", [[1.0, 2.0], [-1, 1, 1], [0, 0, 0], [float("nan"), 1, 1], ["a", 1, 1]])
def test_class_weights_must_fit(weights: list) -> None:
    with pytest.raises(InputError, match=r"--class_weights .*3 finite numbers.*Cure"):
        ClassificationLoss(class_weights=weights, num_classes=3)


def test_wrong_shapes_are_refused() -> None:
    logits, labels = case()
    with pytest.raises(ValueError, match="targets must be"):
        ClassificationLoss()(logits, labels[:-1])
    with pytest.raises(ValueError, match=r"targets must be \[B, K\]"):
        ClassificationLoss(multi_label=True)(logits, labels)
    with pytest.raises(ValueError, match="3 class weights for 5 classes"):
        ClassificationLoss(class_weights=[1, 2, 3])(logits, labels)
    with pytest.raises(ValueError, match="focal_gamma"):
        ClassificationLoss(focal_gamma=0.5)


def test_weights_are_not_in_the_state() -> None:
    assert ClassificationLoss(class_weights=WEIGHTS).state_dict() == {}


def _share(gamma: float) -> tuple[float, list[list[float]]]:
    logits, labels = case()
    part = slice(3) if process_group.rank() == 0 else slice(3, 6)
    loss = ClassificationLoss(class_weights=WEIGHTS, focal_gamma=gamma)(logits[part], labels[part])
    loss.backward()
    assert logits.grad is not None
    return float(loss), logits.grad.tolist()


@pytest.mark.parametrize("gamma", [0.0, 2.0])
def test_weighted_classes_of_two_ranks_are_one_batch(gamma: float) -> None:
    """The mean of loss and gradient over the ranks; their sums of weights differ, 3.5 and 4."""
    logits, labels = case()
    whole = ClassificationLoss(class_weights=WEIGHTS, focal_gamma=gamma)(logits[:6], labels[:6])
    whole.backward()
    losses, gradients = zip(*on_ranks(_share, 2, gamma), strict=True)
    assert sum(losses) / 2 == pytest.approx(float(whole), rel=1e-6)
    torch.testing.assert_close(torch.tensor(gradients).double().mean(0), logits.grad, rtol=1e-6, atol=1e-8)
