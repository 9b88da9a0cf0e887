"""Compares a form of an op with its reference in float64; what tests assert and benchmarks insist on."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import torch

from monai_ext.ops.case import Case
from monai_ext.ops.forms import forced

SEED = 20210501


def cases_of(op: str) -> list[Case]:
    """All cases of an op."""
    return list(import_module(f"monai_ext.ops.{op}.cases").CASES)


def arguments_of(case: Case, device: torch.device | str = "cpu") -> tuple[Any, ...]:
    """Fresh arguments on `device`, always the same values."""
    return tuple(_moved(value, device) for value in case.make(torch.Generator().manual_seed(SEED)))


def in_float64(arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    """The same values, floating tensors as float64 on the CPU, contiguous, still differentiable where they were."""
    return tuple(_as_float64(value) for value in arguments)


def results_of(op: str, case: Case, arguments: tuple[Any, ...]) -> list[torch.Tensor]:
    """Outputs of a call, then the gradients of a random weighting of them with respect to each differentiable input."""
    outputs = getattr(import_module(f"monai_ext.ops.{op}"), case.function)(*arguments)
    outputs = [outputs] if isinstance(outputs, torch.Tensor) else list(outputs)
    inputs = [v for v in _tensors(arguments) if v.requires_grad]
    if inputs:
        weighting = torch.Generator().manual_seed(SEED + 1)
        total = outputs[0].new_zeros((), dtype=torch.float64, device="cpu")
        for output in outputs:
            if output.requires_grad:
                weights = torch.randn(output.shape, generator=weighting, dtype=torch.float64)
                total = total + (output.to("cpu", torch.float64) * weights).sum()
        outputs += torch.autograd.grad(total, inputs, allow_unused=True, materialize_grads=True)
    return [output.detach() for output in outputs]


def differences(op: str, case: Case, form: str, device: torch.device | str = "cpu") -> list[float]:
    """Largest difference from the float64 reference, relative to its largest magnitude, per output and gradient.

    Where the reference is not finite, the same value must stand there; else the difference is infinite.
    """
    with forced("torch"):
        expected = results_of(op, case, in_float64(arguments_of(case)))
    with forced(form):
        found = results_of(op, case, arguments_of(case, device))
    if [tuple(t.shape) for t in found] != [tuple(t.shape) for t in expected]:
        raise AssertionError(f"shapes {[tuple(t.shape) for t in found]}, not {[tuple(t.shape) for t in expected]}")
    return [_difference(a.to("cpu"), b) for a, b in zip(found, expected, strict=True)]


def check(op: str, case: Case, form: str, device: torch.device | str = "cpu") -> None:
    """Raise `AssertionError` if a form differs from the reference by more than the case allows."""
    found = differences(op, case, form, device)
    if not all(difference <= case.tolerance for difference in found):
        raise AssertionError(f"{op}, {case.name}, {form} on {device}: differs by {found}, allowed {case.tolerance}")


def _difference(found: torch.Tensor, expected: torch.Tensor) -> float:
    if found.numel() == 0:
        return 0.0
    found, expected = found.double(), expected.double()
    finite = expected.isfinite()
    same = torch.equal(finite, found.isfinite()) and torch.equal(
        found[~finite].nan_to_num(nan=7.0), expected[~finite].nan_to_num(nan=7.0)
    )
    if not same:
        return float("inf")
    if not finite.any():
        return 0.0
    scale = expected[finite].abs().max().clamp_min(torch.finfo(torch.float32).tiny)
    return float((found[finite] - expected[finite]).abs().max() / scale)


def _tensors(value: Any) -> list[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, (list, tuple)):
        return [tensor for item in value for tensor in _tensors(item)]
    return []


def _moved(value: Any, device: torch.device | str) -> Any:
    if isinstance(value, torch.Tensor):
        return value.detach().to(device).requires_grad_(value.requires_grad)
    if isinstance(value, (list, tuple)):
        return type(value)(_moved(item, device) for item in value)
    return value


def _as_float64(value: Any) -> Any:
    if isinstance(value, torch.Tensor) and value.is_floating_point():
        return value.detach().to("cpu", torch.float64).contiguous().requires_grad_(value.requires_grad)
    if isinstance(value, (list, tuple)):
        return type(value)(_as_float64(item) for item in value)
    return value
