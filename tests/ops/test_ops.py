"""Every op, every case, every form: values and gradients against the reference in float64, and torch's own checks."""

from __future__ import annotations

import shutil
from importlib.util import find_spec

import pytest
import torch

from monai_ext.ops.check import arguments_of, cases_of, check, results_of
from monai_ext.ops.forms import OPS, forced

WRITTEN = OPS
CASES = [pytest.param(op, case, id=f"{op}-{case.name}") for op in WRITTEN for case in cases_of(op)]
SMALL = [param for param in CASES if not param.values[1].recipe]
on_gpu = torch.cuda.is_available()


_compiled_kinds = set()


def _kind(value):
    """What a graph depends on: types, layouts, sizes of none and one, options; not values and other sizes."""
    if isinstance(value, torch.Tensor):
        last = {4: torch.channels_last, 5: torch.channels_last_3d}.get(value.ndim, torch.contiguous_format)
        laid_out = value.is_contiguous(), value.is_contiguous(memory_format=last)
        sizes = [min(size, 2) for size in value.shape]
        return str((value.dtype, sizes, laid_out, value.requires_grad))
    if isinstance(value, (list, tuple)):
        return str([_kind(item) for item in value])
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return str((type(value).__name__, bool(value)))
    return repr(value)


def _has(op, form):
    return find_spec(f"monai_ext.ops.{op}.{form}") is not None


@pytest.mark.parametrize(("op", "case"), CASES)
def test_reference_in_float32(op, case):
    check(op, case, "torch")


@pytest.mark.parametrize(("op", "case"), CASES)
@pytest.mark.skipif(not any(map(shutil.which, ("g++", "clang++", "c++"))), reason="no C++ compiler")
def test_cpp(op, case):
    if not _has(op, "cpu"):
        pytest.skip("the op has no C++ form")
    check(op, case, "c++")


@pytest.mark.parametrize(("op", "case"), SMALL)  # the interpreter takes minutes for a recipe's size
@pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed")
@pytest.mark.skipif(on_gpu, reason="kernels run on the GPU instead")
def test_triton_interpreted(op, case):
    if not _has(op, "cuda"):
        pytest.skip("the op has no Triton form")
    check(op, case, "triton")


@pytest.mark.gpu
@pytest.mark.parametrize(("op", "case"), CASES)
@pytest.mark.skipif(not on_gpu, reason="no CUDA device")
def test_triton(op, case):
    if not _has(op, "cuda"):
        pytest.skip("the op has no Triton form")
    check(op, case, "triton", "cuda")


@pytest.mark.parametrize(("op", "case"), SMALL)
def test_compiled_call_has_the_same_results(op, case):
    """The fake kernels tell shapes, types and strides as they will be; the graph has no breaks."""
    import importlib

    function = getattr(importlib.import_module(f"monai_ext.ops.{op}"), case.function)
    if getattr(function, "not_compiled", False):
        pytest.skip("runs in loader workers or inferers, outside of graphs")
    arguments = arguments_of(case)
    kind = (op, case.function, _kind(arguments))
    if kind in _compiled_kinds:
        pytest.skip("another case has compiled the same graph")
    _compiled_kinds.add(kind)
    with forced("torch"):
        expected = results_of(op, case, arguments_of(case))
        torch._dynamo.reset()
        compiled = torch.compile(function, backend="aot_eager", fullgraph=True)(*arguments)
    first = compiled if isinstance(compiled, torch.Tensor) else compiled[0]
    torch.testing.assert_close(first.detach(), expected[0], equal_nan=True)
    assert first.stride() == expected[0].stride()


def test_one_command_lists_all_ops(capsys):
    from monai_ext.__main__ import Commands

    Commands().ops()
    printed = capsys.readouterr().out
    assert all(op in printed for op in WRITTEN)
    assert "cpu" in printed
    assert "cuda" in printed
