"""What is special to `batch_norm_act`: torch's own layers, masks, what is kept, export, and how the GPU form cuts."""

from __future__ import annotations

import gc
import io
import weakref
from importlib.util import find_spec

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from monai_ext.ops.batch_norm_act import _backward, _forward, batch_norm_act
from monai_ext.ops.check import cases_of, check
from monai_ext.ops.forms import forced

OP = "batch_norm_act"
GPU = "cuda" if torch.cuda.is_available() else "cpu"  # where Triton runs: without a GPU in its interpreter
DEVICES = {"torch": "cpu", "c++": "cpu", "triton": GPU}
needs_triton = pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed")
FUSED = ["c++", pytest.param("triton", marks=needs_triton)]
CUT = ["2d", "2d_channels_last", "residual", "given_channels_last", "large_offset", "bfloat16"]


class Block(nn.Module):
    """Convolution, norm, optional residual, ReLU; statistics of the batch in training."""

    def __init__(self, residual: bool = False) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        nn.init.uniform_(self.norm.weight, 0.5, 1.5)
        nn.init.normal_(self.norm.bias)
        nn.init.normal_(self.norm.running_mean)
        self.residual = residual

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        norm = self.norm
        mean = None if self.training else norm.running_mean
        var = None if self.training else norm.running_var
        return batch_norm_act(self.conv(x), norm.weight, norm.bias, mean, var, x if self.residual else None)[0]


def _last(x):
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    return x.contiguous(memory_format=formats.get(x.ndim, torch.contiguous_format))


def _gradients(output, inputs):
    weights = torch.randn(output.shape, generator=torch.Generator().manual_seed(3))
    return torch.autograd.grad((output * weights.to(output)).sum(), inputs)


def _namespaces(block):
    """Of the operators of a TorchScript graph, those of inner blocks too."""
    nodes = list(block.nodes())
    inner = [_namespaces(b) for node in nodes for b in node.blocks()]
    return {node.kind().split("::")[0] for node in nodes}.union(*inner)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.ones(4)}, r"x \(4,\) must be \[B, C, \*S\]"),
        ({"weight": torch.ones(3)}, r"weight \(3,\) must be \[4\]"),
        ({"bias": torch.ones(4, 1)}, r"bias \(4, 1\) must be \[4\]"),
        ({"mean": torch.ones(4)}, "mean and var: give both, or neither"),
        ({"mean": torch.ones(4), "var": torch.ones(5)}, r"var \(5,\) must be \[4\]"),
        ({"residual": torch.ones(2, 4, 6)}, r"residual \(2, 4, 6\) must have the shape of x, \(2, 4, 5\)"),
        ({"x": torch.ones(1, 4)}, r"two values a channel or more, got x \(1, 4\)"),
        ({"x": torch.ones(0, 4, 5)}, r"two values a channel or more, got x \(0, 4, 5\)"),
    ],
)
def test_wrong_arguments_are_named(change, message):
    arguments = {"x": torch.randn(2, 4, 5), "weight": torch.ones(4), "bias": torch.zeros(4), **change}
    with pytest.raises(ValueError, match=message):
        batch_norm_act(**arguments)


