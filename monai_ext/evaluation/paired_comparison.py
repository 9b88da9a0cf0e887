"""Two evaluations of the same cases compared case by case: a difference of means alone says little about chance."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from monai_ext.errors import InputError

MEAN = "mean"


@dataclass(frozen=True)
class PairedDifference:
    """Dice of B minus Dice of A over the same cases.

    Attributes:
        name: class, or `mean` of the foreground classes per case.
        mean_a, mean_b: over the cases.
        low, high: 95 % interval of the mean difference (bootstrap over cases, 10 000 draws, fixed seed).
        better, worse: cases in which B is better, worse.
        p_value: two-sided Wilcoxon signed-rank test (Wilcoxon 1945); 1 if no case differs.
    """

    name: str
    mean_a: float
    mean_b: float
    low: float
    high: float
    better: int
    worse: int
    p_value: float


def read_dice(evaluation: Path) -> dict[str, dict[str, float]]:
    """Case to class to Dice from the `metrics.json` of an evaluation, given as the file or its folder.

    Raises:
        InputError: it is missing or has another form.
    """
    path = evaluation / "metrics.json" if evaluation.is_dir() else evaluation
    try:
        content: dict[str, dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
        return {case: {name: float(m["dice"]) for name, m in classes.items()} for case, classes in content.items()}
    except (OSError, ValueError, TypeError, AttributeError, KeyError, RecursionError) as error:
        raise InputError(
            f"{path}: not the metrics of an evaluation ({type(error).__name__}: {error}). "
            "Cure: the folder `evaluation` of a run, or its metrics.json"
        ) from error


def compare(a: Path, b: Path) -> list[PairedDifference]:
    """Compare two evaluations: one entry per class, then one for the mean per case.

    Raises:
        InputError: they are of other cases or classes.
    """
    from scipy.stats import wilcoxon

    first, second = read_dice(a), read_dice(b)
    if not first or set(first) != set(second):
        one_sided = sorted(set(first) ^ set(second))
        raise InputError(
            f"{a} and {b}: {len(one_sided)} of {len(set(first) | set(second))} cases are in one of them only "
            f"({', '.join(one_sided[:5])}). Cure: evaluate both models on the same fold"
        )
    cases = sorted(first)
    classes = list(first[cases[0]])
    if not classes or any(set(m) != set(classes) for metrics in (first, second) for m in metrics.values()):
        raise InputError(f"{a} and {b}: have other classes, or none. Cure: evaluate both models on the same dataset")
    values_a, values_b = (np.array([[m[case][n] for n in classes] for case in cases]) for m in (first, second))
    columns = [(name, values_a[:, i], values_b[:, i]) for i, name in enumerate(classes)]
    result = []
    for name, x, y in [*columns, (MEAN, values_a.mean(1), values_b.mean(1))]:
        difference = y - x
        draws = np.random.default_rng(0).choice(difference, size=(10_000, len(difference))).mean(1)
        low, high = np.quantile(draws, (0.025, 0.975))
        p_value = float(wilcoxon(x, y).pvalue) if difference.any() else 1.0
        better, worse = int((difference > 0).sum()), int((difference < 0).sum())
        result.append(
            PairedDifference(name, float(x.mean()), float(y.mean()), float(low), float(high), better, worse, p_value)
        )
    return result


def format_comparison(differences: list[PairedDifference], names: tuple[str, str]) -> str:
    """Markdown table of `compare`."""
    a, b = names
    lines = [f"| class | {a} | {b} | difference (95 %) | better / worse | p |", "|" + " --- |" * 6]
    for d in differences:
        gain = f"{d.mean_b - d.mean_a:+.4f} ({d.low:+.4f} to {d.high:+.4f})"
        lines.append(
            f"| {d.name} | {d.mean_a:.4f} | {d.mean_b:.4f} | {gain} | {d.better} / {d.worse} | {d.p_value:.2g} |"
        )
    return "\n".join(lines)
