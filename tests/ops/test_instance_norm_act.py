"""What is special to `instance_norm_act`: torch's own layers, export, autocast, memory, and how the GPU form cuts."""

from __future__ import annotations

import gc
import io
import weakref
from importlib.util import find_spec

import pytest
import torch
from torch import nn

from monai_ext.ops.check import cases_of, check
from monai_ext.ops.forms import forced
from monai_ext.ops.instance_norm_act import _backward, _forward, instance_norm_act

OP = "instance_norm_act"
GPU = "cuda" if torch.cuda.is_available() else "cpu"  # where Triton runs: without a GPU in its interpreter
DEVICES = {"torch": "cpu", "c++": "cpu", "triton": GPU}
SMALL = [case for case in cases_of(OP) if not case.recipe and not case.name.startswith("many")]
needs_triton = pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed")


class Block(nn.Module):
    """Convolution, norm, activation; with or without a residual."""

    def __init__(self, groups: int = 0, keep_output: bool = False, residual: bool = False) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1)
        self.weight = nn.Parameter(torch.linspace(0.5, 1.5, 4))
        self.bias = nn.Parameter(torch.linspace(-1, 1, 4))
        self.groups, self.keep_output, self.residual = groups, keep_output, residual

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        added = x if self.residual else None
        return instance_norm_act(
            self.conv(x), self.weight, self.bias, added, self.groups, 1e-5, 0.1, keep_output=self.keep_output
        )


def _gradients(output, inputs):
    weights = torch.randn(output.shape, generator=torch.Generator().manual_seed(3))
    return torch.autograd.grad((output * weights.to(output.device)).sum(), inputs)


def _namespaces(block):
    """Of the operators of a TorchScript graph, those of inner blocks too."""
    nodes = list(block.nodes())
    inner = [_namespaces(b) for node in nodes for b in node.blocks()]
    return {node.kind().split("::")[0] for node in nodes}.union(*inner)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weight": torch.ones(3)}, r"weight \(3,\) and bias \(4,\) must be \[4\]"),
        ({"bias": torch.ones(4, 1)}, r"bias \(4, 1\) must be \[4\]"),
        ({"residual": torch.ones(2, 4, 6)}, r"residual \(2, 4, 6\) must have the shape of x, \(2, 4, 5\)"),
        ({"groups": 3}, "3 groups do not divide 4 channels"),
        ({"keep_output": True, "negative_slope": 0.0}, "needs a slope above 0, got 0.0"),
    ],
)
def test_wrong_arguments_are_named(change, message):
    arguments = {"x": torch.randn(2, 4, 5), "weight": torch.ones(4), "bias": torch.zeros(4), **change}
    with pytest.raises(ValueError, match=message):
        instance_norm_act(**arguments)


@pytest.mark.parametrize("form", ["torch", "c++", pytest.param("triton", marks=needs_triton)])
@pytest.mark.parametrize("norm", [nn.InstanceNorm2d, nn.InstanceNorm3d, nn.GroupNorm])
@pytest.mark.parametrize("last", [False, True], ids=["contiguous", "channels_last"])
def test_equals_torch_layers(form, norm, last):
    shape = (2, 6, 9, 7) if norm is nn.InstanceNorm2d else (2, 6, 5, 4, 3)
    layer = (norm(3, 6) if norm is nn.GroupNorm else norm(6, affine=True)).to(DEVICES[form])
    nn.init.uniform_(layer.weight, 0.5, 2)
    nn.init.normal_(layer.bias)
    x = 3 + 2 * torch.randn(shape, device=DEVICES[form])
    if last:
        x = x.contiguous(memory_format=torch.channels_last if x.ndim == 4 else torch.channels_last_3d)
    inputs = [x.requires_grad_(), layer.weight, layer.bias]
    expected = nn.functional.leaky_relu(layer(x), 0.2)
    with forced(form):
        found = instance_norm_act(*inputs, groups=3 if norm is nn.GroupNorm else 0, negative_slope=0.2)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(_gradients(found, inputs), _gradients(expected, inputs), rtol=1e-4, atol=1e-4)
    if form != "torch":  # torch.instance_norm gives contiguous tensors
        assert found.stride() == x.stride()


