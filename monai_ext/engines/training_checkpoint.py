"""`last.pt`: everything needed to go on as if training had never stopped, written atomically, the one before kept."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events

from monai_ext.atomic_files import remove_partials, save_tensors
from monai_ext.engines import process_group
from monai_ext.engines.checkpoint_files import LAST, PREVIOUS, load_newest, load_tensors
from monai_ext.engines.launch_record import begun_by_this_launch, note_launch
from monai_ext.engines.run_protection import RunPlan
from monai_ext.engines.sample_stream import SampleStream
from monai_ext.errors import InputError
from monai_ext.planning.plan_identity import require_same_training

logger = logging.getLogger(__name__)
FORMAT = 1
MODELS = ("model.pt", "model_final.pt")
__all__ = ["TrainingCheckpoint", "load_tensors", "load_weights"]


def load_weights(network: torch.nn.Module, path: str | Path, cure: str) -> torch.nn.Module:
    """Fill `network` from a plain state dict, strictly.

    Raises:
        InputError: the file is missing or damaged, its tensors are not those of the network, or it was trained with
            another plan than the one beside it.
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
    require_same_training(state, path)
    return network


class TrainingCheckpoint:
    """Saves `last.pt` after every epoch and at the end of a session; `resume` puts everything back.

    The one before stays as `last_previous.pt`. If `last.pt` is damaged, `resume` goes on from that, with a warning.

    Args:
        folder: of the run.
        plan: recorded, so that a checkpoint of another plan is refused.
        parts: named objects with `state_dict` and `load_state_dict` (network, optimiser, average, budget, ...).
        stream: sample stream to continue.
        resume: go on from `last.pt` if there is one. What torchrun starts again after a failure goes on in any case.
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
        self.path = Path(folder) / LAST
        self.previous = Path(folder) / PREVIOUS
        self.plan = plan
        self.parts = parts
        self.stream = stream
        # what the first sees decides: a file may reach another machine later
        self.resume = resume or process_group.of_first(begun_by_this_launch(folder)) > 0
        self.save_interval = save_interval
        self.options = {name: repr(value) for name, value in (options or {}).items()}
        self._scaler_state: dict[str, Any] | None = None
        self._last_is_whole = True
        found = [path for path in (Path(folder) / name for name in (LAST, PREVIOUS, *MODELS)) if path.exists()]
        if found and not self.resume:
            raise InputError(
                f"{found[0]}: this folder already holds a training. Cure: --resume True to go on with it, another "
                "--output_dir, or --overwrite True to start anew"
            )
        if process_group.is_first():
            remove_partials(folder)

    def attach(self, engine: Engine) -> None:
        if self.resume:
            self._restore(engine)
        if process_group.is_first():
            note_launch(self.path.parent)
        engine.add_event_handler(Events.STARTED, self._restore_scaler)
        if self.save_interval > 0:
            engine.add_event_handler(Events.ITERATION_COMPLETED(every=self.save_interval), self._save_within)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.save)
        engine.add_event_handler(Events.COMPLETED, self.save)

    def _save_within(self, engine: Any) -> None:
        # the end of an epoch has its own, after its validation
        if engine.state.iteration % engine.state.epoch_length != 0:
            self.save(engine)

    def save(self, engine: Any) -> None:
        """Write `last.pt`; the one before becomes `last_previous.pt`. Of several processes one writes.

        Raises:
            InputError: it cannot be written (disk full, folder removed); both files are as they were.
        """
        if not process_group.is_first():
            return
        content = {
            "format": FORMAT,
            "plan": self.plan.signature(),
            "options": self.options,
            "iteration": engine.state.iteration,
            "scaler": engine.scaler.state_dict() if engine.scaler is not None else self._scaler_state or {},
            **{name: part.state_dict() for name, part in self.parts.items()},
        }
        # a damaged file must not take the place of the whole one that training goes on from
        save_tensors(self.path, content, previous=self.previous if self._last_is_whole else None)
        self._last_is_whole = True

    def _restore(self, engine: Any) -> None:
        found = load_newest(
            (self.path, self.previous),
            "restore a copy of one of them, or --overwrite True to start anew (what is there is moved to previous-N)",
        )
        if found is None:
            logger.warning("%s does not exist yet: training starts from the beginning", self.path)
            return
        content, path = found
        self._last_is_whole = path == self.path
        known = set(content) if isinstance(content, Mapping) else set()
        missing = {"format", "plan", "options", "iteration", *self.parts} - known
        if missing:
            raise InputError(f"{path}: lacks {sorted(missing)}. Cure: it is no last.pt of this version; start anew")
        if content["plan"] != self.plan.signature():
            raise InputError(
                f"{path}: was trained with another plan ({content['plan']}) than the present one "
                f"({self.plan.signature()}). Cure: restore the plan.json it belongs to, or another output_dir"
            )
        before = content["options"]
        # an earlier version may have written fewer
        changed = [f"--{n} {before[n]} -> {v}" for n, v in self.options.items() if n in before and before[n] != v]
        if changed:
            raise InputError(
                f"{path}: the training was begun with other keys: {', '.join(changed)}. "
                "Cure: the former values, or another output_dir"
            )
        for name, part in self.parts.items():
            part.load_state_dict(content[name])
        state = engine.state
        state.iteration = content["iteration"]
        state.epoch = state.iteration // state.epoch_length
        self.stream.start_at(state.iteration)
        self._scaler_state = content["scaler"]
        logger.info("resumed from %s at iteration %d", path, state.iteration)

    def _restore_scaler(self, engine: Any) -> None:
        # MONAI builds the scaler when a run starts, so that it cannot be filled earlier
        if self._scaler_state and engine.scaler is not None:
            engine.scaler.load_state_dict(self._scaler_state)
