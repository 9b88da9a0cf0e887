"""Rounding of layers while training: its steps, its gradients, when it acts, and what is folded afterwards."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from monai_ext.engines.weight_average import WeightAverage
from monai_ext.errors import InputError
from monai_ext.networks.fake_quantisation import (
    fixed_quantisation,
    is_fake_quantised,
    match_fake_quantisation,
    ranges,
    set_quantising,
    with_fake_quantisation,
    without_fake_quantisation,
)
from monai_ext.networks.quantisation_ranges import FixedRange, rounded_weight


def small_network(dims: int = 2) -> nn.Sequential:
    torch.manual_seed(0)
    conv = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[dims]
    norm = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}[dims]
    network = nn.Sequential(
        conv(3, 8, 3, padding=1, bias=False), norm(8), nn.ReLU(), conv(8, 8, 3, 2, 1, groups=2, bias=False), norm(8),
        nn.ReLU(), nn.Flatten(), nn.LazyLinear(4),
    )  # fmt: skip
    for module in network:
        if isinstance(module, norm):
            nn.init.uniform_(module.weight, -2, 2)  # negative gains too
            nn.init.normal_(module.bias)
    network(torch.randn(4, 3, *(8,) * dims))
    return network


def fold(network: nn.Module) -> nn.Module:
    """Norms into the convolutions before them, in a network like `small_network`."""
    children = list(network.children())
    for convolution, norm in pairwise(children):
        if isinstance(norm, nn.BatchNorm2d):
            fused = fuse_conv_bn_eval(convolution, norm)
            network[children.index(convolution)], network[children.index(norm)] = fused, nn.Identity()
    return network


def observed_network(symmetric: bool = True, dims: int = 2) -> tuple[nn.Module, torch.Tensor]:
    network = with_fake_quantisation(small_network(dims), symmetric)
    x = torch.randn(16, 3, *(8,) * dims)
    for _ in range(3):
        network(x)
    set_quantising(network)
    return network.eval(), x


def test_gradients_pass_inside_of_the_range_only() -> None:
    network = with_fake_quantisation(nn.Sequential(nn.Linear(2, 1, bias=False)))
    network(torch.tensor([[1.0, -1.0]]))
    set_quantising(network)
    network.eval()
    x = torch.tensor([[0.5, -3.0]], requires_grad=True)
    network(x).sum().backward()
    weight = rounded_weight(network[0].weight).detach()
    torch.testing.assert_close(x.grad, torch.stack((weight[0, 0], torch.zeros(())))[None])
    # straight through to the weights: the rounded input, clamped to the range
    torch.testing.assert_close(network[0].weight.grad, torch.tensor([[64 / 127, -128 / 127]]))


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_rounding_changes_little_but_something(dims: int) -> None:
    network, x = observed_network(dims=dims)
    rounded = network(x)
    plain = without_fake_quantisation(network)(x)
    difference = (rounded - plain).abs().max()
    assert 0 < difference < 0.05 * plain.abs().max()


def test_parameters_stay_the_same_objects() -> None:
    network = small_network()
    before = dict(network.named_parameters())
    names = set(network.state_dict())
    with_fake_quantisation(network)
    after = dict(network.named_parameters())
    assert list(before) == list(after)
    assert all(before[name] is after[name] for name in before)
    assert names < set(network.state_dict())


def test_file_without_ranges_loads_strictly() -> None:
    plain = small_network()
    network = with_fake_quantisation(small_network())
    nn.init.zeros_(network[0].weight)
    network.load_state_dict(plain.state_dict())
    torch.testing.assert_close(network[0].weight, plain[0].weight)
    with pytest.raises(RuntimeError, match="Missing key"):
        network.load_state_dict({name: value for name, value in plain.state_dict().items() if name != "0.weight"})


@pytest.mark.parametrize("symmetric", [True, False])
def test_file_with_ranges_says_which_layers_round(symmetric: bool) -> None:
    trained = with_fake_quantisation(small_network(), symmetric, skip=r"^7$")
    x = torch.randn(4, 3, 8, 8)
    trained(x)
    set_quantising(trained)
    stream = io.BytesIO()
    torch.save(trained.state_dict(), stream)
    stream.seek(0)
    state = torch.load(stream, weights_only=True)
    network = match_fake_quantisation(small_network(), state)
    network.load_state_dict(state)
    assert [name for name, _ in ranges(network)] == ["0", "3"]
    assert all(found.active and found.symmetric == symmetric for _, found in ranges(network))
    torch.testing.assert_close(network.eval()(x), trained.eval()(x), rtol=0, atol=0)
    assert not is_fake_quantised(match_fake_quantisation(small_network(), small_network().state_dict()))
    with pytest.raises(InputError, match=r"quantise '3'.*Cure: build the network"):
        match_fake_quantisation(nn.Sequential(nn.Conv2d(3, 8, 3)), state)


def test_average_of_weights_has_the_ranges() -> None:
    network = with_fake_quantisation(small_network())
    average = WeightAverage(network, decay=0.01)
    x = torch.randn(4, 3, 8, 8)
    for _ in range(40):
        network(x)
        average.update()
    set_quantising(network)
    set_quantising(average.module)
    for (_, ours), (_, averaged) in zip(ranges(network), ranges(average.module), strict=True):
        assert averaged.is_observed()
        torch.testing.assert_close(averaged.high, ours.high)
    torch.testing.assert_close(average.module(x), copy.deepcopy(network).eval()(x), rtol=1e-2, atol=1e-2)
    WeightAverage(network, decay=0.01).load_state_dict(average.state_dict())


@pytest.mark.parametrize("symmetric", [True, False])
def test_folding_norms_keeps_the_integers(symmetric: bool) -> None:
    """Rounding weights per channel and scaling channels commute, for gains of either sign."""
    network, x = observed_network(symmetric)
    expected = network(x)
    folded = fixed_quantisation(network, fold)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    # an input that lies between two levels may round to the other one: one step of one value
    step = float(dict(ranges(network))["7"].step_and_zero()[0])
    assert (folded(x) - expected).abs().max() < 2 * step * network[7].weight.detach().abs().max()
    whole = folded[3].weight / folded[3].weight_step.view(-1, 1, 1, 1)
    torch.testing.assert_close(whole, whole.round(), rtol=0, atol=1e-3)
    assert whole.abs().max() == pytest.approx(127, abs=1e-3)
    # without rounding the difference would be larger
    assert (folded(x) - without_fake_quantisation(network)(x)).abs().max() > 1e-3


@pytest.mark.filterwarnings("ignore")  # torch's own, about TorchScript's future
@pytest.mark.parametrize("way", [torch.jit.script, lambda module: torch.jit.trace(module, torch.zeros(1, 3, 8, 8))])
def test_fixed_network_can_be_exported(way: Callable[[nn.Module], nn.Module]) -> None:
    network, x = observed_network()
    fixed = fixed_quantisation(network)
    torch.testing.assert_close(way(fixed)(x), fixed(x), rtol=0, atol=0)
    torch.testing.assert_close(fixed(x), network(x), rtol=1e-5, atol=1e-5)


def test_unobserved_network_is_not_exported() -> None:
    with pytest.raises(InputError, match=r"3 layers never saw a batch, the first is '0'"):
        fixed_quantisation(with_fake_quantisation(small_network()))
    with pytest.raises(InputError, match="none"):
        fixed_quantisation(small_network())


def test_nothing_to_quantise() -> None:
    with pytest.raises(ValueError, match="no convolution or linear layer"):
        with_fake_quantisation(nn.Sequential(nn.ReLU()))
    with pytest.raises(ValueError, match="no convolution or linear layer"):
        with_fake_quantisation(small_network(), skip=".")


def test_trains_under_autocast_with_rounded_norms() -> None:
    """bfloat16 inside: ranges and rounding stay in float32, gradients reach every parameter and stay finite."""
    network = with_fake_quantisation(small_network(), norms=r"^4$")
    assert [name for name, _ in ranges(network)] == ["0", "3", "4", "7"]
    set_quantising(network)
    with torch.autocast("cpu", torch.bfloat16):
        y = network(torch.randn(4, 3, 8, 8))
    y.float().square().mean().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 0, name
    assert all(found.high.dtype == torch.float32 for _, found in ranges(network))


@pytest.mark.parametrize("folding", [fold, None])
def test_rounded_norm_stays_where_it_was(folding: Callable[[nn.Module], nn.Module] | None) -> None:
    network = with_fake_quantisation(small_network(), norms=r"^4$")
    x = torch.randn(16, 3, 8, 8)
    network(x)
    set_quantising(network)
    network.eval()
    step = float(dict(ranges(network))["4"].step_and_zero()[0])
    fixed = fixed_quantisation(network, folding)
    before, after = network[:5](x), fixed[:5](x)
    assert isinstance(fixed[4], FixedRange if folding else nn.Sequential)
    levels = after / step
    torch.testing.assert_close(levels, levels.round(), rtol=0, atol=1e-3)
    # values at half a step may round to the other side
    assert (before - after).abs().max() < 1.01 * step
    assert (before - after).abs().gt(0.5 * step).float().mean() < 0.01