@pytest.mark.parametrize("groups", [0, 2])
@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("way", ["script", "trace"])
@pytest.mark.filterwarnings("ignore")  # torch's own, about TorchScript's future
def test_exported_graphs_hold_only_torch_operators(groups, residual, way):
    block = Block(groups, keep_output=True, residual=residual).eval()
    x = torch.randn(2, 4, 8, 8)
    exported = torch.jit.script(block) if way == "script" else torch.jit.trace(block, x)
    assert _namespaces(exported.inlined_graph) <= {"aten", "prim"}
    stream = io.BytesIO()
    torch.jit.save(exported, stream)
    stream.seek(0)
    loaded = torch.jit.load(stream)
    torch.testing.assert_close(loaded(x), block(x), rtol=1e-5, atol=1e-5)
    other = torch.randn(1, 4, 5, 7)
    torch.testing.assert_close(loaded(other), block(other), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("keep_output", [False, True])
def test_autocast_on_processors(keep_output):
    block = Block(keep_output=keep_output, residual=True)
    x = torch.randn(2, 4, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        half = x.to(torch.bfloat16)
        y = block(half)
        with forced("torch"):
            expected = block(half)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y, expected, rtol=2e-2, atol=2e-2)
    parameters = list(block.parameters())
    found, wanted = _gradients(y.float(), parameters), _gradients(expected.float(), parameters)
    for name, a, b in zip(dict(block.named_parameters()), found, wanted, strict=True):
        assert a.dtype == torch.float32
        # the norm takes the bias of the convolution away, so that its gradient is rounding alone
        if name != "conv.bias":
            assert (a - b).abs().max() <= 0.03 * b.abs().max(), name


@pytest.mark.parametrize("form", ["c++", pytest.param("triton", marks=needs_triton)])
@pytest.mark.parametrize("last", [False, True], ids=["contiguous", "channels_last"])
def test_gradient_by_output_equals_gradient_by_input(form, last):
    random = torch.Generator().manual_seed(5)
    x, added = torch.randn((2, 4, 6, 7), generator=random), torch.randn((2, 4, 6, 7), generator=random)
    if last:
        x, added = (t.contiguous(memory_format=torch.channels_last) for t in (x, added))
    weight, bias = torch.tensor([1.0, -0.7, 0.3, 2.0]), torch.tensor([0.1, -1.0, 2.0, 0.0])
    inputs = [t.to(DEVICES[form]).requires_grad_() for t in (x, weight, bias, added)]
    with forced(form):
        by_input = _gradients(instance_norm_act(*inputs, 2, 1e-5, 0.05), inputs)
        by_output = _gradients(instance_norm_act(*inputs, 2, 1e-5, 0.05, keep_output=True), inputs)
    for a, b in zip(by_output, by_input, strict=True):
        assert (a - b).abs().max() <= 2e-5 * b.abs().max()


def test_gradient_is_the_slope_of_the_output():
    """Central differences along a random direction, in the float64 that the reference keeps."""
    random = torch.Generator().manual_seed(11)
    inputs = [torch.randn(shape, generator=random).double() for shape in ((2, 4, 5, 3), (4,), (4,), (2, 4, 5, 3))]
    directions = [torch.randn(t.shape, generator=random).double() for t in inputs]
    weights = torch.randn((2, 4, 5, 3), generator=random)

    def total(step):
        moved = [t + step * d for t, d in zip(inputs, directions, strict=True)]
        return float((instance_norm_act(*moved, 2, 1e-3, 0.1) * weights).sum())

    slope = (total(1e-6) - total(-1e-6)) / 2e-6
    single = [t.float().requires_grad_() for t in inputs]
    for keep_output in (False, True):
        output = instance_norm_act(*single, 2, 1e-3, 0.1, keep_output)
        gradients = torch.autograd.grad((output * weights).sum(), single)
        found = sum(float((g * d).sum()) for g, d in zip(gradients, directions, strict=True))
        assert found == pytest.approx(slope, rel=1e-3)


@pytest.mark.parametrize("form", ["c++", pytest.param("triton", marks=needs_triton)])
def test_weight_of_zero_has_a_finite_gradient_by_output(form):
    x, weight, bias = torch.randn(2, 3, 5, 5), torch.tensor([1.0, 0.0, 2.0]), torch.tensor([0.5, 1.0, -1.0])
    x, weight, bias = (t.to(DEVICES[form]).requires_grad_() for t in (x, weight, bias))
    with forced(form):
        by_output = _gradients(instance_norm_act(x, weight, bias, negative_slope=0.1, keep_output=True), [x, bias])
        by_input = _gradients(instance_norm_act(x, weight, bias, negative_slope=0.1), [x, bias])
    torch.testing.assert_close(by_output, by_input, rtol=1e-4, atol=1e-4)
    assert by_output[0][:, 1].eq(0).all()


@pytest.mark.parametrize("keep_output", [False, True])
def test_keep_output_frees_the_input(keep_output):
    source = torch.randn(2, 3, 8, 8, requires_grad=True)
    weight, bias = torch.ones(3, requires_grad=True), torch.zeros(3, requires_grad=True)
    x = source * 2  # a product with a number keeps nothing itself
    kept = []

    def pack(tensor):
        kept.append(tensor.data_ptr())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        y = instance_norm_act(x, weight, bias, keep_output=keep_output)
    assert (x.data_ptr() in kept, y.data_ptr() in kept) == (not keep_output, keep_output)
    y = instance_norm_act(x, weight, bias, keep_output=keep_output)
    alive = weakref.ref(x)
    del x
    gc.collect()
    assert (alive() is None) == keep_output
    y.sum().backward()
    assert source.grad is not None


@pytest.mark.parametrize("keep_output", [False, True])
def test_torch_accepts_both_operators(keep_output):
    x = torch.randn(2, 4, 5, 3).contiguous(memory_format=torch.channels_last).requires_grad_()
    weight, bias = torch.rand(4, requires_grad=True), torch.rand(4, requires_grad=True)
    torch.library.opcheck(_forward, (x, weight, bias, x.detach() + 1, 2, 1e-5, 0.1, keep_output))
    with torch.no_grad():
        y, mean, rstd = _forward(x, weight, bias, None, 2, 1e-5, 0.1, keep_output)
        kept = y if keep_output else x.detach()
        torch.library.opcheck(
            _backward, (torch.ones_like(y), kept, weight.detach(), bias.detach(), None, mean, rstd, 0.1, keep_output)
        )


@needs_triton
@pytest.mark.parametrize("case", SMALL, ids=lambda case: case.name)
def test_groups_cut_into_chunks_and_tiles(case, monkeypatch):
    """What large tensors take, at sizes that the interpreter can: several tiles a chunk, several merges a group."""
    from monai_ext.ops import tiles
    from monai_ext.ops.instance_norm_act import cuda

    monkeypatch.setattr(cuda, "FUSED_VALUES", 0)
    monkeypatch.setattr(tiles, "TILE_VALUES", 1024)
    monkeypatch.setattr(tiles, "PROGRAMS", 6)
    monkeypatch.setattr(cuda, "MERGED", 4)
    check(OP, case, "triton", GPU)


@needs_triton
@pytest.mark.parametrize("last", [False, True], ids=["contiguous", "channels_last"])
def test_equal_inputs_give_equal_bits(last, monkeypatch):
    from monai_ext.ops import tiles
    from monai_ext.ops.instance_norm_act import cuda

    monkeypatch.setattr(cuda, "FUSED_VALUES", 0)
    monkeypatch.setattr(tiles, "TILE_VALUES", 512)
    monkeypatch.setattr(tiles, "PROGRAMS", 8)
    x = torch.randn(2, 2, 40, 52, device=GPU)
    x = x.contiguous(memory_format=torch.channels_last) if last else x
    inputs = [t.requires_grad_() for t in (x, x.new_ones(2), x.new_zeros(2))]
    runs = []
    for _ in range(2):
        with forced("triton"):
            y = instance_norm_act(*inputs)
            runs.append([y, *torch.autograd.grad(y.square().sum(), inputs)])
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


@needs_triton
@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("last", [False, True], ids=["contiguous", "channels_last"])
def test_few_channels_fill_the_device(batch, last):
    """Meta tensors: only the plan is made."""
    from monai_ext.ops.instance_norm_act import cuda

    x = torch.empty((batch, 32, 128, 128, 128), device="meta")
    plan = cuda._plan(x.contiguous(memory_format=torch.channels_last_3d) if last else x, 32)
    assert not plan.fused
    assert 4 * 132 <= plan.programs <= 16 * 132
    assert plan.splits * plan.chunks[1] >= 128**3
    small = cuda._plan(torch.empty((batch, 320, 5, 7, 5), device="meta"), 320)
    assert small.fused
    assert small.tile["BLOCK_C"] * small.tile["BLOCK_S"] <= cuda.FUSED_VALUES


def test_fused_form_is_part_of_a_compiled_graph() -> None:
    """No graph break, and the same output and gradient as outside of the graph."""
    x = torch.randn(2, 4, 6, 5, generator=torch.Generator().manual_seed(0)).requires_grad_()
    weight, bias = torch.full((4,), 1.5), torch.full((4,), 0.25)
    compiled = torch.compile(instance_norm_act, backend="aot_eager", fullgraph=True)
    found = compiled(x, weight, bias)
    expected = instance_norm_act(x, weight, bias)
    torch.testing.assert_close(found, expected)
    a, b = (torch.autograd.grad(y.square().sum(), x)[0] for y in (found, expected))
    torch.testing.assert_close(a, b)
