"""Losses of the detector."""

from __future__ import annotations

from math import exp, log

import pytest
import torch

from monai_ext.errors import InputError
from monai_ext.losses.detection_loss import (
    LOSSES,
    DetectionLoss,
    box_losses,
    mask_loss,
    rpn_losses,
    weighted_loss,
)


def rows(*values: float) -> torch.Tensor:
    return torch.tensor(values)[:, None].expand(-1, 4).contiguous()


def test_of_anchors_by_hand() -> None:
    logits = torch.tensor([2.0, -1.0, 0.5, 9.0])
    labels = torch.tensor([1, 0, 1, -1], dtype=torch.int8)
    found = rpn_losses(logits, rows(1.0, 50.0, 0.0, 50.0), labels, rows(0.5, 0.0, 2.0, 0.0), 10)
    expected = (log(1 + exp(-2.0)) + log(1 + exp(-1.0)) + log(1 + exp(-0.5))) / 10
    assert found[0].item() == pytest.approx(expected, rel=1e-6)
    assert found[1].item() == pytest.approx(4 * (0.5 + 2.0) / 10)
    smooth = rpn_losses(logits, rows(1.0, 50.0, 0.0, 50.0), labels, rows(0.5, 0.0, 2.0, 0.0), 10, beta=1.0)
    assert smooth[1].item() == pytest.approx(4 * (0.5 * 0.25 + 1.5) / 10)


def test_of_regions_by_hand() -> None:
    logits = torch.tensor([[1.0, 3.0, 0.0], [2.0, 0.0, 0.0], [0.0, 0.0, 0.0], [8.0, -8.0, 0.0]])
    labels = torch.tensor([2, 0, 1, -1])
    deltas = torch.zeros(4, 2, 4)
    deltas[0, 0], deltas[0, 1], deltas[1], deltas[2, 0], deltas[2, 1] = 90, 1, 90, 0.5, 90
    found = box_losses(logits, deltas, labels, rows(3.0, 0.0, 0.0, 0.0))
    sums = [log(exp(1) + exp(3) + 1), log(exp(2) + 2) - 2, log(3)]
    assert found[0].item() == pytest.approx(sum(sums) / 3, rel=1e-6)
    assert found[1].item() == pytest.approx(4 * (2.0 + 0.5) / 3)
    tenfold = box_losses(logits, deltas, labels, rows(3.0, 0.0, 0.0, 0.0), beta=10.0)
    assert tenfold[1].item() == pytest.approx(4 * (0.05 * 4.0 + 0.05 * 0.25) / 3)


def test_of_masks_by_hand() -> None:
    logits = torch.tensor([[[0.0, 4.0]], [[-4.0, 1.0]]])
    expected = (log(2) + log(1 + exp(-4.0)) + log(1 + exp(-4.0)) + log(1 + exp(1.0))) / 4
    assert mask_loss(logits, torch.tensor([[[1, 1]], [[0, 0]]])).item() == pytest.approx(expected, rel=1e-6)


def test_what_does_not_count_has_no_influence() -> None:
    """Neither on the values nor on the gradients, also where it is not sensible."""
    labels = torch.tensor([1, 0, -1])
    anchors = torch.tensor([0.3, -2.0, torch.inf]), rows(1.0, torch.inf, torch.nan)
    regions = torch.tensor([[0.0, 1.0], [2.0, 0.0], [5.0, 5.0]]), rows(1.0, 7.0, torch.nan)[:, None]
    for loss, (logits, deltas), extra in ((rpn_losses, anchors, (1,)), (box_losses, regions, ())):
        logits, deltas = logits.clone().requires_grad_(), deltas.clone().requires_grad_()
        values = loss(logits, deltas, labels, rows(0.0, 0.0, 0.0), *extra)
        assert all(value.isfinite() for value in values)
        values[0].backward()
        assert not logits.grad[2].nan_to_num(nan=1.0).any()


def test_nothing_counts() -> None:
    zero = torch.zeros(2, requires_grad=True)
    values = [
        *rpn_losses(zero, zero[:, None].expand(-1, 4), torch.tensor([-1, -1]), torch.zeros(2, 4), 256),
        *box_losses(zero[:, None].expand(-1, 3), zero[:, None, None].expand(-1, 2, 4), torch.tensor([-1, -1]),
                    torch.zeros(2, 4)),
        mask_loss(zero[:0, None, None], torch.zeros(0, 1, 1)),
        *box_losses(zero[:0, None].expand(-1, 3), zero[:0, None, None].expand(-1, 2, 4),
                    torch.zeros(0, dtype=torch.int64), torch.zeros(0, 4)),
    ]  # fmt: skip
    assert len(values) == 7
    for value in values:
        assert value == 0
        assert value.ndim == 0
        assert value.requires_grad


@pytest.mark.parametrize("beta", [0.0, 0.5])
def test_gradients_in_float64(beta: float) -> None:
    random = torch.Generator().manual_seed(0)

    def drawn(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=random, dtype=torch.float64)

    labels, wanted = torch.tensor([2, 0, 1, -1, 3]), drawn(5, 4)
    logits, deltas = drawn(5, 4).requires_grad_(), drawn(5, 3, 4).requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: box_losses(a, b, labels, wanted, beta), (logits, deltas))
    some = labels.clamp(-1, 1)
    flat = drawn(5).requires_grad_(), drawn(5, 4).requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: rpn_losses(a, b, some, wanted, 7, beta), flat)
    masks = drawn(3, 2, 2) > 0
    assert torch.autograd.gradcheck(lambda a: mask_loss(a, masks), drawn(3, 2, 2).requires_grad_())


def test_half_precision_is_summed_in_float32() -> None:
    logits = torch.full((3000,), 0.5, dtype=torch.bfloat16)
    labels, boxes = torch.ones(3000, dtype=torch.int8), torch.zeros(3000, 4, dtype=torch.bfloat16)
    value = rpn_losses(logits, boxes, labels, boxes.float(), 1)[0]
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(3000 * log(1 + exp(-0.5)), rel=1e-5)


def losses() -> dict[str, torch.Tensor]:
    return {name: torch.tensor(float(10**place), requires_grad=True) for place, name in enumerate(LOSSES)}


def test_weighted_sum() -> None:
    given = losses()
    assert DetectionLoss()(given) == 11111
    loss = DetectionLoss(rpn_class=2, mask=0.5)
    total = loss(given, "anything")
    assert total == 2 + 10 + 100 + 1000 + 5000
    assert {name: value.item() for name, value in loss.last_parts.items()} == {n: v.item() for n, v in given.items()}
    assert not any(value.requires_grad for value in loss.last_parts.values())
    total.backward()
    assert given["mask"].grad == 0.5
    assert not loss.state_dict()


def test_a_weight_for_each_loss() -> None:
    assert weighted_loss([1, 2, 3, 4, 0.5]).weights == dict(zip(LOSSES, (1, 2, 3, 4, 0.5), strict=True))
    for wrong in ([1, 1], [1] * 6):
        with pytest.raises(InputError, match=r"--loss_weights .*: must be 5 numbers, for rpn_class, rpn_box"):
            weighted_loss(wrong)


def test_wrong_arguments() -> None:
    with pytest.raises(InputError, match="roi_box is -1"):
        DetectionLoss(roi_box=-1)
    with pytest.raises(InputError, match="mask is nan"):
        DetectionLoss(mask=float("nan"))
    given = losses()
    del given["mask"]
    with pytest.raises(ValueError, match=r"losses must be rpn_class, .*, mask, got"):
        DetectionLoss()(given)
