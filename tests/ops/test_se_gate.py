"""What is special to `se_gate`: the plain composition, closed-form gradients, export, precision, how forms cut."""

from __future__ import annotations

import io
from importlib.util import find_spec

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from monai.networks.blocks.squeeze_and_excitation import ChannelSELayer
from torch import nn

from monai_ext.ops.check import cases_of, check, differences
from monai_ext.ops.forms import forced
from monai_ext.ops.se_gate import _backward, _forward, se_gate

OP = "se_gate"
GPU = "cuda" if torch.cuda.is_available() else "cpu"  # where Triton runs: without a GPU in its interpreter
DEVICES = {"torch": "cpu", "c++": "cpu", "triton": GPU}
needs_triton = pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed")
forms = pytest.mark.parametrize("form", ["torch", "c++", pytest.param("triton", marks=needs_triton)])
layouts = pytest.mark.parametrize("last", [False, True], ids=["contiguous", "channels_last"])


class Tail(nn.Module):
    """What follows the last convolution of a block, with running statistics as a network keeps them."""

    def __init__(self, channels: int = 6, hidden: int = 3, norm: bool = True) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(channels) if norm else None
        self.fc1, self.fc2 = nn.Linear(channels, hidden), nn.Linear(hidden, channels)
        if self.bn is not None:
            nn.init.uniform_(self.bn.weight, 0.5, 2)
            nn.init.normal_(self.bn.bias)
            nn.init.normal_(self.bn.running_mean)

    def forward(self, x: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
        layers = self.fc1.weight, self.fc1.bias, self.fc2.weight, self.fc2.bias
        if self.bn is None:
            return se_gate(x, *layers, residual)[0]
        statistics = self.bn.running_mean, self.bn.running_var
        norm = self.bn.weight, self.bn.bias
        return se_gate(x, *layers, residual, *norm, *statistics, self.bn.eps, self.training)[0]

    @torch.jit.unused
    def plain(self, x: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
        n = x if self.bn is None else self.bn(x)
        s = torch.sigmoid(self.fc2(torch.relu(self.fc1(n.mean((2, 3))))))
        return torch.relu(n * s[:, :, None, None] + residual)


def _inputs(last=False, shape=(3, 6, 5, 7), seed=4):
    random = torch.Generator().manual_seed(seed)
    x, residual = (torch.randn(shape, generator=random) for _ in range(2))
    if last:
        x, residual = (t.contiguous(memory_format=torch.channels_last) for t in (x, residual))
    return x, residual


def _gradients(output, inputs):
    weights = torch.randn(output.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    return torch.autograd.grad((output * weights.to(output)).sum(), inputs)


def _case(name):
    return next(case for case in cases_of(OP) if case.name == name)


def _arguments(**change):
    values = {"x": torch.randn(2, 4, 5), "w1": torch.ones(3, 4), "b1": torch.ones(3), "w2": torch.ones(4, 3),
              "b2": torch.ones(4), "residual": None, "norm_weight": torch.ones(4), "norm_bias": torch.zeros(4),
              "mean": torch.zeros(4), "var": torch.ones(4)}  # fmt: skip
    return {**values, **change}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.randn(2, 4)}, r"x \(2, 4\) must be \[B, C, \*S\]"),
        ({"w1": torch.ones(3, 5)}, r"w1 \(3, 5\) must be \[3, 4\] for 4 channels"),
        ({"b1": torch.ones(4)}, r"b1 \(4,\) must be \[3\]"),
        ({"w2": torch.ones(3, 4)}, r"w2 \(3, 4\) must be \[4, 3\]"),
        ({"b2": torch.ones(3)}, r"b2 \(3,\) must be \[4\]"),
        ({"residual": torch.ones(2, 4, 6)}, r"residual \(2, 4, 6\) must have the shape of x, \(2, 4, 5\)"),
        ({"norm_bias": None}, "norm_bias is missing"),
        ({"norm_bias": None, "training": True}, "norm_bias is missing"),
        ({"var": None}, "var is missing"),
        ({"mean": torch.zeros(1)}, r"mean \(1,\) must be \[4\]"),
        ({"x": torch.randn(1, 4, 1), "training": True}, r"more than one value a channel, got x \(1, 4, 1\)"),
    ],
)
def test_wrong_arguments_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        se_gate(**_arguments(**change))


@forms
@layouts
@pytest.mark.parametrize("mode", ["training", "inference", "folded"])
def test_equals_the_layers_one_by_one(form, last, mode):
    """Also float64 of the plain layers, so that the closed form of the gradient is compared with autograd's."""
    torch.manual_seed(1)
    tail = Tail(norm=mode != "folded").train(mode == "training")
    x, residual = _inputs(last)
    wide = Tail(norm=mode != "folded").double().train(mode == "training")
    wide.load_state_dict(tail.state_dict())
    inputs = [x.double().requires_grad_(), residual.double().requires_grad_()]
    expected = wide.plain(*inputs)
    slopes = _gradients(expected, [*inputs, *wide.parameters()])
    tail = tail.to(DEVICES[form])
    inputs = [t.to(DEVICES[form]).requires_grad_() for t in (x, residual)]
    with forced(form):
        found = tail(*inputs)
        torch.testing.assert_close(found.cpu().double(), expected, rtol=2e-6, atol=2e-6)
        for a, b in zip(_gradients(found, [*inputs, *tail.parameters()]), slopes, strict=True):
            assert (a.cpu().double() - b).abs().max() <= 3e-6 * b.abs().max()
    if form != "torch":
        assert found.stride() == x.stride()


