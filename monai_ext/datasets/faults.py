"""Records that break rules, gathered by rule for one message."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

from monai_ext.datasets.classification_dataset import shortened
from monai_ext.errors import Problems

SKIP = "correct the record; --skip_broken True leaves such annotations out"


@dataclass
class Faults:
    """Records that break a rule, by rule, so that ten thousand of a kind make one line."""

    found: dict[tuple[str, str], list[str]] = field(default_factory=lambda: defaultdict(list))

    def add(self, what: str, record: str, cure: str = SKIP) -> None:
        """Note one record."""
        self.found[what, cure].append(record)

    def report(self, problems: Problems, noun: str) -> None:
        """One line for each rule that was broken."""
        for (what, cure), records in self.found.items():
            problems.add(f"{len(records)} {noun}", f"{what}: {shortened(records)}", cure)

    def lines(self, noun: str) -> list[str]:
        """The same as notes."""
        return [f"{len(records)} {noun} {what}: {shortened(records)}" for (what, _), records in self.found.items()]