@pytest.mark.parametrize("form", ["torch", *FUSED])
@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("residual", [False, True], ids=["plain", "residual"])
@pytest.mark.parametrize("shape", [(3, 6, 9, 7), (2, 18, 4, 3, 5)], ids=["2d", "3d"])
@pytest.mark.parametrize("last", [False, True], ids=["contiguous", "channels_last"])
def test_equals_torch_in_float64(form, training, residual, shape, last):
    """`F.batch_norm`, sum and ReLU in float64; float32 keeps 6e-8 of the largest value in each of a few steps."""
    random = torch.Generator().manual_seed(7)
    channels = shape[1]
    x, added = (3 + 2 * torch.randn(shape, generator=random) for _ in range(2))
    weight, bias = torch.randn(channels, generator=random), torch.randn(channels, generator=random)
    mean, var = torch.randn(channels, generator=random), 0.5 + torch.rand(channels, generator=random)
    wide = [t.double().requires_grad_() for t in (x, weight, bias, added)][: 4 if residual else 3]
    statistics = (None, None) if training else (mean.double(), var.double())
    z = F.batch_norm(wide[0], *statistics, wide[1], wide[2], training, 0.1, 1e-3)
    expected = F.relu(z + wide[3] if residual else z)
    inputs = [(_last(t) if last else t) for t in (x, weight, bias, added)][: len(wide)]
    inputs = [t.to(DEVICES[form]).requires_grad_() for t in inputs]
    given = (None, None) if training else (mean.to(DEVICES[form]), var.to(DEVICES[form]))
    with forced(form):
        y, batch_mean, batch_var = batch_norm_act(*inputs[:3], *given, *inputs[3:], eps=1e-3)
        gradients = _gradients(y, inputs)
    assert not batch_mean.requires_grad
    assert not batch_var.requires_grad
    if training:
        axes = [0, *range(2, len(shape))]
        wanted_mean, wanted_var = x.double().mean(axes), x.double().var(axes, correction=0)
        torch.testing.assert_close(batch_mean.cpu().double(), wanted_mean, rtol=2e-6, atol=2e-6)
        torch.testing.assert_close(batch_var.cpu().double(), wanted_var, rtol=2e-6, atol=2e-6)
    else:
        assert batch_mean is given[0]
        assert batch_var is given[1]
    for found, wanted in zip([y, *gradients], [expected, *_gradients(expected, wide)], strict=True):
        assert (found.cpu().double() - wanted).abs().max() <= 3e-6 * wanted.abs().max()
    if form != "torch":
        assert y.stride() == gradients[0].stride() == inputs[0].stride()


