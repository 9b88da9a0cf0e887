"""Whether a training was begun by the torchrun that runs now: what that starts again goes on, without `--resume True`.

torchrun starts all processes again with the same command where one of them failed, or a machine was lost or joined
(`--max-restarts`). To the processes this looks like a new training in a folder that holds one. So the first process
notes in the folder which torchrun began; the note goes when the processes have ended well.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path

from monai_ext.atomic_files import write_text
from monai_ext.engines import process_group

logger = logging.getLogger(__name__)
LAUNCH_FILE = ".launch.json"


def begun_by_this_launch(folder: str | Path) -> bool:
    """Whether one of the torchrun processes of this run has noted a training in a folder; False without torchrun."""
    try:
        noted = json.loads((Path(folder) / LAUNCH_FILE).read_text(encoding="utf-8"))
        return not process_group.launchers().isdisjoint(noted["launchers"])
    except (OSError, ValueError, TypeError, KeyError):
        return False


def note_launch(folder: str | Path) -> None:
    """Note that this torchrun trains in a folder from now on; to be called by the process that writes there."""
    launchers = process_group.launchers()
    if launchers:
        path = Path(folder) / LAUNCH_FILE
        write_text(path, json.dumps({"launchers": sorted(launchers)}) + "\n")
        process_group.at_finish(lambda: path.unlink(missing_ok=True))
