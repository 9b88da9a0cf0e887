"""Dice + cross-entropy against MONAI and torch, and its own rules."""

from __future__ import annotations

import pytest
import torch
from monai.losses import DiceCELoss, DiceLoss, FocalLoss

from monai_ext.errors import InputError
from monai_ext.losses.deep_supervision import DeeplySupervised
from monai_ext.losses.dice_cross_entropy import DiceCrossEntropy


def case(seed: int = 0, shape: tuple[int, ...] = (5, 7, 3), classes: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, classes, *shape, generator=generator, dtype=torch.float64).float().requires_grad_()
    return logits, torch.randint(0, classes, (2, 1, *shape), generator=generator)


@pytest.mark.parametrize("batch_dice", [False, True])
@pytest.mark.parametrize("shape", [(5, 7, 3), (6, 4)])
def test_equals_monai_dice_and_torch_cross_entropy(batch_dice: bool, shape: tuple[int, ...]) -> None:
    logits, labels = case(shape=shape)
    theirs = DiceLoss(
        include_background=False, to_onehot_y=True, softmax=True, batch=batch_dice, smooth_nr=1e-5, smooth_dr=1e-5
    )
    expected = theirs(logits, labels) + torch.nn.functional.cross_entropy(logits, labels[:, 0])
    found = DiceCrossEntropy(batch_dice=batch_dice)(logits, labels)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)  # sums in another order, float32
    (gradient,) = torch.autograd.grad(found, logits, retain_graph=True)
    (reference,) = torch.autograd.grad(expected, logits)
    torch.testing.assert_close(gradient, reference, rtol=1e-4, atol=1e-8)


def test_class_weights_are_those_of_torch() -> None:
    logits, labels = case()
    weights = [0.1, 1.0, 2.0, 3.0]
    _, found = DiceCrossEntropy(class_weights=weights).parts(logits, labels)
    expected = torch.nn.functional.cross_entropy(logits, labels[:, 0], weight=torch.tensor(weights))
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("weights", [[1, 2], [1, 2, 3, 4], [-1, 1, 1], ["a", "b", "c"]])
def test_class_weights_must_fit_the_classes(weights: list) -> None:
    DiceCrossEntropy(class_weights=[0, 1, 2.5], num_classes=3)
    with pytest.raises(InputError, match="needs 3 numbers"):
        DiceCrossEntropy(class_weights=weights, num_classes=3)


@pytest.mark.parametrize("batch_dice", [False, True])
def test_ignored_voxels_count_in_neither_term(batch_dice: bool) -> None:
    logits, labels = case()
    loss = DiceCrossEntropy(batch_dice=batch_dice, ignore_index=9)
    marked = labels.clone()
    marked[:, :, :2] = 9
    cut = DiceCrossEntropy(batch_dice=batch_dice)(logits[:, :, 2:], labels[:, :, 2:])
    torch.testing.assert_close(loss(logits, marked), cut)
    (gradient,) = torch.autograd.grad(loss(logits, marked), logits)
    assert gradient[:, :, :2].abs().max() == 0
    assert gradient[:, :, 2:].abs().max() > 0


@pytest.mark.parametrize(("dice_weight", "ce_weight"), [(1.0, 1.0), (0.5, 2.0)])
def test_equals_monai_dice_ce_loss(dice_weight: float, ce_weight: float) -> None:
    """The published sum: batch Dice without background, smooth 1e-5, plus mean cross-entropy, in value and gradient."""
    logits, labels = case(seed=3)
    theirs = DiceCELoss(
        include_background=False,
        to_onehot_y=True,
        softmax=True,
        batch=True,
        lambda_dice=dice_weight,
        lambda_ce=ce_weight,
    )
    ours = DiceCrossEntropy(batch_dice=True, dice_weight=dice_weight, ce_weight=ce_weight)
    found, expected = ours(logits, labels), theirs(logits, labels)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)  # sums in another order, float32
    (gradient,) = torch.autograd.grad(found, logits)
    (reference,) = torch.autograd.grad(expected, logits)
    torch.testing.assert_close(gradient, reference, rtol=1e-4, atol=1e-8)


def test_class_weights_leave_dice_alone() -> None:
    """In MONAI `weight` scales the Dice terms as well; here it is of the voxel-wise term only."""
    logits, labels = case(seed=4)
    weights = torch.tensor([0.2, 1.0, 2.0, 3.0])
    options = {"include_background": False, "to_onehot_y": True, "softmax": True, "batch": True}
    dice, cross_entropy = DiceCrossEntropy(batch_dice=True, class_weights=weights.tolist()).parts(logits, labels)
    torch.testing.assert_close(cross_entropy, DiceCELoss(**options, weight=weights, lambda_dice=0.0)(logits, labels))
    torch.testing.assert_close(dice, DiceCELoss(**options, lambda_ce=0.0)(logits, labels))


def plain_focal(
    logits: torch.Tensor, labels: torch.Tensor, gamma: float, weights: torch.Tensor, ignored: int = -1
) -> torch.Tensor:
    """Weighted mean of -(1 - p_t)^gamma log p_t over the voxels that count, written out."""
    rows, target = logits.movedim(1, -1).flatten(0, -2), labels.flatten()
    rows, target = rows[target != ignored], target[target != ignored]
    p = (rows.exp() / rows.exp().sum(1, keepdim=True))[torch.arange(len(target)), target]
    weight = weights[target]
    return (-weight * (1 - p) ** gamma * p.log()).sum() / weight.sum()


