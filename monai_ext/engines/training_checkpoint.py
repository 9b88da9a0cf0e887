"""`last.pt`: everything needed to go on as if training had never stopped, written atomically."""

from __future__ import annotations

import logging
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events

from monai_ext.atomic_files import remove_partials, save_tensors
from monai_ext.engines.run_protection import RunPlan
from monai_ext.engines.sample_stream import SampleStream
from monai_ext.errors import InputError

logger = logging.getLogger(__name__)
FORMAT = 1
MODELS = ("model.pt", "model_final.pt")


def load_tensors(path: str | Path, cure: str) -> Any:
    """`torch.load` with `weights_only=True` on the CPU.

    Raises:
        InputError: the file is missing, damaged, or holds more than tensors and plain values.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: checkpoint not found. Cure: {cure}")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError, ValueError, KeyError) as error:
        raise InputError(f"{path}: not a readable checkpoint ({error!s:.200}). Cure: {cure}") from error


def load_weights(network: torch.nn.Module, path: str | Path, cure: str) -> torch.nn.Module:
    """Fill `network` from a plain state dict, strictly.

    Raises:
        InputError: the file is missing or damaged, or its tensors are not those of the network.
    """
    state = load_tensors(path, cure)
    try:
        network.load_state_dict(state)
    except (RuntimeError, AttributeError, TypeError) as error:
        first = str(error).splitlines()[1:4] or [str(error)[:200]]
        raise InputError(
            f"{path}: the weights do not fit the network of the plan ({' '.join(line.strip() for line in first)}). "
            f"Cure: keep model.pt and plan.json of one training together"
        ) from error
    return network


class TrainingCheckpoint:
    """Saves `last.pt` after every epoch and at the end of a session; `resume` puts everything back.

    Args:
        folder: of the run.
        plan: recorded, so that a checkpoint of another plan is refused.
        parts: named objects with `state_dict` and `load_state_dict` (network, optimiser, average, budget, ...).
        stream: sample stream to continue.
        resume: go on from `last.pt` if there is one.
        options: keys that shape the course of training; a resumed training must have the same.
        save_interval: steps between further saves within epochs; 0 for none.
    """

    def __init__(
        self,
        folder: str | Path,
        plan: RunPlan,
        parts: dict[str, Any],
        stream: SampleStream,
        resume: bool = False,
        options: Mapping[str, Any] | None = None,
        save_interval: int = 0,
    ) -> None:
        self.path = Path(folder) / "last.pt"
        self.plan = plan
        self.parts = parts
        self.stream = stream
        self.resume = resume
        self.save_interval = save_interval
        self.options = {name: repr(value) for name, value in (options or {}).items()}
        self._scaler_state: dict[str, Any] | None = None
        found = [path for path in (self.path, *(Path(folder) / name for name in MODELS)) if path.exists()]
        if found and not resume:
            raise InputError(
                f"{found[0]}: this folder already holds a training. Cure: --resume True to go on with it, another "
                "--output_dir, or --overwrite True to start anew"
            )
        remove_partials(folder)

    def attach(self, engine: Engine) -> None:
        if self.resume:
            self._restore(engine)
        engine.add_event_handler(Events.STARTED, self._restore_scaler)
        if self.save_interval > 0:
            engine.add_event_handler(Events.ITERATION_COMPLETED(every=self.save_interval), self.save)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.save)
        engine.add_event_handler(Events.COMPLETED, self.save)

    def save(self, engine: Any) -> None:
        """Write `last.pt`; the previous one stays until the new one is complete."""
        content = {
            "format": FORMAT,
            "plan": self.plan.signature(),
            "options": self.options,
            "iteration": engine.state.iteration,
            "scaler": engine.scaler.state_dict() if engine.scaler is not None else {},
            **{name: part.state_dict() for name, part in self.parts.items()},
        }
        save_tensors(self.path, content)

    def _restore(self, engine: Any) -> None:
        if not self.path.exists():
            logger.warning("%s does not exist yet: training starts from the beginning", self.path)
            return
        content = load_tensors(self.path, "delete it and start anew, or restore a copy")
        missing = {"format", "plan", "options", "iteration", *self.parts} - set(content)
        if missing:
            raise InputError(
                f"{self.path}: lacks {sorted(missing)}. Cure: it is no last.pt of this version; start anew"
            )
        if content["plan"] != self.plan.signature():
            raise InputError(
                f"{self.path}: was trained with another plan ({content['plan']}) than the present one "
                f"({self.plan.signature()}). Cure: restore the plan.json it belongs to, or another output_dir"
            )
        before = content["options"]
        changed = [f"--{n} {before.get(n)} -> {v}" for n, v in self.options.items() if before.get(n) != v]
        if changed:
            raise InputError(
                f"{self.path}: the training was begun with other keys: {', '.join(changed)}. "
                "Cure: the former values, or another output_dir"
            )
        for name, part in self.parts.items():
            part.load_state_dict(content[name])
        state = engine.state
        state.iteration = content["iteration"]
        state.epoch = state.iteration // state.epoch_length
        self.stream.start_at(state.iteration)
        self._scaler_state = content["scaler"]
        logger.info("resumed from %s at iteration %d", self.path, state.iteration)

    def _restore_scaler(self, engine: Any) -> None:
        # MONAI builds the scaler when a run starts, so that it cannot be filled earlier
        if self._scaler_state and engine.scaler is not None:
            engine.scaler.load_state_dict(self._scaler_state)
