"""Steps whose loss or gradient is not finite are left out; training that has nothing but such steps stops."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.engines.utils import IterationEvents
from torch import distributed

from monai_ext.engines import process_group
from monai_ext.engines.sample_stream import SampleStream
from monai_ext.errors import InputError

logger = logging.getLogger(__name__)
MOST_NAMES = 20


class FiniteLoss:
    """Skips a step whose loss or gradient is NaN or infinite: weights, optimiser and network buffers stay as they were.

    A skipped step counts as a step of the schedule. It sets `engine.state.step_skipped`, which `WeightAverage` and
    `ProgressLog` respect, and is logged with the names of its cases; those whose image itself is not finite are marked.
    After `max_bad_steps` of them in a row training ends with one error. All ranks decide alike.

    An overflow of float16 while a dynamic loss scale can still fall is skipped too, but is no fault and not counted.

    Attach it after `GradientClip`, whose norm it uses, and after handlers that change buffers when a step begins;
    before all handlers that look at a finished step.

    On CUDA the host reads one flag in every step, after the backward pass: it has to know whether the optimiser may run
    before it calls it, and no undoing later is exact without a copy of weights and moments. Loss, gradient norm and
    ranks are joined on the device first, so that this is one wait. It leaves the GPU idle for the time that the host
    takes to start the optimiser, not for the forward and backward pass, whose kernels were queued ahead of it. The
    names of cases are computed from the step's number and cost nothing until a step is bad.

    Args:
        max_bad_steps: skipped steps in a row that end training, at least 1.
        stream: tells which cases a step shows.
        cases: names of the cases that the stream numbers.

    Raises:
        InputError: `max_bad_steps` is less than 1; while training runs, as many steps in a row were skipped.
    """

    def __init__(self, max_bad_steps: int = 10, stream: SampleStream | None = None, cases: Sequence[str] = ()) -> None:
        if max_bad_steps < 1:
            raise InputError(f"--max_bad_steps {max_bad_steps}: must be at least 1. Cure: 10")
        self.max_bad_steps = max_bad_steps
        self.stream = stream
        self.cases = tuple(cases)
        self.skipped = 0
        self._in_a_row = self._first = 0
        self._names: Counter[str] = Counter()
        self._damaged: set[str] = set()
        self._kept: list[torch.Tensor] = []

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.ITERATION_STARTED, self._begin)
        engine.add_event_handler(IterationEvents.BACKWARD_COMPLETED, self._judge)

    @torch.no_grad()
    def _begin(self, engine: Any) -> None:
        """Keep what the forward pass changes: the running statistics of norms, the ranges of quantisation."""
        engine.state.step_skipped = False
        engine.state.gradient_norm = None
        buffers = list(engine.network.buffers())
        if [(b.shape, b.dtype, b.device) for b in buffers] != [(k.shape, k.dtype, k.device) for k in self._kept]:
            self._kept = [buffer.clone() for buffer in buffers]
        elif buffers:
            torch._foreach_copy_(self._kept, buffers)

    @torch.no_grad()
    def _judge(self, engine: Any) -> None:
        scaled = engine.amp and engine.scaler is not None
        if scaled and engine.state.gradient_norm is None:
            engine.scaler.unscale_(engine.optimizer)  # the scaler must have looked at gradients that are dropped below
        loss_finite = torch.isfinite(engine.state.output["loss"].detach()).all()
        norm = _gradient_norm(engine)
        finite = loss_finite if norm is None else loss_finite & torch.isfinite(norm).to(loss_finite.device)
        if process_group.world_size() > 1:
            # a NaN of one rank reaches all gradients, but a loss may be NaN where its gradient is not
            agreed = finite.to(torch.int32)
            distributed.all_reduce(agreed, distributed.ReduceOp.MIN)
            finite = agreed
        if bool(finite):
            self._in_a_row = 0
            self._names.clear()
            self._damaged.clear()
            return
        self._skip(engine)
        if scaled and _can_fall(engine.scaler) and all(process_group.gather(bool(loss_finite))):
            logger.debug("step %d: overflow, the loss scale falls", engine.state.iteration)
            return
        self._count(engine, bool(loss_finite))

    def _skip(self, engine: Any) -> None:
        """Undo the forward pass; an optimiser does nothing where there is no gradient, not even weight decay."""
        engine.optimizer.zero_grad(set_to_none=True)
        buffers = list(engine.network.buffers())
        if buffers:
            torch._foreach_copy_(buffers, self._kept)
        engine.state.step_skipped = True

    def _count(self, engine: Any, loss_finite: bool) -> None:
        self.skipped += 1
        self._in_a_row += 1
        step = engine.state.iteration
        if self._in_a_row == 1:
            self._first = step
        names = self._cases_of(step)
        shares = process_group.gather((loss_finite, names, _not_finite(engine.state.batch, names)))
        guilty = [share for share in shares if not share[0]] or shares
        names = list(dict.fromkeys(name for _, share, _ in guilty for name in share))
        damaged = list(dict.fromkeys(name for _, _, share in guilty for name in share))
        self._names.update(names)
        self._damaged.update(damaged)
        if process_group.is_first():
            what = "gradient" if len(guilty) == len(shares) and loss_finite else "loss"
            marked = f"; not finite themselves: the images of {_listed(damaged)}" if damaged else ""
            logger.warning("step %d skipped: its %s is not finite. Cases: %s%s", step, what, _listed(names), marked)
        if self._in_a_row >= self.max_bad_steps:
            process_group.first_alone(lambda: self._give_up(engine))

    def _give_up(self, engine: Any) -> None:
        raise InputError(self._message(engine))

    def _message(self, engine: Any) -> str:
        step, count = engine.state.iteration, self._in_a_row
        steps = f"step {step}" if count == 1 else f"steps {self._first} to {step}"
        often = [f"{name} ({times}x)" if times > 1 else name for name, times in self._names.most_common()]
        facts = [f"Cases: {_listed(often)}"]
        cure = (
            "look at these cases; start anew, --overwrite True, with a smaller --learning_rate, --grad_clip 12 or "
            "--warmup 0.05. What was saved before is kept until then"
        )
        if self._damaged:
            facts.append(f"not finite themselves: the images of {_listed(sorted(self._damaged))}")
            cure = "mend these images, then --resume True goes on from what was saved before"
        if not all(bool(torch.isfinite(weight).all()) for weight in engine.network.parameters()):
            facts.append("weights of the network are not finite either")
        return (
            f"{steps}: the loss or its gradient is not finite, {count} in a row (--max_bad_steps {count}). "
            f"{'; '.join(facts)}. Cure: {cure}"
        )

    def _cases_of(self, step: int) -> list[str]:
        """Names of this rank's cases in a step (1 is the first), in the order of the batch."""
        stream = self.stream
        if stream is None:
            return []
        first = ((step - 1) * stream.world_size + stream.rank) * stream.batch_size
        return [self.cases[stream.case_index(number)] for number in range(first, first + stream.batch_size)]


