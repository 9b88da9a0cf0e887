"""Head of classes and boxes."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from monai_ext.networks.mask_rcnn.box_head import BoxHead


def pooled(channels: int = 8, count: int = 5) -> torch.Tensor:
    values = torch.randn(count, channels, 7, 7, generator=torch.Generator().manual_seed(0))
    return values.contiguous(memory_format=torch.channels_last)


def test_weights_are_in_the_order_of_weight_files() -> None:
    torch.manual_seed(0)
    head = BoxHead(8, 3, features=16)
    logits, deltas = head(pooled())
    # `fc1` of torchvision and detectron2 reads channels first
    x = F.relu(head.fc2(F.relu(head.fc1(pooled().contiguous().flatten(1)))))
    assert logits.shape == (5, 4)
    torch.testing.assert_close(logits, head.cls_score(x), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(deltas, head.bbox_pred(x).view(5, 3, 4), rtol=1e-5, atol=1e-6)
    assert torch.equal(*(head(values)[0] for values in (pooled(), pooled().contiguous())))


def test_convolutions() -> None:
    torch.manual_seed(0)
    head = BoxHead(8, 2, features=16, kind="conv", norm="group")
    x = pooled()
    for conv, norm in zip(head.convs, head.norms, strict=True):
        x = F.relu(norm(conv(x)))
    logits, _ = head(pooled())
    torch.testing.assert_close(logits, head.cls_score(F.relu(head.fc1(x.flatten(1)))), rtol=1e-4, atol=1e-5)
    assert [conv.bias for conv in head.convs] == [None] * 4
    assert all(conv.bias is not None for conv in BoxHead(8, 2, 16, "conv", "none").convs)


def test_gradient_in_float64() -> None:
    torch.manual_seed(0)
    head = BoxHead(1, 1, features=3).double()
    x = pooled(1, 2).double().requires_grad_()
    # far from the kinks of the ReLUs
    assert torch.autograd.gradcheck(lambda given: head(given), x, eps=1e-7)


def test_start() -> None:
    torch.manual_seed(0)
    head = BoxHead(16, 20, features=512)
    assert 0.0095 < head.cls_score.weight.std() < 0.0105
    assert 0.00095 < head.bbox_pred.weight.std() < 0.00105
    assert head.fc1.weight.abs().max() <= (3 / head.fc1.in_features) ** 0.5
    assert not any(parameter.any() for name, parameter in head.named_parameters() if name.endswith("bias"))


def test_no_regions() -> None:
    logits, deltas = BoxHead(8, 3, features=16, kind="conv", norm="group")(pooled(count=0))
    assert logits.shape == (0, 4)
    assert deltas.shape == (0, 3, 4)


def test_unknown_kind() -> None:
    with pytest.raises(ValueError, match="'mlp' is not one of fc, conv"):
        BoxHead(8, 1, kind="mlp")
