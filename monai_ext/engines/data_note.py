"""What a training notes of its data, for the model card of its run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from monai_ext.engines import process_group
from monai_ext.model_card.run_record import add_to_record


def note_data(output_dir: str | Path, facts: Callable[[], dict[str, Any]]) -> None:
    """Record facts about the data in the folder of a run, see `monai_ext.model_card.data_facts`.

    The first process finds them out and writes them while the others wait.
    """
    process_group.first_alone(lambda: add_to_record(output_dir, "data", facts()))
