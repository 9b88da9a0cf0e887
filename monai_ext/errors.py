"""Errors that a person can act on: one message naming the file, the rule, the value found and the cure."""

from __future__ import annotations

from pathlib import Path


class InputError(ValueError):
    """Input given by a person (folder, file, key, checkpoint) breaks a rule.

    The command line prints only this message, without a traceback, and exits with status 1.
    """


class Problems:
    """Collects every problem of an input, so that all are reported at once.

    Example:
        >>> problems = Problems("dataset /data/Task04")
        >>> problems.add("imagesTr/a.nii.gz", "is listed but does not exist", "restore it or remove the entry")
        >>> problems.raise_if_any()
        Traceback (most recent call last):
        monai_ext.errors.InputError: dataset /data/Task04: 1 problem
          - imagesTr/a.nii.gz: is listed but does not exist. Cure: restore it or remove the entry
    """

    def __init__(self, subject: str) -> None:
        self.subject = subject
        self.lines: list[str] = []

    def add(self, where: str | Path, what: str, cure: str) -> None:
        """Note one problem: the place, the broken rule with the value found, and what to do."""
        self.lines.append(f"{where}: {what}. Cure: {cure}")

    def __len__(self) -> int:
        return len(self.lines)

    def raise_if_any(self) -> None:
        """Raise one `InputError` that lists all problems; do nothing if there are none."""
        if not self.lines:
            return
        count = "1 problem" if len(self.lines) == 1 else f"{len(self.lines)} problems"
        raise InputError("\n".join([f"{self.subject}: {count}", *(f"  - {line}" for line in self.lines)]))