def _gradient_norm(engine: Any) -> torch.Tensor | None:
    """The norm that `GradientClip` left, else computed; None without any gradient."""
    if engine.state.gradient_norm is not None:
        norm: torch.Tensor = engine.state.gradient_norm
        return norm
    gradients = [p.grad for group in engine.optimizer.param_groups for p in group["params"] if p.grad is not None]
    if not gradients:
        return None
    # one pass at the speed of memory, an order faster than isfinite on a processor; the squares overflow at values of
    # 1e19, with which no optimiser that squares them could go on either
    return torch.nn.utils.get_total_norm(gradients)


def _can_fall(scaler: Any) -> bool:
    """Whether a smaller loss scale may cure an overflow: the scale is dynamic and enlarges still."""
    return bool(scaler.is_enabled() and scaler.get_backoff_factor() < 0.99 and scaler.get_scale() > 1)


def _not_finite(batch: Any, names: Sequence[str]) -> list[str]:
    """Names whose image in the batch holds a value that is not finite."""
    images = batch.get("image") if hasattr(batch, "get") else None
    if not isinstance(images, torch.Tensor) or len(images) != len(names) or not images.is_floating_point():
        return []
    finite = torch.isfinite(images).flatten(1).all(1).tolist()
    return [name for name, good in zip(names, finite, strict=True) if not good]


def _listed(names: Sequence[str]) -> str:
    if not names:
        return "not known"
    more = len(names) - MOST_NAMES
    return ", ".join(names[:MOST_NAMES]) + (f" and {more} more" if more > 0 else "")
