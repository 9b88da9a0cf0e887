"""The plan-driven U-Net against MONAI's DynUNet, and the contract every network keeps."""

from __future__ import annotations

import copy

import pytest
import torch
from monai.networks.nets import DynUNet

from monai_ext.networks.norm_act import NormAct
from monai_ext.networks.plan_unet import ConvNormAct, PlanUNet, ResidualBlock, Style, network_from_plan
from monai_ext.planning.msd_plans import named_plan
from monai_ext.planning.plan import Plan

TOPOLOGIES = {
    "hippocampus": (3, 1, 3, [[1] * 3] + [[2] * 3] * 3, [[3] * 3] * 4, (32, 64, 128, 256)),
    "prostate": (
        3,
        2,
        3,
        [[1, 1, 1], [1, 2, 2], [1, 2, 2], [2, 2, 2], [2, 2, 2], [1, 2, 2]],
        [[1, 3, 3], [1, 3, 3], [3, 3, 3], [3, 3, 3], [3, 3, 3], [3, 3, 3]],
        (32, 64, 128, 256, 320, 320),
    ),
    "hippocampus 2d": (2, 1, 3, [[1] * 2] + [[2] * 2] * 3, [[3] * 2] * 4, (32, 64, 128, 256)),
}
PARAMETERS = {"hippocampus": 5_601_187, "prostate": 30_555_075, "hippocampus 2d": 1_926_499}  # published counts
# task: parameters without and with residual blocks, as published
PLAIN_AND_RESIDUAL = {
    "01": (31_192_868, 37_336_420),
    "02": (30_780_610, 36_921_570),
    "03": (31_190_243, 37_331_203),
    "04": (5_601_187, 6_764_227),
    "05": (30_555_075, 36_658_883),
    "06": (30_780_610, 36_921_570),
    "07": (30_753_443, 36_893_827),
    "08": (30_780_643, 36_921_603),
    "09": (31_163_010, 37_303_394),
    "10": (30_753_410, 36_893_794),
}
FLAT = {"01": 20_613_092, "02": 20_612_162, "03": 20_612_195, "04": 1_926_499, "05": 20_612_483} | {
    "06": 20_612_162, "07": 20_612_195, "08": 20_612_195, "09": 20_612_162, "10": 20_612_162,
}  # fmt: skip
SMALL = (3, 1, 3, [[1] * 3, [1, 2, 2], [2] * 3, [2] * 3], [[1, 3, 3], [3] * 3, [3] * 3, [3] * 3], (4, 8, 16, 16))


def dynunet(dims: int, c_in: int, c_out: int, strides: list, kernels: list, features: tuple) -> DynUNet:
    return DynUNet(
        dims,
        c_in,
        c_out,
        kernels,
        strides,
        strides[1:],
        filters=features,
        norm_name=("instance", {"affine": True}),
        act_name=("leakyrelu", {"negative_slope": 0.01, "inplace": True}),
        trans_bias=True,
    )


def copy_from_dynunet(ours: PlanUNet, theirs: DynUNet) -> None:
    """Match tensors by their role: DynUNet names its layers otherwise and lists every convolution before its norms."""
    names = {}
    blocks = [("encoder.0", "input_block")]
    depth = len(ours.encoder)
    blocks += [(f"encoder.{i}", f"downsamples.{i - 1}") for i in range(1, depth - 1)]
    blocks += [(f"encoder.{depth - 1}", "bottleneck")]
    for mine, other in blocks:
        for j in (0, 1):
            names[f"{mine}.{j}.0.weight"] = f"{other}.conv{j + 1}.conv.weight"
            names[f"{mine}.{j}.1.weight"] = f"{other}.norm{j + 1}.weight"
            names[f"{mine}.{j}.1.bias"] = f"{other}.norm{j + 1}.bias"
    for i in range(depth - 1):
        names[f"decoder.{i}.up.weight"] = f"upsamples.{i}.transp_conv.conv.weight"
        names[f"decoder.{i}.up.bias"] = f"upsamples.{i}.transp_conv.conv.bias"
        for j, part in enumerate(("first", "second"), start=1):
            names[f"decoder.{i}.{part}.0.weight"] = f"upsamples.{i}.conv_block.conv{j}.conv.weight"
            names[f"decoder.{i}.{part}.1.weight"] = f"upsamples.{i}.conv_block.norm{j}.weight"
            names[f"decoder.{i}.{part}.1.bias"] = f"upsamples.{i}.conv_block.norm{j}.bias"
    names["heads.0.weight"] = "output_block.conv.conv.weight"
    names["heads.0.bias"] = "output_block.conv.conv.bias"
    source = theirs.state_dict()
    ours.load_state_dict({mine: source[other] for mine, other in names.items()})


