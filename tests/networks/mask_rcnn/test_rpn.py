"""Head of the region proposal network: all anchors, some anchors."""

from __future__ import annotations

import pytest
import torch

from monai_ext.networks.mask_rcnn.rpn import RPNHead

SIZES = ((5, 7), (3, 4), (1, 1))


def head(dtype: torch.dtype = torch.float32, channels: int = 4, per_cell: int = 3) -> RPNHead:
    torch.manual_seed(0)
    network = RPNHead(channels, per_cell)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return network.to(dtype)


def features(dtype: torch.dtype = torch.float32, channels: int = 4, layout: bool = True) -> list[torch.Tensor]:
    random = torch.Generator().manual_seed(1)
    maps = [torch.randn(2, channels, *size, generator=random, dtype=dtype) for size in SIZES]
    order = torch.channels_last if layout else torch.contiguous_format
    return [one.contiguous(memory_format=order).requires_grad_() for one in maps]


def all_places() -> tuple[torch.Tensor, torch.Tensor]:
    anchors = torch.arange(3 * sum(h * w for h, w in SIZES))
    return torch.arange(2).repeat_interleave(anchors.numel()), anchors.repeat(2)


@pytest.mark.parametrize("layout", [True, False])
def test_some_anchors_as_all_anchors(layout: bool) -> None:
    network, gradients, results = head(), [], []
    images, anchors = all_places()
    # an anchor twice, and not in order
    order = torch.cat([torch.randperm(anchors.numel(), generator=torch.Generator().manual_seed(2)), torch.tensor([3])])
    weights = torch.randn(order.numel(), 5, generator=torch.Generator().manual_seed(3))
    for is_sparse in (False, True):
        maps = features(layout=layout)
        if is_sparse:
            logits, deltas = network.of_anchors(maps, images[order], anchors[order])
        else:
            dense_logits, dense_deltas = network(maps)
            assert [tuple(one.shape) for one in dense_logits] == [(2, 3 * h * w) for h, w in SIZES]
            assert [tuple(one.shape) for one in dense_deltas] == [(2, 3 * h * w, 4) for h, w in SIZES]
            logits, deltas = (
                torch.cat(dense_logits, 1).flatten()[order],
                torch.cat(dense_deltas, 1).flatten(0, 1)[order],
            )
        results.append(torch.cat([logits[:, None], deltas], 1))
        (results[-1] * weights).sum().backward()
        gradients.append([one.grad for one in maps] + [p.grad for p in network.parameters()])
        network.zero_grad()
    torch.testing.assert_close(*results)
    # sums of some hundred terms in another order
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-4, atol=1e-4)


def test_equals_convolutions_in_the_order_of_the_grid() -> None:
    network, maps = head(), features()
    logits, deltas = network(maps)
    hidden = network.conv(maps[0]).relu()
    for cell in range(3):
        assert torch.allclose(logits[0].view(2, 5, 7, 3)[..., cell], network.cls_logits(hidden)[:, cell], atol=1e-6)
        boxes = network.bbox_pred(hidden)[:, 4 * cell : 4 * cell + 4].permute(0, 2, 3, 1)
        assert torch.allclose(deltas[0].view(2, 5, 7, 3, 4)[:, :, :, cell], boxes, atol=1e-6)


def test_gradient_in_float64() -> None:
    network, maps = head(torch.float64, channels=2, per_cell=2), features(torch.float64, channels=2)
    images, anchors = torch.tensor([0, 1, 1, 0]), torch.tensor([0, 33, 75, 80])
    assert torch.autograd.gradcheck(lambda *given: network.of_anchors(given, images, anchors), maps)


def test_no_anchors() -> None:
    network, maps, none = head(), features(), torch.zeros(0, dtype=torch.int64)
    logits, deltas = network.of_anchors(maps, none, none)
    assert logits.shape == (0,)
    assert deltas.shape == (0, 4)
    (logits.sum() + deltas.sum()).backward()
    assert all((parameter.grad == 0).all() for parameter in network.parameters())


def test_start() -> None:
    torch.manual_seed(0)
    network = RPNHead(64, 6)
    for layer in (network.conv, network.cls_logits, network.bbox_pred):
        assert 0.009 < layer.weight.std() < 0.011
        assert not layer.bias.any()
