"""Which form of an op runs on a device, and why."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import torch

from monai_ext.errors import InputError
from monai_ext.ops import cpu_build

OPS = (
    "instance_norm_act",
    "dice_cross_entropy",
    "gaussian_blend",
    "patch_affine",
    "intensity_chain",
    "spline_resample",
)
FORMS = ("auto", "torch", "c++", "triton")
_MODULES = {"torch": "reference", "c++": "cpu", "triton": "cuda"}
_forced = "auto"


@dataclass(frozen=True)
class Form:
    """What runs for one op on one kind of device.

    Attributes:
        op: name.
        device: `cpu` or `cuda`.
        form: `torch`, `c++` or `triton`.
        why: reason of the choice in words.
    """

    op: str
    device: str
    form: str
    why: str


@contextmanager
def forced(form: str) -> Iterator[None]:
    """Use one form wherever it exists, in all threads: `torch`, `c++`, `triton`; `auto` chooses by device.

    A form that an op lacks, or that cannot be had here, raises instead of falling back.

    Raises:
        InputError: unknown form.
    """
    global _forced
    before = _forced
    choose(form)
    try:
        yield
    finally:
        _forced = before


def choose(form: str) -> None:
    """As `forced`, until the next call.

    Raises:
        InputError: unknown form.
    """
    global _forced
    if form not in FORMS:
        raise InputError(f"form of the fused ops: unknown value {form!r}. Cure: one of {', '.join(FORMS)}")
    _forced = form


def chosen() -> str:
    """The form that was chosen last; `auto` at the start."""
    return _forced


def implementation(op: str, device: torch.device) -> ModuleType:
    """Module that computes `op` for tensors on `device`: its `cpu`, `cuda` or `reference`.

    Where a faster form exists but cannot be had (no compiler, no Triton) the reference serves and a warning is logged
    once.
    """
    if _forced == "auto":
        return _automatic(op, device.type)
    module, why = _load(op, _forced)
    if module is None:
        raise RuntimeError(f"{op}: no form {_forced!r}: {why}")
    return module


def on_device_of(tensor: torch.Tensor) -> AbstractContextManager[Any]:
    """Triton launches on the current device: make it that of `tensor` for a while."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else nullcontext()


def describe_forms() -> list[Form]:
    """What would run for every op on processors and on CUDA devices, without building anything twice."""
    rows = []
    for op in OPS:
        for device, form in (("cpu", "c++"), ("cuda", "triton")):
            module, why = _load(op, form)
            if device == "cuda" and not torch.cuda.is_available():
                why = f"no CUDA device here; {why}"
            rows.append(Form(op, device, form if module is not None else "torch", why))
    return rows


@cache
def _automatic(op: str, device: str) -> ModuleType:
    form = {"cpu": "c++", "cuda": "triton"}.get(device)
    module, why = _load(op, form) if form else (None, f"no own form for {device}")
    if module is None:
        if form and _exists(op, form):
            logging.getLogger(__name__).warning("%s runs as plain torch on %s: %s", op, device, why)
        module = import_module(f"monai_ext.ops.{op}.reference")
    return module


@cache
def _load(op: str, form: str) -> tuple[ModuleType | None, str]:
    """The module of a form, None if it cannot be had; and why."""
    if form == "torch":
        return import_module(f"monai_ext.ops.{op}.reference"), "plain torch"
    if not _exists(op, form):
        return None, getattr(import_module(f"monai_ext.ops.{op}"), "WHY_NO_" + _MODULES[form].upper(), "not written")
    if form == "triton":
        if find_spec("triton") is None:
            return None, "Triton is not installed"
        return import_module(f"monai_ext.ops.{op}.cuda"), "Triton is installed"
    try:
        library = cpu_build.library(op)
    except cpu_build.BuildError as error:
        return None, str(error)
    return import_module(f"monai_ext.ops.{op}.cpu"), f"built as {library}"


def _exists(op: str, form: str) -> bool:
    return find_spec(f"monai_ext.ops.{op}.{_MODULES[form]}") is not None


@torch.compiler.assume_constant_result
def is_fused(op: str, device: str) -> bool:
    """Whether tensors on a kind of device get another form than plain torch; a constant of a compiled graph."""
    return not implementation(op, torch.device(device)).__name__.endswith(".reference")
