"""Optimisers by name: their options, and rectified Adam against its formula."""

from __future__ import annotations

import math

import pytest
import torch

from monai_ext.engines.optimizers import OPTIMIZERS, make_optimizer
from monai_ext.errors import InputError


def parameter(*values: float) -> torch.nn.Parameter:
    return torch.nn.Parameter(torch.tensor(values or (0.0,), dtype=torch.float64))


@pytest.mark.parametrize(
    ("name", "kind"),
    [("sgd", torch.optim.SGD), ("adam", torch.optim.AdamW), ("adamw", torch.optim.AdamW), ("radam", torch.optim.RAdam)],
)
def test_options_arrive(name: str, kind: type) -> None:
    optimizer = make_optimizer(iter([parameter()]), name, 0.01, 3e-5, 0.9)
    assert isinstance(optimizer, kind)
    group = optimizer.param_groups[0]
    assert (group["lr"], group["weight_decay"]) == (0.01, 3e-5)
    if name == "sgd":
        assert group["momentum"] == 0.9
    else:
        assert group["decoupled_weight_decay"]
        assert (group["betas"], group["eps"]) == ((0.9, 0.999), 1e-8)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_groups_keep_their_own_values(name: str) -> None:
    """Also where a group's parameters are an iterator; what a group does not say comes from the arguments."""
    first, second, third = parameter(1.0), parameter(2.0), parameter(3.0)
    groups = [{"params": iter([first, second]), "lr": 0.5, "weight_decay": 0.0, "name": "head"}, {"params": [third]}]
    optimizer = make_optimizer(iter(groups), name, 0.01, 3e-5)
    one, other = optimizer.param_groups
    assert [id(p) for p in one["params"]] == [id(first), id(second)]
    assert [id(p) for p in other["params"]] == [id(third)]
    assert (one["lr"], one["weight_decay"], one["name"]) == (0.5, 0.0, "head")
    assert (other["lr"], other["weight_decay"]) == (0.01, 3e-5)


@pytest.mark.parametrize("nesterov", [False, True])
def test_nesterov_looks_ahead(nesterov: bool) -> None:
    """First step with gradient 1: lr without, lr (1 + momentum) with Nesterov."""
    weight = parameter(1.0)
    optimizer = make_optimizer([weight], "sgd", 0.1, 0.0, 0.9, nesterov)
    weight.grad = torch.ones_like(weight)
    optimizer.step()
    assert weight.item() == pytest.approx(1 - 0.1 * (1.9 if nesterov else 1.0))


def test_nesterov_needs_momentum() -> None:
    assert not make_optimizer([parameter()], "sgd", momentum=0.0, nesterov=True).param_groups[0]["nesterov"]


def test_unknown_name_is_refused() -> None:
    with pytest.raises(InputError, match=r"--optimizer 'lion'.*Cure: one of sgd, adam, adamw, adam_l2, radam"):
        make_optimizer([parameter()], "lion")


def rectified_adam(weights: torch.Tensor, gradients: list[torch.Tensor], lr: float, decay: float) -> list[torch.Tensor]:
    """Liu et al. 2020 with decoupled decay, rectified from a length of 5 on, plain momentum before."""
    beta1, beta2, eps = 0.9, 0.999, 1e-8
    first, second, longest = torch.zeros_like(weights), torch.zeros_like(weights), 2 / (1 - beta2) - 1
    course = []
    for t, gradient in enumerate(gradients, start=1):
        first = beta1 * first + (1 - beta1) * gradient
        second = beta2 * second + (1 - beta2) * gradient**2
        length = longest - 2 * t * beta2**t / (1 - beta2**t)
        weights = weights - lr * decay * weights
        if length >= 5:
            ratio = (length - 4) / (longest - 4) * (length - 2) / (longest - 2) * longest / length
            step = lr * math.sqrt((1 - beta2**t) * ratio) / (1 - beta1**t)
            weights = weights - step * first / (second.sqrt() + eps)
        else:
            weights = weights - lr / (1 - beta1**t) * first
        course.append(weights)
    return course


def test_radam_follows_its_formula() -> None:
    """Ten steps: five of momentum, five rectified. At the bound itself (exactly 5) PyTorch does not rectify yet, where
    the formula does; with these betas no length comes nearer to it than 0.003."""
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(7, generator=generator, dtype=torch.float64)
    gradients = [torch.randn(7, generator=generator, dtype=torch.float64) for _ in range(10)]
    weight = torch.nn.Parameter(start.clone())
    optimizer = make_optimizer([weight], "radam", 0.01, 0.1)
    for gradient, expected in zip(gradients, rectified_adam(start, gradients, 0.01, 0.1), strict=True):
        weight.grad = gradient.clone()
        optimizer.step()
        # float64, factors in another order
        torch.testing.assert_close(weight.detach(), expected, rtol=1e-10, atol=1e-12)
    lengths = [1999 - 2 * t * 0.999**t / (1 - 0.999**t) for t in range(1, 11)]
    assert [n >= 5 for n in lengths] == [False] * 5 + [True] * 5
    assert min(abs(n - 5) for n in lengths) > 0.003


@pytest.mark.gpu
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_cuda_steps_are_grouped_and_equal(name: str) -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    host, device = parameter(1.0, -2.0), torch.nn.Parameter(parameter(1.0, -2.0).detach().cuda())
    one, other = make_optimizer([host], name, 0.01), make_optimizer([device], name, 0.01)
    assert other.param_groups[0]["foreach" if name == "radam" else "fused"]
    for scale in (1.0, -0.3, 0.2, 2.0, 0.1, 0.7, 0.5):
        host.grad = scale * torch.ones_like(host)
        device.grad = scale * torch.ones_like(device)
        one.step()
        other.step()
    torch.testing.assert_close(device.detach().cpu(), host.detach(), rtol=1e-6, atol=1e-8)  # kernels round differently
