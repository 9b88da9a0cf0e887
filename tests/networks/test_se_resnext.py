"""The classifier against MONAI's network and torchvision's sizes, and the contract every network keeps."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from monai.networks.nets import SEResNext101
from monai.networks.nets.senet import SENet

from monai_ext.networks.se_bottleneck import SeBottleneck
from monai_ext.networks.se_resnext import SeResNeXt, network_from_class_plan
from monai_ext.planning.class_plan import ARCHITECTURES, ClassPlan
from small_classifier import SMALL, small, with_statistics

# published: timm, torchvision; NVIDIA's with 16 hidden units in every gate
PARAMETERS = {
    "resnet50": (25_557_032, {}),
    "resnext101-32x4d": (44_177_704, {}),
    "se-resnext101-32x4d": (48_955_416, {}),
    "NVIDIA": (45_251_128, {"se_hidden": 16}),
}


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameter_counts_are_the_published_ones(name: str) -> None:
    count, changes = PARAMETERS[name]
    options = {**ARCHITECTURES.get(name, ARCHITECTURES["se-resnext101-32x4d"]), **changes}
    with torch.device("meta"):
        network = SeResNeXt(2, 3, 1000, **options)
    assert sum(p.numel() for p in network.parameters()) == count


@pytest.mark.parametrize(("dims", "channels", "classes", "count"), [(1, 1, 2, 45_122_866), (3, 1, 2, None)])
def test_other_dimensions_have_the_size_of_monais(dims: int, channels: int, classes: int, count: int | None) -> None:
    with torch.device("meta"):
        ours = SeResNeXt(dims, channels, classes, **ARCHITECTURES["se-resnext101-32x4d"])
        theirs = SEResNext101(spatial_dims=dims, in_channels=channels, num_classes=classes)
    sizes = {name: value.shape for name, value in theirs.state_dict().items()}
    assert {name: value.shape for name, value in ours.state_dict().items()} == sizes
    assert count in (None, sum(p.numel() for p in ours.parameters()))


def test_weights_of_monais_network_load_strictly_and_give_the_same_output() -> None:
    torch.manual_seed(0)
    theirs = with_statistics(SEResNext101(spatial_dims=2, in_channels=3, num_classes=7)).eval()
    with torch.device("meta"):
        ours = SeResNeXt(2, 3, 7, **ARCHITECTURES["se-resnext101-32x4d"], fused=False)
    ours.load_state_dict(theirs.state_dict(), strict=True, assign=True)
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(ours.eval()(image), theirs(image), rtol=0, atol=0)  # the same operations


def monais_small(dims: int = 2) -> SENet:
    return SENet(
        dims, 1, "se_resnetxt_bottleneck", (1, 2, 1, 1), 4, 16, None, inplanes=64, downsample_kernel_size=1,
        input_3x3=False, num_classes=3,
    )  # fmt: skip


@pytest.mark.parametrize("training", [False, True])
def test_fused_network_agrees_with_monais(training: bool) -> None:
    """Outputs, gradients and running statistics, over two steps."""
    torch.manual_seed(0)
    theirs = with_statistics(monais_small()).train(training)
    ours = SeResNeXt(2, 1, 3, **{**SMALL, "base_features": 64, "group_width": 4}).train(training)
    ours.load_state_dict(theirs.state_dict())
    for _ in range(2):
        image = torch.randn(4, 1, 64, 64)
        expected, found = theirs(image), ours(image)
        # float32 sums in another order through 5 blocks; outputs are of order 1 to 10
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
    if training:
        expected.square().mean().backward()
        found.square().mean().backward()
        theirs_by_name = dict(theirs.named_parameters())
        for name, parameter in ours.named_parameters():
            gradient = theirs_by_name[name].grad
            # batch norm subtracts nearly equal sums: what is left is compared with the gradient's own size
            difference = float((parameter.grad - gradient).norm() / gradient.norm().clamp_min(1e-6))
            assert difference < 2e-2, (name, difference)
    buffers = dict(theirs.named_buffers())
    assert buffers
    for name, buffer in ours.named_buffers():
        torch.testing.assert_close(buffer, buffers[name], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("dims", "options"),
    [(1, {}), (2, {}), (3, {}), (2, {"se_ratio": 0}), (2, {"final_conv": True, "stem_pool": "none", "drop_path": 0.2})],
)
def test_contract(dims: int, options: dict[str, Any]) -> None:
    """Every parameter gets a gradient; the network can be copied after a step, scripted and traced."""
    network = with_statistics(small(dims, **options))
    image = torch.randn(2, 1, *(40,) * dims)
    assert network(image).shape == (2, 3)
    network(image).square().mean().backward()
    assert [n for n, p in network.named_parameters() if p.grad is None] == []
    twin = copy.deepcopy(network).eval()
    with torch.no_grad():
        expected = twin(image)
        for artefact in (torch.jit.script(twin), torch.jit.trace(twin, image)):
            torch.testing.assert_close(artefact(image), expected, rtol=1e-4, atol=1e-4)  # plain against fused
            assert "monai_ext::" not in str(artefact.inlined_graph)  # custom ops need this package


def test_every_gate_has_the_hidden_width_asked_for() -> None:
    gates = [m.se_layer.fc for m in small(se_hidden=5).modules() if isinstance(m, SeBottleneck)]
    assert {(gate[0].out_features, gate[2].in_features) for gate in gates} == {(5, 5)}
    gates = [m.se_layer.fc for m in small(se_ratio=8).modules() if isinstance(m, SeBottleneck)]
    assert [gate[0].out_features for gate in gates] == [8, 16, 16, 32, 64]


@pytest.mark.parametrize(
    ("pool", "edges"), [("ceil", (10, 10, 5, 3, 2)), ("pad1", (11, 11, 6, 3, 2)), ("none", (21, 21, 11, 6, 3))]
)
def test_features_of_all_stages(pool: str, edges: tuple[int, ...]) -> None:
    network = small(features_only=True, stem_pool=pool).eval()
    image = torch.randn(1, 1, 42, 42)
    maps = network(image)
    assert [tuple(m.shape[1:]) for m in maps] == [
        (width, edge, edge) for width, edge in zip((16, 64, 128, 256, 512), edges, strict=True)
    ]
    torch.testing.assert_close(network.features(image), maps[-1], rtol=0, atol=0)
    assert not any(name.startswith("last_linear") for name in network.state_dict())
    assert len(torch.jit.script(network)(image)) == 5


def test_head_is_a_convolution_on_request() -> None:
    linear, convolution = small().eval(), small(final_conv=True).eval()
    state = linear.state_dict()
    state["last_linear.weight"] = state["last_linear.weight"][..., None, None]
    convolution.load_state_dict(state)
    image = torch.randn(2, 1, 32, 32)
    # a matrix product and a 1x1 convolution sum in different orders
    torch.testing.assert_close(convolution(image), linear(image), rtol=1e-5, atol=1e-5)


def test_zero_last_norm_starts_blocks_as_their_shortcuts() -> None:
    block = next(
        m
        for m in small(zero_init_last_norm=True).modules()
        if isinstance(m, SeBottleneck) and m.conv1.in_channels == 128
    )
    x = torch.randn(2, 128, 5, 5)
    torch.testing.assert_close(block(x), x.relu(), rtol=0, atol=0)
    assert float(block.conv1.adn.N.weight.detach().min()) == 1


@pytest.mark.parametrize(
    ("init", "variance", "largest"),
    [("fan_in", 2 / 49, 9.0), ("fan_out", 2 / (49 * 64), 9.0), ("truncated", 2 / 49, 2.01 / 0.8796)],
)
def test_convolutions_start_as_asked(init: str, variance: float, largest: float) -> None:
    weight = small(base_features=64, conv_init=init).layer0.conv1.weight.detach()
    assert float(weight.var()) == pytest.approx(variance, rel=0.1)  # 3136 values: 4 sigma of a variance
    assert float(weight.abs().max()) <= largest * variance**0.5


def test_drop_path_rises_to_the_last_block_and_only_drops_in_training() -> None:
    network = small(drop_path=0.4)
    chances = [m.drop_path.chance for m in network.modules() if isinstance(m, SeBottleneck)]
    assert chances == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])
    image = torch.randn(4, 1, 32, 32)
    torch.manual_seed(1)
    first, second = network(image), network(image)
    assert not torch.allclose(first, second)
    network.eval()
    torch.testing.assert_close(network(image), network(image), rtol=0, atol=0)


def test_plan_decides_the_network() -> None:
    plan = ClassPlan(
        dataset="test", classes=("a", "b", "c"), multi_label=False, spatial_dims=2, channels=1, image_size=(64, 64),
        mean=(0.5,), std=(0.2,), arch="test", se_hidden=4, stem_pool="pad1", **SMALL,
    )  # fmt: skip
    network = network_from_class_plan(plan, drop_path=0.2, fused=False)
    assert network.layer0.pool.padding == 1
    assert not network.fused
    assert network.last_linear.out_features == 3
    assert network.layer1[0].se_layer.fc[0].out_features == 4
    assert network.layer4[0].drop_path.chance == pytest.approx(0.2)
    assert network_from_class_plan(replace(plan, final_conv=True)).last_linear.weight.ndim == 4


@pytest.mark.parametrize(
    "wrong",
    [
        {"stem_pool": "same"},
        {"conv_init": "zeros"},
        {"layers": (1, 2, 3)},
        {"base_features": 4, "group_width": 8},
        {"drop_path": 1.0},
    ],
)
def test_wrong_options_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong)).replace("_", ".")):
        small(**wrong)
