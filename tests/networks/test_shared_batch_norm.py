"""Batch norm over several processes computes what one process with all their images computes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from monai_ext.engines import process_group
from monai_ext.networks.shared_batch_norm import SharedBatchNorm, with_shared_statistics
from rank_processes import on_ranks

CHANNELS, SIZES = 3, (2, 1, 3)  # images of three ranks


def images(offset: float = 0.0) -> torch.Tensor:
    return torch.randn(sum(SIZES), CHANNELS, 4, 5, generator=torch.Generator().manual_seed(0)) * 2 + offset


def network(momentum: float | None = 0.1) -> nn.Sequential:
    torch.manual_seed(0)
    made = nn.Sequential(nn.Conv2d(CHANNELS, 4, 3), nn.BatchNorm2d(4, momentum=momentum), nn.ReLU(), nn.Flatten())
    nn.init.normal_(made[1].weight)
    nn.init.normal_(made[1].bias)
    return made


def loss(output: torch.Tensor) -> torch.Tensor:
    """A sum, so that the gradient of all images is the sum of those of their parts."""
    return (output**2 * torch.linspace(-1, 1, output.shape[1])).sum()


def _outcome(module: nn.Module, x: torch.Tensor) -> dict[str, Any]:
    x = x.clone().requires_grad_()
    output = module(x)
    loss(output).backward()
    # arrays: a tensor travels as a file of a process that may have ended before it is opened
    gradients = [np.array(p.grad) for p in module.parameters()]
    state = {name: np.array(value) for name, value in module.state_dict().items()}
    return {"output": output.detach().numpy(), "input": np.array(x.grad), "gradients": gradients, "state": state}


def _of_rank(offset: float, momentum: float | None, dtype: torch.dtype) -> dict[str, Any]:
    module = with_shared_statistics(network(momentum)).to(dtype)
    x = images(offset).to(dtype).split(SIZES)[process_group.rank()]
    if momentum is None:
        _outcome(module, x + 1)
        module.zero_grad()
    return _outcome(module, x)


@pytest.mark.parametrize(("offset", "momentum"), [(0.0, 0.1), (1000.0, 0.1), (0.0, None)])
def test_ranks_compute_what_one_process_computes(offset: float, momentum: float | None) -> None:
    whole = network(momentum).double()
    if momentum is None:
        _outcome(whole, images(offset).double() + 1)
        whole.zero_grad()
    expected = _outcome(whole, images(offset).double())
    found = on_ranks(_of_rank, 3, offset, momentum, torch.float64)
    assert all(isinstance(f, dict) for f in found), found
    # float64: only the order of sums differs
    for name in ("output", "input"):
        np.testing.assert_allclose(np.concatenate([f[name] for f in found]), expected[name], rtol=1e-9, atol=1e-9)
    for i, gradient in enumerate(expected["gradients"]):
        np.testing.assert_allclose(sum(f["gradients"][i] for f in found), gradient, rtol=1e-9, atol=1e-7)
    for f in found:
        assert list(f["state"]) == list(expected["state"])
        for name, value in expected["state"].items():
            np.testing.assert_allclose(f["state"][name], value, rtol=1e-9, atol=1e-9)


def test_float32_keeps_its_digits_far_from_zero() -> None:
    """Differences of large squares would lose them: a mean of 1000 has squares of a million, float32 has 7 digits."""
    expected = _outcome(network().double(), images(1000.0).double())
    found = on_ranks(_of_rank, 3, 1000.0, 0.1, torch.float32)
    np.testing.assert_allclose(np.concatenate([f["output"] for f in found]), expected["output"], rtol=0.01, atol=0.01)


def test_alone_and_in_evaluation_it_is_a_batch_norm() -> None:
    plain, shared = network(), with_shared_statistics(network())
    assert isinstance(shared[1], SharedBatchNorm)
    for training in (True, False):
        torch.testing.assert_close(shared.train(training)(images()), plain.train(training)(images()), rtol=0, atol=0)
    torch.testing.assert_close(shared.state_dict(), plain.state_dict(), rtol=0, atol=0)
    assert not with_shared_statistics(nn.BatchNorm3d(2).eval()).training
