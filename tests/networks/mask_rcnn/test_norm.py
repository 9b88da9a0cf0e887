"""Norms of the detector, alone and behind a convolution."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from monai_ext.networks.mask_rcnn import norm as module
from monai_ext.networks.mask_rcnn.norm import FrozenBatchNorm, conv_norm_act, make_norm, norm_groups

NORMS = ("group", "batch", "frozen_batch")


def drawn(layer: nn.Module) -> nn.Module:
    """Random values in every parameter and buffer."""
    generator = torch.Generator().manual_seed(5)
    for tensor in layer.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
    return layer


def features(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_a_frozen_norm_is_a_batch_norm_in_evaluation_and_never_changes() -> None:
    frozen = FrozenBatchNorm(6)
    plain = nn.BatchNorm2d(6)
    drawn(plain)
    frozen.load_state_dict({k: v for k, v in plain.state_dict().items() if k != "num_batches_tracked"})
    before = {k: v.clone() for k, v in frozen.state_dict().items()}
    x = features(2, 6, 5, 4)
    frozen.train()
    torch.testing.assert_close(frozen(x), plain.eval()(x))
    assert list(frozen.parameters()) == []
    assert all(torch.equal(v, before[k]) for k, v in frozen.state_dict().items())
    scale, shift = frozen.scale_and_shift()
    torch.testing.assert_close(frozen(x), x * scale[:, None, None] + shift[:, None, None])


def test_eps_counts() -> None:
    frozen = FrozenBatchNorm(1, eps=0.0)
    frozen.running_var.fill_(4e-5)
    assert frozen.scale_and_shift()[0].item() == pytest.approx(1 / 4e-5**0.5)
    assert FrozenBatchNorm(1).eps == nn.BatchNorm2d(1).eps == 1e-5


@pytest.mark.parametrize(("channels", "groups"), [(2048, 32), (64, 32), (48, 12), (32, 8), (16, 4), (3, 1), (1, 1)])
def test_groups_divide(channels: int, groups: int) -> None:
    assert norm_groups(channels) == groups
    assert channels % groups == 0
    layer = make_norm("group", channels)
    assert isinstance(layer, nn.GroupNorm)
    assert layer.num_groups == groups


def test_unknown_norm() -> None:
    with pytest.raises(ValueError, match="norm 'layer' is not one of group, batch, frozen_batch"):
        make_norm("layer", 4)
    assert isinstance(make_norm("none", 4), nn.Identity)


@pytest.mark.parametrize("through_ops", [False, True])
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("norm", [*NORMS, "none"])
def test_convolution_norm_residual_and_relu_are_one_after_the_other(
    monkeypatch: pytest.MonkeyPatch, norm: str, relu: bool, residual: bool, training: bool, through_ops: bool
) -> None:
    monkeypatch.setattr(module, "_gains", lambda y: through_ops)
    monkeypatch.setattr(module, "_folds", lambda *_: through_ops)
    torch.manual_seed(1)
    conv = nn.Conv2d(5, 8, 3, 2, 1, bias=norm == "none")
    layer, other = drawn(make_norm(norm, 8)).train(training), drawn(make_norm(norm, 8)).train(training)
    x, added, upstream = features(2, 5, 9, 7), features(2, 8, 5, 4, seed=1), features(2, 8, 5, 4, seed=2)
    got_in, want_in = [t.clone().requires_grad_() for t in (x, added)], [t.clone().requires_grad_() for t in (x, added)]

    y = conv_norm_act(conv, layer, got_in[0], got_in[1] if residual else None, relu)
    y.backward(upstream)
    got_grads = [p.grad.clone() for p in (*conv.parameters(), *layer.parameters()) if p.grad is not None]
    conv.zero_grad()
    want = other(conv(want_in[0]))
    want = want + want_in[1] if residual else want
    want = F.relu(want) if relu else want
    want.backward(upstream)
    want_grads = [p.grad for p in (*conv.parameters(), *other.parameters()) if p.grad is not None]

    # float32 sums in another order
    torch.testing.assert_close(y, want, rtol=1e-5, atol=1e-5)
    assert len(got_grads) == len(want_grads) > 0
    for got, expected in zip(got_grads, want_grads, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)
    for got, expected in zip(got_in, want_in, strict=True):
        if expected.grad is not None:
            torch.testing.assert_close(got.grad, expected.grad, rtol=1e-4, atol=1e-4)
    for name, buffer in other.state_dict().items():  # running statistics move alike
        torch.testing.assert_close(layer.state_dict()[name], buffer)


@pytest.mark.parametrize("size", [2, 20])
def test_a_frozen_norm_is_folded_where_features_are_more_than_kernels(
    monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    """The same either way; what is kept for the gradient is less where it is folded."""
    torch.manual_seed(0)
    conv, frozen = nn.Conv2d(4, 6, 3, 1, 1), drawn(FrozenBatchNorm(6))
    called: list[int] = []
    original = FrozenBatchNorm.forward
    monkeypatch.setattr(FrozenBatchNorm, "forward", lambda self, x: called.append(1) or original(self, x))
    x = features(2, 4, size, size)  # 8 or 800 pixels, 36 values a kernel
    y = conv_norm_act(conv, frozen, x, relu=False)
    assert len(called) == (size == 2)
    torch.testing.assert_close(y, original(frozen, conv(x)), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("norm", NORMS)
def test_hooks_of_both_layers_are_called(norm: str) -> None:
    conv, layer = nn.Conv2d(3, 4, 1), make_norm(norm, 4)
    seen: list[str] = []
    conv.register_forward_hook(lambda *_: seen.append("conv"))
    layer.register_forward_hook(lambda *_: seen.append("norm"))
    conv_norm_act(conv, layer, features(1, 3, 4, 4))
    assert seen == ["conv", "norm"]