@pytest.mark.parametrize("gamma", [1.0, 2.0, 3.5])
@pytest.mark.parametrize("weights", [None, [0.1, 1.0, 2.0, 3.0]])
@pytest.mark.parametrize("ignore", [False, True])
def test_focal_loss_and_gradient_equal_the_formula(gamma: float, weights: list | None, ignore: bool) -> None:
    logits, labels = case(seed=5)
    if ignore:
        labels[:, :, :2] = 9
    loss = DiceCrossEntropy(focal_gamma=gamma, class_weights=weights, ignore_index=9 if ignore else None)
    _, found = loss.parts(logits, labels)
    exact = logits.detach().double().requires_grad_()
    expected = plain_focal(exact, labels, gamma, torch.tensor(weights or [1.0] * 4, dtype=torch.float64), 9)
    torch.testing.assert_close(found, expected.float(), rtol=1e-5, atol=1e-7)  # float32 sums
    (gradient,) = torch.autograd.grad(found, logits)
    (reference,) = torch.autograd.grad(expected, exact)
    torch.testing.assert_close(gradient, reference.float(), rtol=1e-4, atol=1e-8)


def test_focal_loss_equals_that_of_monai() -> None:
    """MONAI's mean counts every class of every voxel, of which all but the target's are zero."""
    logits, labels = case(seed=6)
    theirs = FocalLoss(include_background=True, to_onehot_y=True, gamma=2.0, use_softmax=True)
    _, found = DiceCrossEntropy(focal_gamma=2.0).parts(logits, labels)
    torch.testing.assert_close(found, theirs(logits, labels) * logits.shape[1], rtol=1e-5, atol=1e-7)


def test_focal_loss_replaces_the_cross_entropy_and_counts_easy_voxels_less() -> None:
    logits, labels = case()
    dice, cross_entropy = DiceCrossEntropy().parts(logits, labels)
    same, focal = DiceCrossEntropy(focal_gamma=2.0).parts(logits, labels)
    assert focal < cross_entropy
    torch.testing.assert_close(same, dice, rtol=0, atol=0)
    torch.testing.assert_close(DiceCrossEntropy(focal_gamma=2.0)(logits, labels), dice + focal)
    supervised = DeeplySupervised(DiceCrossEntropy(focal_gamma=2.0))
    torch.testing.assert_close(supervised(logits, labels), dice + focal)
    assert set(supervised.last_parts) == {"dice", "focal"}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_focal_loss_of_half_precision_is_that_of_float32(dtype: torch.dtype) -> None:
    """Certain and hopeless voxels too: 1 - p vanishes for the first, p for the second."""
    logits, labels = case()
    logits = (logits.detach() * 40).to(dtype).requires_grad_()
    loss = DiceCrossEntropy(focal_gamma=2.0)
    found = loss(logits, labels)
    torch.testing.assert_close(found, loss(logits.detach().float(), labels), rtol=0, atol=0)
    (gradient,) = torch.autograd.grad(found, logits)
    assert gradient.isfinite().all()
    assert found.isfinite()


@pytest.mark.parametrize("gamma", [-1.0, 0.5, float("nan")])
def test_focal_gamma_without_a_finite_gradient_is_refused(gamma: float) -> None:
    with pytest.raises(ValueError, match="0 or at least 1"):
        DiceCrossEntropy(focal_gamma=gamma)


def test_perfect_prediction_has_no_loss() -> None:
    _, labels = case()
    logits = 50 * torch.nn.functional.one_hot(labels[:, 0], 4).movedim(-1, 1).float()
    dice, cross_entropy = DiceCrossEntropy().parts(logits, labels)
    assert float(dice) == pytest.approx(0, abs=1e-6)
    assert float(cross_entropy) == pytest.approx(0, abs=1e-6)


def test_half_precision_logits_are_summed_in_float32() -> None:
    logits, labels = case()
    full = DiceCrossEntropy()(logits.half().float(), labels)
    torch.testing.assert_close(DiceCrossEntropy()(logits.half(), labels), full, rtol=0, atol=0)


@pytest.mark.parametrize("value", [-1, 4])
def test_label_without_class_is_refused(value: int) -> None:
    logits, labels = case()
    labels[0, 0, 0, 0, 0] = value
    with pytest.raises(ValueError, match="network has 4 classes"):
        DiceCrossEntropy()(logits, labels)


def test_deep_supervision_weights_sum_to_one() -> None:
    logits, labels = case(shape=(8, 8, 4))
    loss = DeeplySupervised(DiceCrossEntropy())
    flat = DiceCrossEntropy()
    coarse = torch.randn(2, 4, 4, 4, 2, generator=torch.Generator().manual_seed(1))
    down = labels[:, :, 1::2, 1::2, 1::2]  # the voxel under the coarse voxel's centre
    expected = 2 / 3 * flat(logits, labels) + 1 / 3 * flat(coarse, down)
    torch.testing.assert_close(loss([logits, coarse], labels), expected)
    assert set(loss.last_parts) == {"dice", "cross_entropy"}
    torch.testing.assert_close(loss(logits, labels), flat(logits, labels))