@pytest.mark.parametrize("name", TOPOLOGIES)
def test_parameter_counts_are_the_published_ones(name: str) -> None:
    with torch.device("meta"):
        ours, theirs = PlanUNet(*TOPOLOGIES[name]), dynunet(*TOPOLOGIES[name])
    count = sum(p.numel() for p in ours.parameters())
    assert count == PARAMETERS[name] == sum(p.numel() for p in theirs.parameters())


def parameter_count(plan: Plan) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in network_from_plan(plan).parameters())


@pytest.mark.parametrize("task", PLAIN_AND_RESIDUAL)
def test_parameters_of_all_tasks_are_the_published_ones(task: str) -> None:
    plan = named_plan(task)
    residual = plan.with_changes("test", res_block=True)
    assert (parameter_count(plan), parameter_count(residual)) == PLAIN_AND_RESIDUAL[task]
    assert parameter_count(named_plan(task, spatial_dims=2)) == FLAT[task]


def test_output_equals_dynunet_with_copied_weights() -> None:
    torch.manual_seed(0)
    theirs = dynunet(*SMALL)
    ours = PlanUNet(*SMALL)
    for parameter in theirs.parameters():  # norms start at one and zero: make them count
        torch.nn.init.normal_(parameter, std=0.3)
    copy_from_dynunet(ours, theirs)
    image = torch.randn(2, 1, 8, 32, 16)
    # same operations in the same order: only the memory layout of intermediate tensors may differ
    torch.testing.assert_close(ours.eval()(image), theirs.eval()(image), rtol=1e-4, atol=1e-4)


def test_deep_supervision_lists_native_resolutions() -> None:
    network = PlanUNet(*SMALL, deep_supervision=True)
    outputs = network(torch.randn(1, 1, 8, 32, 16))
    assert [tuple(o.shape) for o in outputs] == [(1, 3, 8, 32, 16), (1, 3, 8, 16, 8)]
    assert [tuple(o.shape) for o in network.eval()(torch.randn(1, 1, 8, 32, 16))] == [(1, 3, 8, 32, 16)]


def test_weights_load_from_a_deeply_supervised_network() -> None:
    trained, plain = PlanUNet(*SMALL, deep_supervision=True), PlanUNet(*SMALL)
    plain.load_state_dict(trained.state_dict())
    image = torch.randn(1, 1, 8, 32, 16)
    torch.testing.assert_close(plain.eval()(image), trained.eval()(image)[0], rtol=0, atol=0)
    with pytest.raises(RuntimeError, match="Missing key"):
        trained.load_state_dict(plain.state_dict())


def test_residual_blocks_only_in_encoder_and_bottleneck() -> None:
    network = PlanUNet(*SMALL, res_block=True)
    blocks = [m for m in network.modules() if isinstance(m, ResidualBlock)]
    assert blocks == list(network.encoder)
    shortcuts = [b.shortcut for b in blocks]
    assert all(isinstance(s, ConvNormAct) for s in shortcuts)  # every level here strides or widens
    assert [s[0].kernel_size for s in shortcuts] == [(1, 3, 3), (3, 3, 3), (3, 3, 3), (3, 3, 3)]
    assert [s[0].stride for s in shortcuts] == [(1, 1, 1), (1, 2, 2), (2, 2, 2), (2, 2, 2)]
    assert all(s[0].bias is None for s in shortcuts)


