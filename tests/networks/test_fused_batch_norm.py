"""Modules' batch norms through the fused ops: everything that `torch.nn.BatchNorm2d` does beside the arithmetic."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from monai_ext.networks import fused_batch_norm
from monai_ext.networks.fused_batch_norm import gate_act, norm_act
from small_classifier import small, with_statistics


def drawn_norm(**options: float | bool | None) -> nn.BatchNorm2d:
    torch.manual_seed(0)
    return with_statistics(nn.Sequential(nn.BatchNorm2d(6, **options)))[0]


def drawn_gate() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 6), nn.Sigmoid())


def plain(x: torch.Tensor, norm: nn.Module, fc: nn.Module | None, residual: torch.Tensor) -> torch.Tensor:
    y = norm(x)
    if fc is not None:
        y = y * fc(y.mean((2, 3)))[..., None, None]
    return (y + residual).relu()


def fused(x: torch.Tensor, norm: nn.Module, fc: nn.Sequential | None, residual: torch.Tensor) -> torch.Tensor:
    return norm_act(x, norm, residual) if fc is None else gate_act(x, norm, fc, residual)


@pytest.mark.parametrize("momentum", [0.1, 0.3, None])
@pytest.mark.parametrize("gated", [False, True])
def test_running_statistics_follow_as_torchs(momentum: float | None, gated: bool) -> None:
    ours = drawn_norm(momentum=momentum)
    theirs, fc = copy.deepcopy(ours), drawn_gate() if gated else None
    for step in range(3):
        x, residual = 2 + torch.randn(2, 6, 4, 3), torch.randn(2, 6, 4, 3)
        found, expected = fused(x, ours, fc, residual), plain(x, theirs, fc, residual)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
        assert int(ours.num_batches_tracked) == step + 1
        # 24 values a channel: the unbiased variance is 4 % larger than the biased one
        torch.testing.assert_close(ours.running_mean, theirs.running_mean, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(ours.running_var, theirs.running_var, rtol=1e-5, atol=1e-6)
    assert not ours.running_mean.requires_grad


@pytest.mark.parametrize("gated", [False, True])
def test_frozen_norm_uses_its_statistics_and_passes_gradients(gated: bool) -> None:
    ours = drawn_norm().eval()
    theirs, fc = copy.deepcopy(ours), drawn_gate() if gated else None
    x = torch.randn(2, 6, 4, 3, requires_grad=True)
    twin = x.detach().clone().requires_grad_()
    residual = torch.randn(2, 6, 4, 3)
    fused(x, ours, fc, residual).square().sum().backward()
    plain(twin, theirs, fc, residual).square().sum().backward()
    torch.testing.assert_close(x.grad, twin.grad, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(ours.weight.grad, theirs.weight.grad, rtol=1e-4, atol=1e-4)
    assert int(ours.num_batches_tracked) == 0
    torch.testing.assert_close(ours.running_mean, theirs.running_mean, rtol=0, atol=0)


@pytest.mark.parametrize("gated", [False, True])
def test_norm_without_running_statistics_always_takes_the_batch(gated: bool) -> None:
    norm, fc = drawn_norm(track_running_stats=False).eval(), drawn_gate() if gated else None
    x, residual = torch.randn(2, 6, 4, 3), torch.randn(2, 6, 4, 3)
    torch.testing.assert_close(fused(x, norm, fc, residual), plain(x, norm, fc, residual), rtol=1e-5, atol=1e-5)


class _Counted(nn.BatchNorm2d):
    """As a synchronised norm: another class, whose own forward must run."""

    calls = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return super().forward(x)


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("kind", ["other class", "no affine", "half weights"])
def test_other_norms_run_themselves(kind: str, gated: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    for op in ("batch_norm_act", "se_gate"):
        monkeypatch.setattr(fused_batch_norm, op, None)  # a call would fail
    norm: nn.Module = _Counted(6) if kind == "other class" else nn.BatchNorm2d(6, affine=kind != "no affine")
    fc = drawn_gate() if gated else None
    x, residual = torch.randn(2, 6, 4, 3), torch.randn(2, 6, 4, 3)
    if kind == "half weights":
        norm, x, residual = norm.bfloat16(), x.bfloat16(), residual.bfloat16()
        fc = fc.bfloat16() if fc is not None else None
    expected = plain(x, copy.deepcopy(norm), fc, residual)
    torch.testing.assert_close(fused(x, norm, fc, residual), expected, rtol=1e-5, atol=1e-5)
    assert getattr(norm, "calls", 1) == 1
    assert int(norm.num_batches_tracked) == 1


def test_one_value_a_channel_is_torchs_error() -> None:
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        norm_act(torch.zeros(1, 6, 1, 1), drawn_norm())


def test_without_relu_or_residual() -> None:
    norm, x = drawn_norm(), torch.randn(2, 6, 4, 3)
    expected = copy.deepcopy(norm)(x)
    assert float(expected.detach().min()) < 0
    torch.testing.assert_close(norm_act(x, copy.deepcopy(norm), relu=False), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(norm_act(x, norm), expected.relu(), rtol=1e-5, atol=1e-5)
    before = x.clone()
    torch.testing.assert_close(norm_act(x, nn.Identity()), x.relu(), rtol=0, atol=0)
    torch.testing.assert_close(x, before, rtol=0, atol=0)


def test_mixed_precision_step_keeps_float32_statistics() -> None:
    network, x = small(), torch.randn(4, 1, 64, 64)
    with torch.autocast("cpu", torch.bfloat16):
        y = network(x)
    assert y.dtype == torch.bfloat16
    y.float().square().mean().backward()
    reference = small(fused=False)
    with torch.autocast("cpu", torch.bfloat16):
        reference(x)
    buffers = dict(reference.named_buffers())
    for name, buffer in network.named_buffers():
        assert buffer.dtype == buffers[name].dtype
        # bfloat16 activations, 8 bits each, rounded at other places
        torch.testing.assert_close(buffer, buffers[name], rtol=0.05, atol=0.05)
    assert [n for n, p in network.named_parameters() if p.grad is None or p.grad.dtype != torch.float32] == []


def test_channels_last_stays() -> None:
    network = small(features_only=True).to(memory_format=torch.channels_last)
    image = torch.randn(2, 1, 64, 64).contiguous(memory_format=torch.channels_last)
    for features in network(image):
        assert features.is_contiguous(memory_format=torch.channels_last)