def test_statistics_update_a_layer_as_torch_does():
    layer = nn.BatchNorm2d(5, momentum=0.3)
    x = 1 + torch.randn(3, 5, 4, 6, generator=torch.Generator().manual_seed(1))
    _, mean, var = batch_norm_act(x, layer.weight, layer.bias, relu=False)
    count = x.numel() / 5
    updated = [
        0.7 * old + 0.3 * new for old, new in ((torch.zeros(5), mean), (torch.ones(5), var * count / (count - 1)))
    ]
    layer(x)
    torch.testing.assert_close(updated, [layer.running_mean, layer.running_var], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("form", FUSED)
@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("last", [False, True], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("residual", [False, True], ids=["plain", "residual"])
def test_mask_of_the_gradient_is_that_of_the_output(form, training, last, residual):
    """Bit for bit, at many values around the kink: a gradient of 1 counts what is above zero."""
    random = torch.Generator().manual_seed(2)
    x = 1e-6 * torch.randn((2, 20, 9, 13), generator=random) + 0.3 * torch.randint(
        -1, 2, (2, 20, 9, 13), generator=random
    )
    inputs = [
        _last(x) if last else x,
        0.5 + torch.rand(20, generator=random),
        torch.zeros(20),
        x.mean((0, 2, 3)),
        x.var((0, 2, 3)),
    ]
    inputs = [t.to(DEVICES[form]) for t in inputs]
    bias = inputs[2].requires_grad_()
    given = [None, None] if training else inputs[3:]
    with forced(form):
        y, _, _ = batch_norm_act(*inputs[:3], *given, torch.zeros_like(inputs[0]) if residual else None)
        gradient = torch.autograd.grad(y.sum(), bias)[0]
    positive = (y > 0).sum((0, 2, 3)).float()
    assert torch.equal(gradient, positive)
    assert 0 < positive.sum() < y.numel()


@pytest.mark.parametrize("residual", [False, True], ids=["plain", "residual"])
def test_first_and_second_derivatives_in_float64(residual):
    random = torch.Generator().manual_seed(5)
    x, added = (torch.randn((3, 2, 4), generator=random).double().requires_grad_() for _ in range(2))
    weight, bias = (torch.randn(2, generator=random).double().requires_grad_() for _ in range(2))

    def function(*inputs):
        return batch_norm_act(*inputs[:3], None, None, *inputs[3:])[0]

    inputs = (x, weight, bias, added) if residual else (x, weight, bias)
    assert torch.autograd.gradcheck(function, inputs)
    assert torch.autograd.gradgradcheck(function, inputs)


@pytest.mark.parametrize("residual", [False, True], ids=["plain", "residual"])
def test_only_x_and_the_output_are_kept(residual):
    source = torch.randn(2, 3, 8, 8, requires_grad=True)
    added = source * 3 if residual else None  # a product with a number keeps nothing itself
    x, weight, bias = source * 2, torch.ones(3, requires_grad=True), torch.ones(3, requires_grad=True)
    kept = []

    def pack(tensor):
        kept.append(tensor.data_ptr())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        y, _, _ = batch_norm_act(x, weight, bias, residual=added)
    assert x.data_ptr() in kept
    assert (y.data_ptr() in kept) == residual
    if residual:
        assert added.data_ptr() not in kept
        y, _, _ = batch_norm_act(x, weight, bias, residual=added)
        alive = weakref.ref(added)
        del added
        gc.collect()
        assert alive() is None
    y.sum().backward()
    assert source.grad.isfinite().all()


@pytest.mark.parametrize("residual", [False, True], ids=["plain", "residual"])
@pytest.mark.parametrize("way", ["script", "trace"])
@pytest.mark.filterwarnings("ignore")  # torch's own, about TorchScript's future
def test_exported_graphs_hold_only_torch_operators(residual, way):
    block = Block(residual).eval()
    x = torch.randn(2, 4, 8, 8)
    exported = torch.jit.script(block) if way == "script" else torch.jit.trace(block, x)
    assert _namespaces(exported.inlined_graph) <= {"aten", "prim"}
    stream = io.BytesIO()
    torch.jit.save(exported, stream)
    stream.seek(0)
    loaded = torch.jit.load(stream)
    for values in (x, torch.randn(1, 4, 5, 7)):
        torch.testing.assert_close(loaded(values), block(values), rtol=1e-5, atol=1e-5)
    if way == "script":
        loaded.train(), block.train()
        torch.testing.assert_close(loaded(x), block(x), rtol=1e-5, atol=1e-5)


def test_autocast_on_processors():
    block = Block(residual=True)
    half = torch.randn(2, 4, 8, 8).to(torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        y = block(half)
        with forced("torch"):
            expected = block(half)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y, expected, rtol=2e-2, atol=2e-2)
    parameters = [block.conv.weight, block.norm.weight, block.norm.bias]
    for a, b in zip(_gradients(y.float(), parameters), _gradients(expected.float(), parameters), strict=True):
        assert a.dtype == torch.float32
        assert (a - b).abs().max() <= 0.03 * b.abs().max()


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("residual", [False, True], ids=["plain", "residual"])
def test_fused_form_is_part_of_a_compiled_graph(training, residual):
    """No graph break, and the same output and gradient as outside of the graph."""
    random = torch.Generator().manual_seed(0)
    x = _last(torch.randn((2, 4, 6, 5), generator=random)).requires_grad_()
    given = [None, None] if training else [torch.zeros(4), torch.ones(4)]
    rest = (torch.full((4,), 1.5), torch.full((4,), 0.25), *given, x.detach() + 1 if residual else None)
    compiled = torch.compile(batch_norm_act, backend="aot_eager", fullgraph=True)
    found, expected = compiled(x, *rest), batch_norm_act(x, *rest)
    torch.testing.assert_close(found, expected)
    assert found[0].stride() == x.stride()
    a, b = (torch.autograd.grad(outputs[0].square().sum(), x)[0] for outputs in (found, expected))
    torch.testing.assert_close(a, b)


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("residual", [False, True], ids=["plain", "residual"])
def test_torch_accepts_both_operators(training, residual):
    x = _last(torch.randn(2, 4, 5, 3)).requires_grad_()
    weight, bias = torch.rand(4, requires_grad=True), torch.rand(4, requires_grad=True)
    given = (None, None) if training else (torch.zeros(4), torch.ones(4))
    added = x.detach() + 1 if residual else None
    torch.library.opcheck(_forward, (x, weight, bias, *given, added, 1e-5, True))
    with torch.no_grad():
        y, mean, var = _forward(x, weight, bias, *given, added, 1e-5, True)
        statistics = (mean, var) if training else given
        kept = (x.detach(), y if residual else None, weight.detach(), bias.detach(), *statistics)
        torch.library.opcheck(_backward, (torch.ones_like(y), *kept, 1e-5, True, training))


@pytest.mark.parametrize("last", [False, True], ids=["contiguous", "channels_last"])
def test_threads_do_not_change_a_bit(last):
    random = torch.Generator().manual_seed(4)
    x = torch.randn((3, 64, 30, 33), generator=random)
    inputs = [_last(x) if last else x, torch.rand(64, generator=random), torch.rand(64, generator=random)]
    inputs = [t.requires_grad_() for t in inputs]
    before, runs = torch.get_num_threads(), []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            with forced("c++"):
                y, mean, var = batch_norm_act(*inputs)
                runs.append([y, mean, var, *_gradients(y, inputs)])
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


@needs_triton
@pytest.mark.parametrize("case", [c for c in cases_of(OP) if c.name in CUT], ids=lambda case: case.name)
def test_channels_cut_into_chunks_and_tiles(case, monkeypatch):
    """What large tensors take, at sizes that the interpreter can: several tiles a chunk, several merges a channel."""
    from monai_ext.ops import tiles
    from monai_ext.ops.batch_norm_act import cuda

    monkeypatch.setattr(tiles, "TILE_VALUES", 512)
    monkeypatch.setattr(tiles, "PROGRAMS", 6)
    monkeypatch.setattr(cuda, "MERGED", 2)
    monkeypatch.setattr(cuda, "MERGED_CHANNELS", 2)
    check(OP, case, "triton", GPU)


@needs_triton
@pytest.mark.parametrize("last", [False, True], ids=["contiguous", "channels_last"])
def test_equal_inputs_give_equal_bits(last, monkeypatch):
    from monai_ext.ops import tiles

    monkeypatch.setattr(tiles, "TILE_VALUES", 128)
    monkeypatch.setattr(tiles, "PROGRAMS", 6)
    x = torch.randn(2, 2, 17, 23, device=GPU)
    inputs = [t.requires_grad_() for t in (_last(x) if last else x, x.new_ones(2), x.new_zeros(2))]
    runs = []
    for _ in range(2):
        with forced("triton"):
            y, mean, var = batch_norm_act(*inputs)
            runs.append([y, mean, var, *_gradients(y, inputs)])
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


@needs_triton
@pytest.mark.parametrize("last", [False, True], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("shape", [(32, 64, 112, 112), (1, 64, 112, 112), (2, 64, 64, 64, 64), (32, 1024, 14, 14)])
def test_all_sizes_fill_the_device(last, shape):
    """Meta tensors: only the plan is made."""
    from monai_ext.ops import tiles
    from monai_ext.ops.batch_norm_act import cuda

    x = torch.empty(shape, device="meta")
    plan = cuda._plan(_last(x) if last else x)
    batch, _, positions, splits, chunk = plan.sizes
    assert batch * positions == x.numel() // shape[1]
    assert plan.parts == batch * splits
    assert splits * chunk >= positions > (splits - 1) * chunk
    # fewer programs than processors only where every one of them has a single tile
    assert plan.programs >= 132 or x.numel() <= plan.programs * tiles.TILE_VALUES
    assert plan.tile["BLOCK_C"] * plan.tile["BLOCK_S"] <= tiles.TILE_VALUES
