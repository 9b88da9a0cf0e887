"""Which rank takes which folds, and how the first learns that the others are done: by files in the common folder."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from monai_ext.atomic_files import write_text
from monai_ext.engines.fold_process import Stop
from monai_ext.errors import InputError

BEAT_SECONDS = 20.0
PATIENCE_SECONDS = 600.0
START_SECONDS = 60.0  # ranks of one launch start within this time


@dataclass(frozen=True)
class Rank:
    """This process among those of one launch.

    Attributes:
        number: 0 to `world - 1`.
        world: processes.
        local: number on this machine, which chooses the GPU.
    """

    number: int = 0
    world: int = 1
    local: int = 0

    @staticmethod
    def from_environment() -> Rank:
        """From `RANK`, `WORLD_SIZE` and `LOCAL_RANK`, as torchrun sets them; a single process without them.

        Raises:
            InputError: they are no numbers, or do not fit together.
        """
        given = {name: os.environ.get(name, "") for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
        try:
            world = int(given["WORLD_SIZE"] or 1)
            number = int(given["RANK"] or 0)
            local = int(given["LOCAL_RANK"] or number)
        except ValueError:
            number = world = local = -1
        if not 0 <= number < world or local < 0:
            raise InputError(f"RANK, WORLD_SIZE and LOCAL_RANK do not fit together: {given}. Cure: start with torchrun")
        return Rank(number, world, local)

    def share(self, folds: Sequence[int]) -> list[int]:
        """The folds of this rank: every `world`-th."""
        return list(folds[self.number :: self.world])


class RankFiles:
    """One small file per rank: touched while it works, filled when it is done.

    Files rather than a process group, which there is only with `multi_gpu_train.json`: ranks finish hours apart.

    Args:
        folder: that all ranks see.
        rank: this process.
        patience: seconds without a sign of life after which a rank counts as dead.
    """

    def __init__(self, folder: Path, rank: Rank, patience: float = PATIENCE_SECONDS) -> None:
        self.folder = Path(folder)
        self.rank = rank
        self.patience = patience
        self._beaten = time.monotonic()
        if rank.world > 1:
            write_text(self._path(rank.number), json.dumps({"done": False}))
        self._started = self._now() if rank.world > 1 else 0.0

    def _path(self, number: int) -> Path:
        return self.folder / f".rank-{number}.json"

    def _now(self) -> float:
        """Time by the clock of the file system, which is that of the other ranks' files."""
        path = self._path(self.rank.number)
        path.touch()
        return path.stat().st_mtime

    def beat(self) -> None:
        """Give a sign of life now and then."""
        if self.rank.world > 1 and time.monotonic() - self._beaten > BEAT_SECONDS:
            self._beaten = time.monotonic()
            self._path(self.rank.number).touch()

    def done(self, failures: dict[int, str]) -> None:
        """Tell the first rank that this one is done, and which of its folds failed why."""
        content = {"done": True, "failures": {str(fold): text for fold, text in failures.items()}}
        write_text(self._path(self.rank.number), json.dumps(content, indent=1))

    def remove(self) -> None:
        """Take this rank's file away."""
        self._path(self.rank.number).unlink(missing_ok=True)

    def wait(self, folds: Sequence[int], stop: Stop, poll_seconds: float = 0.5) -> dict[int, str]:
        """Wait for all other ranks; called by the first. Returns their failures, fold to message."""
        failures: dict[int, str] = {}
        waiting = set(range(1, self.rank.world))
        begun = self._now() if waiting else 0.0
        while waiting and stop.received is None:
            now = self._now()
            for number in sorted(waiting):
                path = self._path(number)
                try:
                    seen = path.stat().st_mtime
                    content = json.loads(path.read_text(encoding="utf-8"))
                except (OSError, ValueError):
                    seen, content = 0.0, {}
                if content.get("done") and seen >= self._started - START_SECONDS:
                    failures |= {int(fold): text for fold, text in content.get("failures", {}).items()}
                    path.unlink(missing_ok=True)
                    waiting.discard(number)
                elif now - max(seen, begun) > self.patience:
                    silent = f"rank {number} gave no sign of life for {self.patience:.0f} s"
                    failures |= dict.fromkeys(folds[number :: self.rank.world], silent)
                    waiting.discard(number)
            if waiting:
                time.sleep(poll_seconds)
        return failures
