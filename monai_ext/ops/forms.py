"""Which form of an op runs on a device, and why."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
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
    "batch_norm_act",
    "se_gate",
    "nms",
    "roi_align",
    "match_anchors",
    "decode_proposals",
    "mask_targets",
    "paste_masks",
)
FORMS = ("auto", "torch", "c++", "triton")
_MODULES = {"torch": "reference", "c++": "cpu", "triton": "cuda"}
_FORM_OF = {"cpu": "c++", "cuda": "triton"}
_forced = "auto"
_plain: frozenset[str] = frozenset()


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


def choose_for(fused: Mapping[str, bool]) -> None:
    """Where `auto` is chosen, let single ops run as plain torch (False) or in their best form, until the next call.

    Raises:
        InputError: unknown op.
    """
    global _plain
    unknown = sorted(set(fused) - set(OPS))
    if unknown:
        raise InputError(f"fused ops: unknown names {unknown}. Cure: some of {', '.join(OPS)}")
    _plain = frozenset(op for op, is_fused in fused.items() if not is_fused)


def chosen() -> str:
    """The form that was chosen last; `auto` at the start."""
    return _forced


def implementation(op: str, device: torch.device) -> ModuleType:
    """Module that computes `op` for tensors on `device`: its `cpu`, `cuda` or `reference`.

    Where a faster form exists but cannot be had (no compiler, no Triton), or fails its check on this machine at first
    use, the reference serves and a warning is logged once.
    """
    if _forced == "auto" and op in _plain:
        return import_module(f"monai_ext.ops.{op}.reference")
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
    """What runs for every op on processors and on CUDA devices."""
    rows = []
    for op in OPS:
        for device, form in _FORM_OF.items():
            if device == "cuda" and not torch.cuda.is_available():
                module, why = _load(op, form)
                why = f"no CUDA device here; {why}"
            else:
                module, why = _checked(op, device)
            rows.append(Form(op, device, form if module is not None else "torch", why))
    return rows


@cache
def _automatic(op: str, device: str) -> ModuleType:
    module, why = _checked(op, device)
    if module is not None:
        return module
    if device in _FORM_OF and _exists(op, _FORM_OF[device]):
        logging.getLogger(__name__).warning("%s runs as plain torch on %s: %s", op, device, why)
    return import_module(f"monai_ext.ops.{op}.reference")


@cache
def _checked(op: str, device: str) -> tuple[ModuleType | None, str]:
    """The faster form for a kind of device, None if there is none that may be used; and why."""
    if device not in _FORM_OF:
        return None, f"no own form for {device}"
    form = _FORM_OF[device]
    module, why = _load(op, form)
    problem = _disagreement(op, form, device) if module is not None else ""
    return (None, problem) if problem else (module, why)


def _disagreement(op: str, form: str, device: str) -> str:
    """Why a form must not be used here: what it computes for the op's probes is not what the reference computes.

    Compilers and drivers differ from machine to machine; a wrong kernel must not cost anybody a training. The probes
    take milliseconds in C++, and in Triton the seconds of the first compilation.
    """
    from monai_ext.ops.check import cases_of, check

    probes = [case for case in cases_of(op) if case.probe]
    try:
        # the first use may be inside of anything
        with torch.inference_mode(False), torch.enable_grad(), torch.autocast(device, enabled=False):
            for case in probes:
                check(op, case, form, device)
    except Exception as error:
        return f"its {form} form failed its check on this machine ({type(error).__name__}: {str(error)[:500]})"
    return ""


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


def is_fused(op: str, device: str) -> bool:
    """Whether tensors on a kind of device get another form than plain torch; a constant of a compiled graph."""
    return not implementation(op, torch.device(device)).__name__.endswith(".reference")


# what `torch.compiler.assume_constant_result` does, which itself loads the compiler: a second at every start
is_fused._dynamo_marked_constant = True  # type: ignore[attr-defined]
