"""Whether keeping only largest components helps, decided on validation cases, and the result as a file.

The rule is that of nnU-Net v2: (a) of all foreground together only the largest component stays, if the mean
foreground Dice rises and no class falls; (b) then, class by class, only the largest component of the class, if the
Dice of that class rises. Dice means the mean over cases, absent classes as in `segmentation_metrics`.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from pydantic import ConfigDict, TypeAdapter, ValidationError

from monai_ext.atomic_files import write_text
from monai_ext.errors import InputError
from monai_ext.evaluation.largest_component import bounding_box, keep_largest_component

POSTPROCESSING_FILE = "postprocessing.json"
VERSION = 1


@dataclass(frozen=True)
class Decision:
    """One step that was tried.

    Attributes:
        values: class values whose largest component was kept, together.
        adopted: whether it helped.
        before, after: mean Dice per class name over the cases, and of all classes under `mean`.
    """

    __pydantic_config__ = ConfigDict(extra="forbid", strict=True)

    values: tuple[int, ...]
    adopted: bool
    before: dict[str, float]
    after: dict[str, float]


@dataclass(frozen=True)
class Postprocessing:
    """What happens to a predicted label map before it is written or measured.

    Attributes:
        keep_largest: groups of class values in order of application; of each group only the largest component stays.
        why: every step that was tried, with the Dice before and after.
        num_cases: cases that decided.
        version: of the file.
    """

    __pydantic_config__ = ConfigDict(extra="forbid", strict=True)
    NONE: ClassVar[Postprocessing]

    keep_largest: tuple[tuple[int, ...], ...] = ()
    why: tuple[Decision, ...] = ()
    num_cases: int = 0
    version: int = VERSION

    def __post_init__(self) -> None:
        for values in self.keep_largest:
            if not values or min(values) < 1 or len(set(values)) != len(values):
                raise ValueError(f"keep_largest must hold groups of different class values above 0, got {values}")
        if self.version != VERSION:
            raise ValueError(f"version must be {VERSION}, got {self.version}")

    def apply(self, labels: np.ndarray) -> np.ndarray:
        """Post-processed `[D, H, W]` label map, `labels` itself if nothing changes; what is removed is background."""
        for values in self.keep_largest:
            labels = keep_largest_component(labels, values)
        return labels

    def describe(self, classes: Mapping[str, int]) -> str:
        """One line: which largest components are kept, and the mean Dice before and after."""
        if not self.keep_largest:
            return f"post-processing: none helps ({self.num_cases} cases)"
        names = {value: name for name, value in classes.items()}
        kept = ", ".join("+".join(names.get(v, str(v)) for v in values) for values in self.keep_largest)
        adopted = [step for step in self.why if step.adopted]
        gain = f", mean Dice {adopted[0].before['mean']:.4f} -> {adopted[-1].after['mean']:.4f}" if adopted else ""
        return f"post-processing: largest component of {kept}{gain} ({self.num_cases} cases)"

    def save(self, path: str | Path) -> None:
        """Write as JSON, whole or not at all."""
        write_text(path, json.dumps(asdict(self), indent=1) + "\n")

    @staticmethod
    def load(path: str | Path) -> Postprocessing:
        """Read what `save` wrote.

        Raises:
            InputError: the file is missing or not a valid post-processing.
        """
        try:
            return TypeAdapter(Postprocessing).validate_json(Path(path).read_bytes())
        except (OSError, ValidationError) as error:
            reason = error.strerror if isinstance(error, OSError) else error.errors()[0]["msg"]
            raise InputError(
                f"{path}: not a post-processing ({reason}). Cure: delete it for none, or decide again by an evaluation "
                "with --postprocess True or by cross_validation"
            ) from error


Postprocessing.NONE = Postprocessing()


class PostprocessingTrial:
    """Tries every step on one case after another and keeps nothing but Dice values.

    Args:
        classes: class name to value; background 0 and `ignore_label` are skipped.
        ignore_label: value of unannotated voxels in the reference, which count nowhere.
    """

    def __init__(self, classes: Mapping[str, int], ignore_label: int | None = None) -> None:
        self.classes = {name: value for name, value in classes.items() if value not in (0, ignore_label)}
        self.ignore_label = ignore_label
        self.num_cases = 0
        # Dice per case: of each class as predicted and after (a), and of a class after (b) alone and after (a) and (b)
        self._plain: dict[int, list[float]] = {value: [] for value in self.classes.values()}
        self._together: dict[int, list[float]] = {value: [] for value in self.classes.values()}
        self._single: dict[int, list[float]] = {value: [] for value in self.classes.values()}
        self._both: dict[int, list[float]] = {value: [] for value in self.classes.values()}

    def add(self, name: str, predicted: np.ndarray, reference: np.ndarray) -> None:
        """Take a case: predicted and reference labels `[D, H, W]`, neither of which is kept.

        Raises:
            InputError: the shapes differ.
        """
        if predicted.shape != reference.shape:
            raise InputError(
                f"{name}: prediction has shape {predicted.shape}, reference {reference.shape} (z, y, x). "
                "Cure: evaluate again, the files belong to different cases"
            )
        box = bounding_box((predicted != 0) | (reference != 0))
        if box is not None:
            predicted, reference = predicted[box], reference[box]
        together = keep_largest_component(predicted, list(self.classes.values())) if self.classes else predicted
        for value in self.classes.values():
            plain = self._dice(predicted, reference, value)
            joint = plain if together is predicted else self._dice(together, reference, value)
            single = keep_largest_component(predicted, [value])
            both = single if together is predicted else keep_largest_component(together, [value])
            self._plain[value].append(plain)
            self._together[value].append(joint)
            self._single[value].append(plain if single is predicted else self._dice(single, reference, value))
            self._both[value].append(joint if both is together else self._dice(both, reference, value))
        self.num_cases += 1

    @staticmethod
    def joined(trials: Sequence[PostprocessingTrial]) -> PostprocessingTrial:
        """One trial of the cases of several (at least one), which are of the same classes."""
        whole = PostprocessingTrial(trials[0].classes, trials[0].ignore_label)
        for trial in trials:
            whole.num_cases += trial.num_cases
            for name in ("_plain", "_together", "_single", "_both"):
                for value, dice in getattr(trial, name).items():
                    getattr(whole, name)[value] += dice
        return whole

    def _dice(self, predicted: np.ndarray, reference: np.ndarray, value: int) -> float:
        found, wanted = predicted == value, reference == value
        if self.ignore_label is not None:
            found &= reference != self.ignore_label
        total = np.count_nonzero(found) + np.count_nonzero(wanted)
        return 2 * np.count_nonzero(found & wanted) / total if total else 1.0

    def decide(self) -> Postprocessing:
        """What helps on the cases seen so far.

        Raises:
            InputError: there were none.
        """
        if not self.num_cases:
            raise InputError("post-processing: there are no cases to decide on. Cure: check that the fold holds cases")
        if not self.classes:
            return Postprocessing(num_cases=self.num_cases)
        names = {value: name for name, value in self.classes.items()}
        dice = {value: statistics.fmean(values) for value, values in self._plain.items()}
        joint = {value: statistics.fmean(values) for value, values in self._together.items()}
        kept: list[tuple[int, ...]] = []
        why: list[Decision] = []

        def tried(values: tuple[int, ...], after: dict[int, float], helps: bool) -> None:
            why.append(Decision(values, helps, _table(dice, names), _table(after, names)))
            if helps:
                kept.append(values)
                dice.update(after)

        rises = statistics.fmean(joint.values()) > statistics.fmean(dice.values())
        tried(tuple(dice), joint, rises and all(joint[value] >= dice[value] for value in dice))
        single = self._both if kept else self._single
        for value in list(dice) if len(dice) > 1 else []:  # of one class (a) and (b) are the same
            after = {**dice, value: statistics.fmean(single[value])}
            tried((value,), after, after[value] > dice[value])
        return Postprocessing(tuple(kept), tuple(why), self.num_cases)


def decide_postprocessing(
    cases: Iterable[tuple[str, np.ndarray, np.ndarray]], classes: Mapping[str, int], ignore_label: int | None = None
) -> Postprocessing:
    """Decide on predictions of validation cases, one case in memory at a time.

    Args:
        cases: name, predicted and reference labels `[D, H, W]`; give a generator that reads them.
        classes: class name to value; background 0 and `ignore_label` are skipped.
        ignore_label: value of unannotated voxels in the reference.

    Raises:
        InputError: no cases, or shapes that differ.
    """
    trial = PostprocessingTrial(classes, ignore_label)
    for name, predicted, reference in cases:
        trial.add(name, predicted, reference)
    return trial.decide()


def _table(dice: Mapping[int, float], names: Mapping[int, str]) -> dict[str, float]:
    return {**{names[value]: score for value, score in dice.items()}, "mean": statistics.fmean(dice.values())}
