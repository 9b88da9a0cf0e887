"""A bundle command on several ranks as torchrun starts them, each a forked copy of the test process."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from bundle_commands import Finished
from forked_command import finished, start_forked
from rank_processes import free_port

OVERLAYS = {"train.json": "multi_gpu_train.json", "inference.json": "multi_gpu_inference.json"}


def ranks_run(cwd: Path, ranks: int, run_id: str, *configs: str, bundle: Path, **overrides: Any) -> list[Finished]:
    """Run a command to its end on every rank; what each printed, in their order.

    One rank is a process without the overlay, whose results the others are held against.

    Args:
        cwd: working directory, which stays free of other files.
        ranks: how many.
        run_id: what to run.
        configs: names of config files of the bundle; for several ranks the overlay is added.
        bundle: folder of the config files.
        overrides: keys.
    """
    files = (*configs, *([OVERLAYS[configs[0]]] if ranks > 1 else []))
    logs = cwd.parent / f"{cwd.name}_logs"
    logs.mkdir(exist_ok=True)
    port = free_port()

    def environment(rank: int) -> None:
        os.chdir(cwd)
        if ranks > 1:
            names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks}
            os.environ |= {name: str(value) for name, value in names.items()}
            os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}

    started = [
        start_forked(logs, run_id, *files, bundle=bundle, before=lambda rank=rank: environment(rank), **overrides)
        for rank in range(ranks)
    ]
    return [finished(*parts) for parts in started]


def names(folder: Path) -> list[str]:
    """Files below a folder, with what differs between any two runs left out of their names."""
    paths = (path for path in folder.rglob("*") if path.name != ".run.lock")
    return sorted(re.sub(r"tfevents.*", "tfevents", str(path.relative_to(folder))) for path in paths)