def test_residual_block_is_its_formula() -> None:
    """norm(conv(act(norm(conv x)))) + shortcut, then the activation; identity where shapes stay."""
    torch.manual_seed(0)
    x = torch.randn(2, 4, 4, 6, 6)
    same = ResidualBlock(Style(3, "instance", 0.1), 4, 4, (3, 3, 3), (1, 1, 1))
    assert isinstance(same.shortcut, torch.nn.Identity)
    before = x.clone()
    body = torch.nn.functional.instance_norm(same.second[0](same.first(x)))
    expected = torch.where(body + x > 0, body + x, 0.1 * (body + x))
    torch.testing.assert_close(same(x), expected, rtol=1e-5, atol=1e-6)  # the norm's sums run in another order
    torch.testing.assert_close(x, before, rtol=0, atol=0)  # the activation in place must not reach the input
    other = ResidualBlock(Style(3, "instance", 0.1), 4, 8, (1, 3, 3), (1, 2, 2))
    with torch.no_grad():
        other.second[1].weight.zero_()  # the body adds nothing: what is left is the activated shortcut
    convolved = torch.nn.functional.conv3d(x, other.shortcut[0].weight, stride=(1, 2, 2), padding=(0, 1, 1))
    normed = torch.nn.functional.instance_norm(convolved)
    torch.testing.assert_close(other(x), torch.where(normed > 0, normed, 0.1 * normed), rtol=1e-5, atol=1e-6)


def test_residual_network_is_traceable() -> None:
    network = PlanUNet(*SMALL, res_block=True, deep_supervision=False).eval()
    image = torch.randn(1, 1, 8, 32, 16)
    traced = torch.jit.trace(network, image)
    torch.testing.assert_close(traced(image), network(image), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("res_block", [False, True])
@pytest.mark.parametrize("deep_supervision", [False, True])
@pytest.mark.parametrize("norm", ["instance", "batch", "group"])
def test_contract(deep_supervision: bool, norm: str, res_block: bool) -> None:
    """Every parameter gets a gradient; the network can be copied after a step, and scripted with equal output."""
    network = PlanUNet(*SMALL, deep_supervision=deep_supervision, norm=norm, res_block=res_block)
    image = torch.randn(2, 1, 8, 32, 16)
    outputs = network(image)
    outputs = outputs if deep_supervision else [outputs]
    sum(o.square().mean() for o in outputs).backward()
    assert [n for n, p in network.named_parameters() if p.grad is None] == []
    twin = copy.deepcopy(network).eval()
    scripted = torch.jit.script(twin)
    expected, found = twin(image), scripted(image)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)  # scripting may fuse differently


def test_plan_decides_norm_and_slope() -> None:
    plan = named_plan("04").with_changes("test", norm="group", negative_slope=0.2, features=(4, 8, 8, 8))
    network = network_from_plan(plan)
    norms = [m for m in network.modules() if isinstance(m, NormAct)]
    assert {(m.groups, m.negative_slope, len(m.weight)) for m in norms} == {(4, 0.2, 4), (8, 0.2, 8)}


def test_unknown_norm_is_refused() -> None:
    with pytest.raises(ValueError, match=r"batch.*group.*instance.*'layer'"):
        PlanUNet(*SMALL, norm="layer")


@pytest.mark.parametrize(("up_init", "variance"), [("pytorch", 1 / (3 * 64 * 8)), ("kaiming", 2 / (64 * 8))])
def test_transposed_convolutions_start_as_asked(up_init: str, variance: float) -> None:
    """Fan-in of a transposed convolution [128, 64, 2, 2, 2] in PyTorch is 64 x 8."""
    torch.manual_seed(0)
    levels = {"strides": [(1,) * 3, (2,) * 3], "kernels": [(3,) * 3] * 2, "features": [64, 128]}
    weight = PlanUNet(3, 1, 2, **levels, up_init=up_init).decoder[0].up.weight
    assert float(weight.detach().var()) == pytest.approx(variance, rel=0.05)  # 65536 values: 2 sigma are 1 %


def test_unknown_start_is_refused() -> None:
    with pytest.raises(ValueError, match="up_init"):
        PlanUNet(3, 1, 2, [(1,) * 3], [(3,) * 3], [4], up_init="zeros")
