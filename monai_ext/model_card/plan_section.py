"""The plan of a trained model and the reason of each choice, and the training that followed it."""

from __future__ import annotations

from typing import Any

from monai_ext.model_card.markdown import NOT_RECORDED, code, escaped, facts, number, section, shown, table
from monai_ext.model_card.run_files import RunFiles

LEFT_OUT = ("why", "version", "dataset")
MOST_VALIDATIONS = 8
VALIDATED = ("mean_dice", "soft_dice", "mask_ap50", "accuracy")


def plan_section(run: RunFiles) -> str:
    """Every field of `plan.json` with its reason, where one was recorded."""
    why = run.plan.get("why", {})
    reasons = why if isinstance(why, dict) else {}
    rows = [
        [f"`{escaped(name)}`", _plan_value(value), escaped(reasons.get(name, ""))]
        for name, value in run.plan.items()
        if name not in LEFT_OUT
    ]
    columns = ("field", "value", "why") if reasons else ("field", "value")
    note = (
        "" if reasons else "The plan of this bundle records no reasons: its fields come from the keys of the training."
    )
    return section("Plan", note, table(columns, [row[: len(columns)] for row in rows], left=len(columns)))


def _plan_value(value: Any) -> str:
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return "; ".join(shown(entry) for entry in value)
    return shown(value)


def training_section(run: RunFiles) -> str:
    """Length of the training, which epoch was kept, the course of its validation score, and the command."""
    training, record = run.training, run.record.get("training", {})
    if not training:
        return section("Training", "Not finished or not recorded: the run has no `metrics.json`.")
    entries = {
        "optimiser steps": training.get("iterations"),
        "minutes": training.get("training_minutes"),
        "epoch of `model.pt`": training.get("best_epoch"),
        "device": record.get("device", NOT_RECORDED),
        "processes": record.get("processes"),
    }
    command = record.get("command", "")
    typed = code(command) if command else f"The command is {NOT_RECORDED}."
    return section("Training", facts(entries), typed, _course(run))


def _course(run: RunFiles) -> str:
    score = next((name for name in VALIDATED if any(_is_score(row.get(name)) for row in run.log)), "")
    rows = [row for row in run.log if _is_score(row.get(score))]
    if not rows:
        return "The course of the validation is not recorded."
    step = max(1, -(-len(rows) // MOST_VALIDATIONS))
    kept = [*rows[::-1][::step]][::-1]  # the last one among them
    cells = [
        [number(row.get("epoch")), number(row.get("iteration")), number(row.get("minutes"), 1), number(row[score])]
        for row in kept
    ]
    return table(("epoch", "step", "minutes", f"validation `{score}`"), cells)


def _is_score(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
