"""Head of masks."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from monai_ext.networks.mask_rcnn.mask_head import MaskHead


def pooled(channels: int = 8, count: int = 5, size: int = 14) -> torch.Tensor:
    values = torch.randn(count, channels, size, size, generator=torch.Generator().manual_seed(0))
    return values.contiguous(memory_format=torch.channels_last)


def layer_by_layer(head: MaskHead, x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    for conv, norm in zip(head.convs, head.norms, strict=True):
        x = F.relu(norm(conv(x)))
    return head.logits(F.relu(head.deconv(x)))[torch.arange(len(labels)), labels - 1]


@pytest.mark.parametrize("norm", ["none", "group"])
@pytest.mark.parametrize("classes", [1, 3])
def test_equals_its_layers(norm: str, classes: int) -> None:
    torch.manual_seed(0)
    head = MaskHead(8, classes, features=16, norm=norm)
    torch.nn.init.normal_(head.logits.bias)
    torch.nn.init.normal_(head.deconv.bias)
    labels = torch.tensor([1, classes, 1, 1, classes])
    gradients = []
    for call in (head, lambda x, of: layer_by_layer(head, x, of)):
        x = pooled().requires_grad_()
        found = call(x, labels)
        found.square().sum().backward()
        gradients.append([found, x.grad, *(parameter.grad for parameter in head.parameters())])
        head.zero_grad()
    assert gradients[0][0].shape == (5, 28, 28)
    for one, other in zip(*gradients, strict=True):
        # sums of a thousand pixels in another order
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4 * other.abs().max().item())


def test_gradient_in_float64() -> None:
    torch.manual_seed(0)
    head = MaskHead(2, 2, features=4).double()
    x = pooled(2, 2, 3).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda given: head(given, torch.tensor([2, 1])), x, eps=1e-7)


def test_no_regions() -> None:
    none = torch.zeros(0, dtype=torch.int64)
    for classes in (1, 3):
        assert MaskHead(8, classes, features=16, norm="group")(pooled(count=0), none).shape == (0, 28, 28)
