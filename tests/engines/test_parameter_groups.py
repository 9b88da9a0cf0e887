"""What decays, by module type; layer-wise rates; frozen parts."""

from __future__ import annotations

import pytest
import torch
from monai.networks.nets import SENet
from torch import nn

from monai_ext.engines.optimizers import make_optimizer
from monai_ext.engines.parameter_groups import describe_groups, parameter_groups
from monai_ext.errors import InputError
from monai_ext.networks.norm_act import NormAct


@pytest.fixture(scope="module")
def shape() -> nn.Module:
    return senet()


def senet() -> SENet:
    """SE-ResNeXt-26 of MONAI; its shortcuts have batch norms that no name gives away."""
    return SENet(2, 3, "se_resnetxt_bottleneck", (1, 2, 1, 1), 32, 16, None, inplanes=64, input_3x3=False,
                 downsample_kernel_size=1, num_classes=4)  # fmt: skip


def names_of(network: nn.Module, parameters: list[nn.Parameter]) -> set[str]:
    wanted = {id(p) for p in parameters}
    return {name for name, p in network.named_parameters() if id(p) in wanted}


def norm_names(network: nn.Module) -> set[str]:
    norms = {n for n, m in network.named_modules() if isinstance(m, nn.BatchNorm2d)}
    return {f"{name}.{kind}" for name in norms for kind in ("weight", "bias")}


def test_norms_and_biases_do_not_decay(shape: nn.Module) -> None:
    decayed, kept = parameter_groups(shape, 0.1, 6e-5)
    assert (decayed["weight_decay"], kept["weight_decay"]) == (6e-5, 0.0)
    assert (decayed["name"], kept["name"]) == ("decayed", "not decayed")
    spared = names_of(shape, kept["params"])
    assert norm_names(shape) <= spared
    assert "layer1.0.project.adn.N.weight" in spared  # the shortcut's
    assert {"last_linear.bias", "layer3.0.se_layer.fc.2.bias"} <= spared
    assert names_of(shape, decayed["params"]) == {n for n, p in shape.named_parameters() if p.ndim > 1}
    assert len(spared) + len(decayed["params"]) == len(list(shape.parameters()))


def test_biases_decay_on_request_norms_never(shape: nn.Module) -> None:
    decayed, kept = parameter_groups(shape, 0.1, 6e-5, decay_biases=True)
    assert names_of(shape, kept["params"]) == norm_names(shape)
    assert "last_linear.bias" in names_of(shape, decayed["params"])


@pytest.mark.parametrize(
    "norm", [nn.BatchNorm3d(4), nn.GroupNorm(2, 4), nn.LayerNorm(4), nn.InstanceNorm2d(4, affine=True), nn.RMSNorm(4),
             nn.SyncBatchNorm(4), NormAct(4)]
)  # fmt: skip
def test_every_kind_of_norm_is_known(norm: nn.Module) -> None:
    network = nn.Sequential(nn.Linear(4, 4, bias=False), norm)
    _, kept = parameter_groups(network, 0.1, 1.0)
    assert {id(p) for p in kept["params"]} == {id(p) for p in norm.parameters()}


def test_rates_fall_towards_the_input(shape: nn.Module) -> None:
    groups = parameter_groups(shape, 0.1, 6e-5, layer_decay=0.5)
    assert len(groups) == 12  # six depths, each decayed and not
    rates = {group["name"]: group["lr"] for group in groups}
    assert rates["depth 5, decayed"] == rates["depth 5, not decayed"] == 0.1
    assert [rates[f"depth {d}, decayed"] for d in range(6)] == pytest.approx([0.1 * 0.5 ** (5 - d) for d in range(6)])
    for group in groups:
        depth = group["name"][6]
        start = "last_linear" if depth == "5" else f"layer{depth}."
        assert all(name.startswith(start) for name in names_of(shape, group["params"]))
    assert sum(len(group["params"]) for group in groups) == len(list(shape.parameters()))
    assert "depth 5, not decayed: 1 tensors, 4 parameters, learning rate 0.1, weight decay 0" in describe_groups(groups)


@pytest.mark.parametrize(("freeze", "gone"), [("stem", ["layer0."]), ("stage2", ["layer0.", "layer1.", "layer2."])])
def test_frozen_parts_are_left_out(freeze: str, gone: list[str]) -> None:
    network = senet()
    groups = parameter_groups(network, 0.1, 6e-5, freeze=freeze)
    trained = set().union(*(names_of(network, group["params"]) for group in groups))
    assert {n for n, _ in network.named_parameters()} - trained == {
        n for n, _ in network.named_parameters() if n.startswith(tuple(gone))
    }
    assert {n for n, p in network.named_parameters() if p.requires_grad} == trained


def test_a_shared_parameter_is_in_one_group() -> None:
    network = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    network[1].weight = network[0].weight
    decayed, _ = parameter_groups(network, 0.1, 1.0)
    assert len(decayed["params"]) == 1


def test_a_wrapped_network_has_the_same_groups(shape: nn.Module) -> None:
    plain = parameter_groups(shape, 0.1, 1.0, layer_decay=0.7)
    wrapped = parameter_groups(nn.DataParallel(shape), 0.1, 1.0, layer_decay=0.7)
    assert [(g["name"], list(map(id, g["params"]))) for g in plain] == [
        (g["name"], list(map(id, g["params"]))) for g in wrapped
    ]


def test_bad_values_are_refused_together() -> None:
    with pytest.raises(InputError, match=r"3 problems[\s\S]*--layer_decay 0[\s\S]*--learning_rate -1[\s\S]*--weight_d"):
        parameter_groups(senet(), -1, -1, layer_decay=0)
    with pytest.raises(InputError, match=r"--freeze 'body'.*Cure: one of none, stem, stage1"):
        parameter_groups(senet(), 0.1, 0, freeze="body")
    with pytest.raises(InputError, match="has no layer0"):
        parameter_groups(nn.Linear(2, 2), 0.1, 0, freeze="stem")
    network = senet()
    network.requires_grad_(False)
    with pytest.raises(InputError, match="nothing is left to train"):
        parameter_groups(network, 0.1, 0)


def test_steps_of_the_optimiser_follow_the_groups(shape: nn.Module) -> None:
    """Gradient 0: only decay moves, by lr * decay of the group."""
    network = senet()
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    optimizer = make_optimizer(parameter_groups(network, 0.1, 0.01, layer_decay=0.5), "sgd", 7.0, 7.0, 0.9, False)
    for p in network.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    for name, p in network.named_parameters():
        depth = 5 if name.startswith("last") else int(name[5])
        factor = 1 - 0.1 * 0.5 ** (5 - depth) * 0.01 if p.ndim > 1 else 1.0
        torch.testing.assert_close(p.detach(), before[name] * factor, rtol=1e-6, atol=1e-9)  # float32


def test_biases_learn_at_their_own_rate(shape: nn.Module) -> None:
    decayed, kept, biases = parameter_groups(shape, 0.1, 6e-5, bias_rate=2.0)
    assert (decayed["lr"], kept["lr"], biases["lr"]) == (0.1, 0.1, 0.2)
    assert names_of(shape, biases["params"]) == {n for n, _ in shape.named_parameters() if n.endswith("bias")}
    with pytest.raises(InputError, match="--bias_rate 0"):
        parameter_groups(shape, 0.1, 6e-5, bias_rate=0.0)
