"""Residual network with a feature pyramid: sizes, counts, names, what is frozen, and what it computes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from monai_ext.networks.mask_rcnn.backbone import ResNetFPN

NORMS = ("group", "batch", "frozen_batch")
SMALL: dict[str, Any] = {"layers": (1, 2, 1, 1), "base_features": 8, "fpn_channels": 16}


def images(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def small(in_channels: int = 3, block: str = "bottleneck", norm: str = "group", **options: Any) -> ResNetFPN:
    torch.manual_seed(7)
    return ResNetFPN(in_channels, block, norm=norm, **{**SMALL, **options})


def values(module: nn.Module) -> int:
    """Kernels, biases and affine, which a frozen norm holds in buffers."""
    return sum(v.numel() for k, v in module.state_dict().items() if k.endswith(("weight", "bias")))


@pytest.mark.parametrize(("norm", "pyramid"), [("group", 3_346_432), ("batch", 3_344_384), ("frozen_batch", 3_344_384)])
def test_published_counts(norm: str, pyramid: int) -> None:
    """ResNet-50 without its classifying layer, stage for stage; a norm in the pyramid has 8 x (2 - 1) x 256 more."""
    with torch.device("meta"):
        network = ResNetFPN(3, norm=norm)
    assert values(network.body) == 23_508_032
    assert values(network.body.conv1) + values(network.body.bn1) == 9_536
    assert [values(s) for s in network.body.stages()] == [215_808, 1_219_584, 7_098_368, 14_964_736]
    assert values(network.fpn) == pyramid
    trained = sum(p.numel() for p in network.body.parameters())
    assert trained == 23_454_912 + (0 if norm == "frozen_batch" else 53_120)


def test_stage_2_and_the_norms_frozen_leave_the_published_number_to_train() -> None:
    with torch.device("meta"):
        network = ResNetFPN(3, norm="frozen_batch", freeze_at=2)
    fixed = sum(p.numel() for p in network.parameters() if not p.requires_grad)
    # of 44,454,513 values 44,178,993 are trained: the norms, stem and first stage are not
    assert fixed + 53_120 == 44_454_513 - 44_178_993


@pytest.mark.parametrize("stem_stride", [1, 2])
@pytest.mark.parametrize("size", [(64, 96), (75, 101), (33, 34), (5, 1)])
@pytest.mark.parametrize("block", ["basic", "bottleneck"])
def test_sizes_of_the_levels(block: str, size: tuple[int, int], stem_stride: int) -> None:
    network = small(1, block, stem_stride=stem_stride).eval()
    assert network.strides == tuple(2 * stem_stride * 2**level for level in range(5))
    with torch.no_grad():
        levels = network(images(2, 1, *size))
    for level, stride in zip(levels, network.strides, strict=True):
        assert level.shape == (2, 16, *(-(-edge // stride) for edge in size))
        assert torch.isfinite(level).all()
    assert torch.equal(levels[4], levels[3][:, :, ::2, ::2])


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("block", ["basic", "bottleneck"])
@pytest.mark.parametrize("stride_in_1x1", [False, True])
def test_it_computes_what_the_papers_say(block: str, norm: str, stride_in_1x1: bool) -> None:
    """Written out a second time from the state dict, at an odd size."""
    network = small(3, block, norm, stride_in_1x1=stride_in_1x1)
    generator = torch.Generator().manual_seed(3)
    for name, tensor in network.state_dict().items():
        if tensor.is_floating_point() and tensor.ndim == 1:
            tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5 * ("var" in name))
    state = network.eval().state_dict()
    x = images(2, 3, 45, 70)

    def normed(x: torch.Tensor, name: str) -> torch.Tensor:
        if norm == "group":
            channels = x.shape[1]
            groups = 32 if channels >= 64 else channels // 4
            return F.group_norm(x, groups, state[f"{name}.weight"], state[f"{name}.bias"])
        mean, var, weight, bias = (state[f"{name}.{k}"] for k in ("running_mean", "running_var", "weight", "bias"))
        return F.batch_norm(x, mean, var, weight, bias)

    def conv(x: torch.Tensor, name: str, stride: int) -> torch.Tensor:
        kernel = state[f"{name}.weight"]
        return F.conv2d(x, kernel, state.get(f"{name}.bias"), stride, kernel.shape[-1] // 2)

    y = F.max_pool2d(normed(conv(x, "body.conv1", 2), "body.bn1").relu(), 3, 2, 1)
    stages = []
    for stage, count in enumerate(SMALL["layers"]):
        for index in range(count):
            at, stride = f"body.layer{stage + 1}.{index}", 2 if stage and not index else 1
            strides = [stride, 1, 1] if block == "basic" or stride_in_1x1 else [1, stride, 1]
            z = y
            for number in range(2 if block == "basic" else 3):
                z = normed(conv(z, f"{at}.conv{number + 1}", strides[number]), f"{at}.bn{number + 1}")
                z = z.relu() if number < (1 if block == "basic" else 2) else z
            if f"{at}.downsample.0.weight" in state:
                y = normed(conv(y, f"{at}.downsample.0", stride), f"{at}.downsample.1")
            y = (y + z).relu()
        stages.append(y)

    def pyramid(x: torch.Tensor, name: str) -> torch.Tensor:
        x = conv(x, f"{name}.0", 1)
        return normed(x, f"{name}.1") if f"{name}.1.weight" in state else x

    fine = pyramid(stages[3], "fpn.inner.3")
    levels = [pyramid(fine, "fpn.outer.3")]
    for level in (2, 1, 0):
        h, w = stages[level].shape[-2:]
        doubled = fine.repeat_interleave(2, 2).repeat_interleave(2, 3)
        rows = (torch.arange(h) * fine.shape[2]) // h
        columns = (torch.arange(w) * fine.shape[3]) // w
        above = fine[:, :, rows][:, :, :, columns]
        if (h, w) == doubled.shape[-2:]:
            assert torch.equal(above, doubled)
        fine = pyramid(stages[level], f"fpn.inner.{level}") + above
        levels.insert(0, pyramid(fine, f"fpn.outer.{level}"))
    with torch.no_grad():
        got = network(x)
    for level, want in zip(got, levels, strict=False):
        # float32 sums in another order, through a dozen layers
        torch.testing.assert_close(level, want, rtol=1e-3, atol=1e-3 * want.abs().max().item())


def test_names_are_torchvisions_whatever_the_norm() -> None:
    affine = {n: {k for k in small(norm=n).state_dict() if k.endswith(("weight", "bias"))} for n in NORMS}
    assert affine["batch"] == affine["frozen_batch"]
    body = {n: {k for k in names if k.startswith("body.")} for n, names in affine.items()}
    assert body["group"] == body["batch"]
    assert {"body.conv1.weight", "body.bn1.bias", "body.layer1.0.downsample.0.weight"} < body["group"]
    assert {"body.layer2.1.conv3.weight", "body.layer1.0.downsample.1.weight"} < body["group"]
    assert {"fpn.inner.0.0.weight", "fpn.inner.0.0.bias", "fpn.outer.3.0.bias"} < affine["batch"]
    assert {"fpn.inner.0.0.weight", "fpn.inner.0.1.bias"} < affine["group"]
    assert "fpn.inner.0.0.bias" not in affine["group"]
    assert "fpn.outer.1.1.weight" in small(norm="batch", fpn_norm="batch").state_dict()


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("freeze_at", range(6))
def test_frozen_parts_stay_as_they_are(norm: str, freeze_at: int) -> None:
    network = small(norm=norm, freeze_at=freeze_at).train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], lr=0.1)
    sum(level.square().mean() for level in network(images(2, 3, 64, 64))).backward()  # type: ignore[union-attr]
    optimizer.step()
    parts = ("body.conv1", "body.bn1"), ("body.layer1",), ("body.layer2",), ("body.layer3",), ("body.layer4",)
    frozen = tuple(name + "." for part in parts[:freeze_at] for name in part)
    for name, tensor in network.state_dict().items():
        fixed = name.startswith(frozen) if frozen else False
        fixed = fixed or (norm == "frozen_batch" and name not in dict(network.named_parameters()))
        assert torch.equal(tensor, before[name]) == fixed, name
    assert network.body.layer4[0].bn1.training == (freeze_at < 5)
    assert network.eval().train().fpn.training


@pytest.mark.parametrize("norm", NORMS)
def test_channels_last_and_float16_types_are_kept(norm: str) -> None:
    network = small(norm=norm).eval().to(memory_format=torch.channels_last)
    x = images(2, 3, 64, 96).to(memory_format=torch.channels_last)
    with torch.no_grad():
        want = small(norm=norm).eval()(images(2, 3, 64, 96))
        got = network(x)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            half = network(x)
    for level, plain, low in zip(got, want, half, strict=True):
        assert level.is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(level, plain, rtol=1e-3, atol=1e-3 * plain.abs().max().item())
        assert low.dtype == torch.bfloat16
        # 8 bits of mantissa, lost again in every layer
        assert (low.float() - plain).norm() < 0.1 * plain.norm()


def test_gradients_reach_every_parameter() -> None:
    network = small(1, "basic")
    levels = network(images(1, 1, 70, 70))
    sum((level * images(*level.shape, seed=4)).sum() for level in levels).backward()  # type: ignore[union-attr]
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())


def test_starting_values() -> None:
    torch.manual_seed(0)
    network = ResNetFPN(3, "basic", (1, 1, 1, 1), 64, 128, "batch")
    kernel = network.body.layer2[0].conv1.weight
    assert kernel.std().item() == pytest.approx((2 / (9 * 128)) ** 0.5, rel=0.02)  # from the outputs
    lateral = network.fpn.inner[1][0]
    bound = (3 / 128) ** 0.5
    assert 0.98 * bound < lateral.weight.abs().max().item() <= bound
    assert not lateral.bias.any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"block": "dense"}, "block 'dense' is not one of basic, bottleneck"),
        ({"norm": "none"}, "norm 'none' is not one of group, batch, frozen_batch"),
        ({"layers": (1, 1, 1)}, "4 numbers of at least 1"),
        ({"layers": (1, 0, 1, 1)}, "4 numbers of at least 1"),
        ({"stem_stride": 4}, "stem_stride must be 1 or 2"),
        ({"freeze_at": 6}, "freeze_at must be from 0 to 5"),
    ],
)
def test_wrong_arguments(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small(**options)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::DeprecationWarning")
def test_traced_and_compiled() -> None:
    """One graph without breaks; what was made at one size holds at others."""
    network = small(1, "basic", "frozen_batch", layers=(1, 1, 1, 1)).eval()
    first, other = images(1, 1, 70, 66), images(2, 1, 91, 130)
    with torch.no_grad():
        traced = torch.jit.trace(network, first, check_trace=False)
        compiled = torch.compile(network, backend="eager", fullgraph=True)
        for levels in (traced(other), compiled(other)):
            for level, want in zip(levels, network(other), strict=True):
                torch.testing.assert_close(level, want, rtol=1e-4, atol=1e-4 * want.abs().max().item())
