"""Spread of a score over the cases of an evaluation: what its mean hides."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from monai_ext.model_card.markdown import escaped, number, table

COLUMNS = ("mean", "standard deviation", "median", "least", "largest", "cases")


def spread(values: Iterable[object]) -> dict[str, float | int]:
    """Mean, standard deviation (of the cases themselves, divided by their number), median, extremes, and their number.

    Values that are undefined are left out; without any other, the result holds `cases` 0 alone.
    """
    found = [float(v) for v in values if isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v)]
    if not found:
        return {"cases": 0}
    return {
        "mean": statistics.fmean(found),
        "standard deviation": statistics.pstdev(found),
        "median": statistics.median(found),
        "least": min(found),
        "largest": max(found),
        "cases": len(found),
    }


def spread_table(cases: Mapping[str, Mapping[str, Any]], scores: Sequence[str], titles: Mapping[str, str]) -> str:
    """A table with a row for each score that cases have; empty if none has."""
    rows = []
    for score in scores:
        found = spread(case.get(score) for case in cases.values())
        if found["cases"]:
            rows.append([escaped(titles.get(score, score)), *(number(found[name]) for name in COLUMNS)])
    return table(["score of a case", *COLUMNS], rows) if rows else ""
