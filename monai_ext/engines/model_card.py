"""Model card of a run as a step of its evaluation, and what its training notes for it."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from ignite.engine import Engine

from monai_ext.engines import process_group
from monai_ext.engines.shared_completion import when_all_are_done
from monai_ext.errors import InputError
from monai_ext.model_card.card import write_card
from monai_ext.model_card.run_record import add_to_record, circumstances

logger = logging.getLogger(__name__)


class ModelCard:
    """Writes `docs/README.md` when an evaluation of a run has ended; of several processes the first.

    To be attached behind what writes the scores. An evaluation into another folder than that of the model is none of
    the run itself, so that its card stays as it is.

    Args:
        ckpt_path: the model.
        output_dir: folder that holds `evaluation`.
    """

    def __init__(self, ckpt_path: str | Path, output_dir: str | Path) -> None:
        self.ckpt_path = Path(ckpt_path)
        self.output_dir = Path(output_dir)

    def attach(self, engine: Engine) -> None:
        when_all_are_done(engine, lambda: process_group.first_alone(lambda: self._write(engine)))

    def _write(self, engine: Any) -> None:
        if self.ckpt_path.name != "model.pt" or self.ckpt_path.parent.resolve() != self.output_dir.resolve():
            logger.debug("%s: not the folder of the model, so it gets no model card", self.output_dir)
            return
        try:
            add_to_record(self.output_dir, "evaluation", circumstances(_device(engine)))
            print(f"model card: {write_card(self.output_dir).resolve()}")
        except (InputError, OSError) as error:  # the scores are there already, and nothing is wrong with them
            logger.warning("no model card: %s", error)


def note_training(folder: str | Path, trainer: Any) -> None:
    """Note what a training ran on, for the card; to be called by the first process."""
    add_to_record(folder, "training", circumstances(_device(trainer)))


def _device(engine: Any) -> object:
    return getattr(engine.state, "device", None) or "cpu"
