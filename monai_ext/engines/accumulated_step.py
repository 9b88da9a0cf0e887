"""Gradient accumulation: one step of the optimiser on a batch that is worked through in parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import pairwise
from typing import Any

import torch
from monai.engines.utils import IterationEvents
from monai.utils.enums import CommonKeys
from torch.nn.parallel import DistributedDataParallel

from monai_ext.errors import InputError


class AccumulatedStep:
    """`iteration_update` of MONAI's `SupervisedTrainer`: parts of the batch add up their gradients for one step.

    A step stays a step: schedule, clipping, weight average, checkpoint and resume see whole batches, whatever the
    number of parts, while memory is that of one part. Every part counts by its share of images, so for a loss that is a
    mean over images the gradient is that of the whole batch (a batch norm sees the parts, though).

    Of several processes each works through its own batch; gradients are averaged with the last part only.

    Args:
        parts: forward and backward passes per step.

    Raises:
        InputError: fewer than one part.
    """

    def __init__(self, parts: int = 1) -> None:
        if parts < 1:
            raise InputError(f"--accumulate_steps {parts}: must be at least 1. Cure: 1 works on whole batches")
        self.parts = parts

    def __call__(self, engine: Any, batch: Mapping[str, Any]) -> dict[str, Any]:
        """Train on one batch.

        Args:
            engine: the trainer; its prepare_batch, inferer, loss function, scaler and optimiser do the work.
            batch: tensors and sequences whose first axis are the images.

        Returns:
            output of the last part, with `loss` of the whole batch.
        """
        pieces = split_batch(batch, self.parts)
        whole = sum(count for _, count in pieces)
        engine.network.train()
        engine.optimizer.zero_grad(set_to_none=engine.optim_set_to_none)
        scaled = engine.amp and engine.scaler is not None
        sums: dict[str, torch.Tensor] = {}
        loss: Any = 0.0
        for number, (piece, count) in enumerate(pieces, 1):
            inputs, targets, *rest = engine.prepare_batch(
                piece, engine.state.device, engine.non_blocking, **engine.to_kwargs
            )
            args, kwargs = rest if rest else ((), {})
            engine.state.output = {CommonKeys.IMAGE: inputs, CommonKeys.LABEL: targets}
            with _gradients_stay_here(engine.network) if number < len(pieces) else nullcontext():
                with torch.autocast("cuda", enabled=scaled, **engine.amp_kwargs):
                    prediction = engine.inferer(inputs, engine.network, *args, **kwargs)
                    value = engine.loss_function(prediction, targets).mean() * (count / whole)
                (engine.scaler.scale(value) if scaled else value).backward()
            loss = loss + value.detach()
            for name, part in getattr(engine.loss_function, "last_parts", {}).items():
                sums[name] = sums.get(name, 0) + part * (count / whole)
            engine.state.output[CommonKeys.PRED] = prediction
        if sums:
            engine.loss_function.last_parts = sums
        engine.state.output[CommonKeys.LOSS] = loss
        for event in (IterationEvents.FORWARD_COMPLETED, IterationEvents.LOSS_COMPLETED):
            engine.fire_event(event)
        engine.fire_event(IterationEvents.BACKWARD_COMPLETED)
        if scaled:
            engine.scaler.step(engine.optimizer)
            engine.scaler.update()
        else:
            engine.optimizer.step()
        engine.fire_event(IterationEvents.MODEL_COMPLETED)
        output: dict[str, Any] = engine.state.output
        return output


def split_batch(batch: Mapping[str, Any], parts: int) -> list[tuple[dict[str, Any], int]]:
    """Parts of a batch as equal as possible, with their numbers of images; fewer than asked if there are fewer images.

    Args:
        batch: tensors and sequences whose first axis are the images; anything else goes into every part.
        parts: wanted.
    """
    total = max((len(value) for value in batch.values() if _is_split(value)), default=0)
    parts = max(1, min(parts, total))
    edges = [total * part // parts for part in range(parts + 1)]
    return [
        ({name: value[low:high] if _is_split(value) else value for name, value in batch.items()}, high - low)
        for low, high in pairwise(edges)
    ]


def _gradients_stay_here(network: torch.nn.Module) -> AbstractContextManager[None]:
    """Keep a data-parallel network from averaging gradients that are not complete."""
    return network.no_sync() if isinstance(network, DistributedDataParallel) else nullcontext()


def _is_split(value: Any) -> bool:
    if isinstance(value, torch.Tensor):
        return value.ndim > 0
    return isinstance(value, Sequence) and not isinstance(value, str)
