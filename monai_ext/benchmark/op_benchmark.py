"""Times the fused ops against plain torch and torch.compile, at the sizes that the recipes use."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from monai_ext.benchmark.interleaved import Interleaved, Task, time_interleaved
from monai_ext.benchmark.measurement_rows import (
    append_rows,
    circumstances,
    format_table,
    installed_versions,
    measured_device,
    milliseconds,
)
from monai_ext.errors import InputError
from monai_ext.ops.case import Case
from monai_ext.ops.check import arguments_of, cases_of, check
from monai_ext.ops.forms import OPS, describe_forms, forced, is_fused

logger = logging.getLogger(__name__)
EAGER, COMPILED, COPY = "torch", "torch.compile", "copy"
COPY_BYTES = 2**28  # beyond every cache
COLUMNS = (
    "op",
    "case",
    "recipe",
    "device",
    "form",
    "pass",
    "min_ms",
    "median_ms",
    "max_ms",
    "n",
    "ratio_to_eager",
    "ratio_to_compiled",
    "gb_per_s",
    "share_of_copy_rate",
    "threads",
    "torch",
    "commit",
    "date",
)
SHOWN = COLUMNS[:2] + COLUMNS[4:14]


@dataclass(frozen=True)
class OpReport:
    """What became of one op.

    Attributes:
        op: name.
        rows: measured, with `COLUMNS`.
        remarks: why the op, or a form of it, has no times.
    """

    op: str
    rows: list[dict[str, Any]]
    remarks: list[str]


def run_op_benchmark(op: str = "", device: str = "cpu", rounds: int = 7, results: str = "") -> list[OpReport]:
    """Measure one op or all of them, print each as soon as it is done, and append its rows.

    Args:
        op: name; empty takes all.
        device: `cpu` or a CUDA device.
        rounds: timings per form.
        results: CSV file; empty for none.

    Raises:
        InputError: the op or the device is unknown, `rounds` is below 1, or the file has other columns.
    """
    written = [name for name in OPS if find_spec(f"monai_ext.ops.{name}")]
    if op and op not in written:
        raise InputError(f"benchmark ops: unknown --op {op!r}. Cure: one of {', '.join(written)}")
    if not isinstance(rounds, int) or rounds < 1:
        raise InputError(f"benchmark ops: --rounds {rounds} is no whole number from 1 on. Cure: 7")
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"benchmark ops: --device {device}: {reason}. Cure: cpu, or cuda:0 on a GPU") from error
    reports = []
    for name in [op] if op else written:
        report = measure_op(name, device, rounds)
        print(format_report(report), flush=True)
        if results and report.rows:
            append_rows(Path(results), report.rows, COLUMNS)
        reports.append(report)
    return reports


def measure_op(op: str, device: str = "cpu", rounds: int = 7, cases: Sequence[Case] | None = None) -> OpReport:
    """Check every case of an op, then time those that a recipe uses; an op that fails a check gets no times.

    Args:
        op: name.
        device: where to compute.
        rounds: timings per form.
        cases: instead of the op's own.
    """
    cases = cases_of(op) if cases is None else list(cases)
    kind = torch.device(device).type
    form = {"cpu": "c++", "cuda": "triton"}.get(kind, "")
    if not form or not is_fused(op, kind):
        why = [row.why for row in describe_forms() if (row.op, row.device) == (op, kind)]
        return OpReport(op, [], [f"{op}: no fused form on {kind}: {' '.join(why)}"])
    for case in cases:
        try:
            check(op, case, form, device)
        except Exception as error:  # whatever a kernel does wrong, it gets no times
            return OpReport(op, [], [f"{op}: RED, no times. {case.name}: {str(error).strip()[:300]}"])
    rows: list[dict[str, Any]] = []
    remarks: list[str] = []
    for case in cases:
        if case.recipe:
            for kind_of_pass, measured, traffic in _measure_case(op, case, form, device, rounds, remarks):
                rows += _rows(op, case, kind_of_pass, measured, traffic, device)
    if not rows:
        remarks.append(f"{op}: no case names a recipe")
    return OpReport(op, rows, remarks)


def format_report(report: OpReport) -> str:
    """Table of an op, and its remarks below."""
    return "\n".join([*([format_table(report.rows, SHOWN, 4)] if report.rows else []), *report.remarks])


def _measure_case(
    op: str, case: Case, form: str, device: str, rounds: int, remarks: list[str]
) -> Iterator[tuple[str, Interleaved, int]]:
    """The forward pass, and with gradients forward and backward pass together; and the bytes that must move.

    The traffic of a case counts its gradient too, so a forward pass alone has none where there is one.
    """
    arguments = arguments_of(case, device)
    public = getattr(import_module(f"monai_ext.ops.{op}"), case.function)
    functions: dict[str, tuple[Callable[..., Any], str]] = {EAGER: (public, "torch"), form: (public, form)}
    if getattr(public, "not_compiled", False):
        remark = f"{op}: {case.function} runs outside of graphs, so torch.compile is not compared"
        remarks += [remark] if remark not in remarks else []
    else:
        try:
            functions[COMPILED] = (_compiled(op, case, public, arguments), "torch")
        except Exception as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            remarks.append(f"{op}, {case.name}: torch.compile of the reference failed: {reason[:200]}")
    copy = _copy_task(device)
    changes = _changes_arguments(public, arguments)
    prepare = partial(_clones, arguments) if changes else lambda: arguments
    forward = {name: Task(partial(_forward, f, used), prepare) for name, (f, used) in functions.items()}
    inputs = [value for value in _tensors(arguments) if value.requires_grad]
    yield "forward", time_interleaved({**forward, COPY: copy}, rounds, device), 0 if inputs else case.traffic
    if not inputs:
        return
    with forced("torch"):
        outputs = [output for output in _tensors(public(*arguments)) if output.requires_grad]
    weights = [torch.randn_like(output) for output in outputs]
    both = {
        name: Task(partial(_forward_backward, f, used, arguments, inputs, weights))
        for name, (f, used) in functions.items()
    }
    del outputs
    yield "forward+backward", time_interleaved({**both, COPY: copy}, rounds, device), case.traffic


@torch.no_grad()
def _forward(function: Callable[..., Any], form: str, *arguments: Any) -> None:
    with forced(form):
        function(*arguments)


def _forward_backward(
    function: Callable[..., Any],
    form: str,
    arguments: tuple[Any, ...],
    inputs: Sequence[torch.Tensor],
    weights: Sequence[torch.Tensor],
) -> None:
    with forced(form):
        outputs = [output for output in _tensors(function(*arguments)) if output.requires_grad]
        torch.autograd.grad(outputs, inputs, weights, allow_unused=True)


def _compiled(op: str, case: Case, public: Callable[..., Any], arguments: tuple[Any, ...]) -> Callable[..., Any]:
    """The reference under torch.compile, called once with and once without gradients.

    Raises:
        RuntimeError: the graph holds our own op as one node, and the reference cannot be compiled by itself.
    """
    torch._dynamo.reset()
    with forced("torch"):
        functions = [public, getattr(import_module(f"monai_ext.ops.{op}.reference"), case.function, None)]
        for function in functions:
            if function is None or _has_own_nodes(function, arguments):
                continue
            compiled = torch.compile(function, dynamic=False)
            compiled(*arguments)
            with torch.no_grad():
                compiled(*arguments)
            return compiled
    raise RuntimeError("it is one node of the graph, into which the compiler does not look")


def _has_own_nodes(function: Callable[..., Any], arguments: tuple[Any, ...]) -> bool:
    found = False

    def look(graph: torch.fx.GraphModule, _: Any) -> Callable[..., Any]:
        nonlocal found
        found = found or any("monai_ext" in str(node.target) for node in graph.graph.nodes)
        return graph.forward

    torch.compile(function, backend=look, dynamic=False)(*arguments)
    torch._dynamo.reset()
    return found


def _copy_task(device: str) -> Task:
    source = torch.zeros(COPY_BYTES // 4, device=device)
    target = torch.ones_like(source)
    return Task(lambda: target.copy_(source))


def _changes_arguments(function: Callable[..., Any], arguments: tuple[Any, ...]) -> bool:
    """Whether it works in place, so that every call needs fresh arguments."""
    given = _clones(arguments)
    with forced("torch"), torch.no_grad():
        function(*given)
    before, after = _tensors(arguments), _tensors(given)
    # bytes tell even where a NaN stays a NaN
    return any(not torch.equal(_bytes(a), _bytes(b)) for a, b in zip(before, after, strict=True))


def _bytes(value: torch.Tensor) -> torch.Tensor:
    return value.detach().contiguous().flatten().view(torch.uint8)


def _clones(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.detach().clone()
    if isinstance(value, list | tuple):
        return type(value)(_clones(item) for item in value)
    return value


def _tensors(value: Any) -> list[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return [value]
    return [tensor for item in value for tensor in _tensors(item)] if isinstance(value, list | tuple) else []


def _rows(
    op: str, case: Case, kind_of_pass: str, measured: Interleaved, traffic: int, device: str
) -> list[dict[str, Any]]:
    rate = 2 * COPY_BYTES / measured.spread(COPY)[1]
    rows = []
    for form in measured.seconds:
        if form == COPY:
            continue
        least, middle, most = measured.spread(form)
        row: dict[str, Any] = {"op": op, "case": case.name, "recipe": case.recipe, "device": measured_device(device)}
        row |= {"form": form, "pass": kind_of_pass, "n": len(measured.seconds[form])}
        row |= {"min_ms": milliseconds(least), "median_ms": milliseconds(middle), "max_ms": milliseconds(most)}
        row["ratio_to_eager"] = f"{measured.ratio(EAGER, form):.3g}"
        row["ratio_to_compiled"] = f"{measured.ratio(COMPILED, form):.3g}" if COMPILED in measured.seconds else ""
        row["gb_per_s"] = f"{traffic / middle / 1e9:.3g}" if traffic else ""
        row["share_of_copy_rate"] = f"{traffic / middle / rate:.3g}" if traffic else ""
        row |= {"threads": torch.get_num_threads(), "torch": installed_versions(["torch"]).removeprefix("torch ")}
        rows.append({**row, **circumstances()})
    return rows
