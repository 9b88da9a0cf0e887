"""Named ways to do one piece of work: ours, and those of the peers that are installed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from monai_ext.benchmark.interleaved import Task

OURS = "ours"
NNUNET = "nnunetv2"
CURES = {
    NNUNET: "pip install 'monai-ext[peers]' and then pip install --no-deps nnunetv2==2.8.1 batchgeneratorsv2==0.3.6 "
    "acvl_utils==0.2.6 dynamic_network_architectures==0.4.4"
}


class UnavailableError(RuntimeError):
    """A side cannot be measured here; the message tells why."""


def timm_classifier(**options: Any) -> Any:
    """SE-ResNeXt101-32x4d of timm.

    Raises:
        UnavailableError: timm, or the torchvision that it needs, cannot be imported.
    """
    try:
        import timm
    except Exception as error:  # a torchvision of another build fails with whatever it meets first
        raise UnavailableError(f"timm: {type(error).__name__}: {error}. Cure: pip install timm torchvision") from error
    return timm.create_model("seresnext101_32x4d", **options)


@dataclass
class Work:
    """One piece of work, on one input.

    Attributes:
        only: name of the one side to build; empty builds all.
        tasks: what is timed, by side.
        missing: why a peer is not there and what to do, by side.
        notes: maps the sides to what to say about their results (how far they differ); called after the timing.
        always: said in every row.
    """

    only: str = ""
    tasks: dict[str, Task] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    notes: Callable[[], dict[str, str]] | None = None
    always: str = ""

    def add(self, side: str, build: Callable[[], Task]) -> None:
        """Build a side if it is wanted; note why a peer cannot be built (not installed, another version)."""
        if self.only and side != self.only:
            return
        try:
            self.tasks[side] = build()
        except UnavailableError as error:
            self.missing[side] = str(error)
        except Exception as error:
            if side == OURS:
                raise
            self.missing[side] = f"{type(error).__name__}: {error}. Cure: {CURES.get(side, 'install it')}"