@forms
def test_statistics_are_those_of_batch_norm(form):
    x, arguments = _inputs()[0] * 3 + 5, _arguments(w1=torch.ones(3, 6), w2=torch.ones(6, 3), b2=torch.ones(6))
    norm = {"norm_weight": torch.ones(6), "norm_bias": torch.zeros(6), "mean": None, "var": None}
    given = {k: v if v is None else v.to(DEVICES[form]) for k, v in {**arguments, "x": x, **norm}.items()}
    with forced(form):
        _, mean, var = se_gate(**given, training=True)
        torch.testing.assert_close(mean.cpu(), x.mean((0, 2, 3)), rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(var.cpu(), x.var((0, 2, 3), correction=0), rtol=1e-6, atol=1e-6)
        assert not mean.requires_grad
        given.update(mean=mean, var=var)
        _, again, same = se_gate(**given)
        assert again is mean
        assert same is var
        given.update(norm_weight=None)
        assert [t.shape for t in se_gate(**given)[1:]] == [(0,), (0,)]


def test_equals_monai_layer():
    """`ChannelSELayer` squeezes, excites and multiplies; no norm, residual or activation."""
    torch.manual_seed(2)
    layer = ChannelSELayer(2, 8, r=2)
    x, _ = _inputs(shape=(2, 8, 5, 6))
    weights = layer.fc[0].weight, layer.fc[0].bias, layer.fc[2].weight, layer.fc[2].bias
    torch.testing.assert_close(se_gate(x, *weights, None, relu=False)[0], layer(x), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", ["several_chunks_channels_last", "large_offset", "constant_channel", "stage_3"])
def test_cpp_is_more_precise_than_torch_may_be(name):
    """Cases allow what torch's batch norm loses in float32; chunks that are merged in double need none of that."""
    assert max(differences(OP, _case(name), "c++")) <= 2e-6


def test_gradient_is_the_slope_of_the_output():
    """Central differences along a random direction of all arguments, in the float64 that the reference keeps."""
    random = torch.Generator().manual_seed(11)
    shapes = ((2, 4, 5, 3), (3, 4), (3,), (4, 3), (4,), (2, 4, 5, 3), (4,), (4,))
    inputs = [torch.randn(shape, generator=random).double() for shape in shapes]
    directions = [torch.randn(shape, generator=random).double() for shape in shapes]
    weights = torch.randn(shapes[0], generator=random)

    def total(step):
        moved = [t + step * d for t, d in zip(inputs, directions, strict=True)]
        return float((se_gate(*moved, eps=1e-3, training=True)[0] * weights).sum())

    slope = (total(1e-6) - total(-1e-6)) / 2e-6
    single = [t.float().requires_grad_() for t in inputs]
    output = se_gate(*single, eps=1e-3, training=True)[0]
    gradients = torch.autograd.grad((output * weights).sum(), single)
    found = sum(float((g * d).sum()) for g, d in zip(gradients, directions, strict=True))
    assert found == pytest.approx(slope, rel=1e-3)


@pytest.mark.parametrize("way", ["script", "trace"])
@pytest.mark.parametrize("norm", [False, True], ids=["folded", "norm"])
@pytest.mark.filterwarnings("ignore")  # torch's own, about TorchScript's future
def test_exported_graphs_hold_only_torch_operators(way, norm):
    torch.manual_seed(5)
    tail = Tail(norm=norm).eval()
    x, residual = _inputs()
    exported = torch.jit.script(tail) if way == "script" else torch.jit.trace(tail, (x, residual))
    assert "monai_ext::" not in str(exported.inlined_graph)
    stream = io.BytesIO()
    torch.jit.save(exported, stream)
    stream.seek(0)
    loaded = torch.jit.load(stream)
    for inputs in ((x, residual), _inputs(shape=(1, 6, 9, 4))):
        torch.testing.assert_close(loaded(*inputs), tail(*inputs), rtol=1e-5, atol=1e-5)


@forms
def test_gate_keeps_single_precision_in_autocast(form):
    """x of bfloat16 as convolutions give it; the result is that of the same values without autocast."""
    torch.manual_seed(6)
    tail = Tail().to(DEVICES[form])
    x, residual = (t.to(DEVICES[form], torch.bfloat16) for t in _inputs())
    with forced(form):
        with torch.autocast(DEVICES[form], torch.bfloat16):
            found = tail(x, residual)
            slopes = _gradients(found.float(), list(tail.parameters()))
        expected = tail(x.float(), residual.float())
        wanted = _gradients(expected, list(tail.parameters()))
    assert found.dtype == torch.bfloat16
    # half a unit of bfloat16's 8 bits; nothing else may be rounded
    torch.testing.assert_close(found.float(), expected, rtol=2**-8, atol=1e-6)
    for a, b in zip(slopes, wanted, strict=True):
        assert a.dtype == torch.float32
        assert (a - b).abs().max() <= 0.01 * b.abs().max()


def test_torch_accepts_both_operators():
    x, residual = _inputs(last=True)
    tail = Tail()
    layers = [t.detach().requires_grad_() for t in (tail.fc1.weight, tail.fc1.bias, tail.fc2.weight, tail.fc2.bias)]
    norm = [tail.bn.weight.detach().requires_grad_(), tail.bn.bias.detach().requires_grad_()]
    x.requires_grad_()
    torch.library.opcheck(_forward, (x, *layers, residual, *norm, None, None, 1e-5, True, True))
    torch.library.opcheck(_forward, (x, *layers, None, None, None, None, None, 1e-5, False, False))
    with torch.no_grad():
        y, mean, var, *kept = _forward(x, *layers, residual, *norm, None, None, 1e-5, True, True)
        given = [t.detach() for t in (x, y, layers[0], layers[2], *norm)]
        torch.library.opcheck(_backward, (torch.ones_like(y), *given, mean, var, *kept, 1e-5, True))


def test_frozen_parts_have_no_gradient():
    """A head alone is trained: frozen layers and an image without gradient ask for none."""
    tail = Tail().eval()
    for parameter in tail.parameters():
        parameter.requires_grad_(False)
    x, residual = _inputs()
    tail(x, residual.requires_grad_()).sum().backward()
    assert residual.grad is not None
    assert x.grad is None
    assert all(parameter.grad is None for parameter in tail.parameters())
    x.requires_grad_()
    assert not torch.equal(_gradients(tail(x, residual), [x])[0], torch.zeros_like(x))


@pytest.mark.parametrize("last", [False, True], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("training", [False, True], ids=["inference", "training"])
def test_threads_and_batches_do_not_change_bits(last, training):
    """Sums have a fixed order; in inference a sample does not depend on its companions."""
    shape = (5, 32, 24, 20)
    torch.manual_seed(7)
    tail = Tail(32, 8).train(training)
    x, residual = _inputs(last, shape)
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            inputs = x.requires_grad_(), residual.requires_grad_()
            y = tail(*inputs)
            results.append([y, *_gradients(y, [*inputs, *tail.parameters()])])
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
    if not training:
        assert torch.equal(tail(x[2:3], residual[2:3]), results[0][0][2:3])


@pytest.mark.parametrize("last", [False, True], ids=["contiguous", "channels_last"])
def test_samples_in_groups_equal_one_group(last):
    """Inference goes by groups of samples that fit into a cache: 3 MB a sample takes several of them."""
    shape = (3, 48, 128, 128)
    tail = Tail(48, 4).eval()
    x, residual = _inputs(last, shape)
    with torch.no_grad():
        torch.testing.assert_close(tail(x, residual), tail.plain(x, residual), rtol=1e-5, atol=1e-5)


@needs_triton
@pytest.mark.parametrize("name", ["2d", "3d_channels_last", "inference_channels_last"])
def test_channels_cut_into_chunks_and_tiles(name, monkeypatch):
    """What large tensors take, at sizes that the interpreter can: several tiles a chunk, several chunks a channel."""
    from monai_ext.ops import tiles
    from monai_ext.ops.se_gate import cuda

    monkeypatch.setattr(tiles, "TILE_VALUES", 64)
    monkeypatch.setattr(tiles, "PROGRAMS", 10)
    monkeypatch.setattr(cuda, "LAYER_VALUES", 16)
    check(OP, _case(name), "triton", GPU)


@needs_triton
def test_few_channels_fill_the_device():
    """Meta tensors: only the plan is made."""
    from monai_ext.ops import tiles
    from monai_ext.ops.se_gate import cuda

    for shape, hidden in (((8, 256, 56, 56), 16), ((1, 256, 56, 56), 16), ((8, 2048, 7, 7), 128)):
        for layout in (torch.contiguous_format, torch.channels_last):
            x = torch.empty(shape, device="meta").contiguous(memory_format=layout)
            plan = cuda._plan(x, hidden)
            assert plan.programs >= 132  # of an H200's processors none is idle
            assert plan.splits * plan.chunks[1] >= shape[2] * shape[3] > (plan.splits - 1) * plan.chunks[1]
            assert plan.tile["BLOCK_C"] * plan.tile["BLOCK_S"] <= tiles.TILE_VALUES
            assert plan.layer_c * plan.layer_h <= cuda.LAYER_VALUES


def test_reference_runs_without_a_norm_in_float64():
    x, residual = _inputs()
    layers = [torch.ones(2, 6), torch.zeros(2), torch.ones(6, 2), torch.zeros(6)]
    y, mean, var = se_gate(x.double(), *[t.double() for t in layers], residual.double())
    expected = x.double() * torch.sigmoid(2 * F.relu(x.double().mean((2, 3)).sum(1)))[:, None, None, None] + residual
    torch.testing.assert_close(y, expected.relu())
    assert mean.numel() == var.numel() == 0
