"""The data that a model was trained on: origin, fingerprint, split."""

from __future__ import annotations

from typing import Any

from monai_ext.model_card.markdown import escaped, facts, section, shown, table
from monai_ext.model_card.run_files import RunFiles

WITHOUT_RECORD = (
    "The fingerprint of the dataset is not recorded in this run (`docs/record.json` has no entry `data`); what plan "
    "and fold tell follows."
)


def data_section(run: RunFiles) -> str:
    """The section; of runs without record, from plan and fold alone."""
    data = run.record.get("data")
    if not isinstance(data, dict):
        return section("Data", WITHOUT_RECORD, facts(_from_plan(run)))
    properties = {escaped(name): value for name, value in _mapping(data.get("properties")).items()}
    stated = {escaped(name): value for name, value in _mapping(data.get("stated")).items()}
    cases = {
        f"cases for {escaped(part)}" if part != "without labels" else "cases without labels": count
        for part, count in _mapping(data.get("cases")).items()
    }
    warnings = [f"- {escaped(text)}" for text in data.get("warnings", [])]
    groups = {}
    if "groups" in data:
        groups["groups (patients, ...) that splits keep together"] = data["groups"] or "none known"
    return section(
        "Data",
        facts({"name": run.plan.get("dataset"), **stated, **cases, **groups, **properties}),
        _classes(data.get("classes")),
        "Warnings of the check of the dataset:" if warnings else "",
        "\n".join(warnings),
    )


def _from_plan(run: RunFiles) -> dict[str, Any]:
    counts = {
        f"cases for {name}": len(run.fold[key]) for key, name in _PARTS.items() if isinstance(run.fold.get(key), list)
    }
    named = {"channels": "channels", "labels": "labels", "classes": "classes", "spacing": "spacing (mm)"}
    fields = {title: run.plan.get(name) for name, title in named.items()}
    return {"name": run.plan.get("dataset"), **(counts or {"cases": "not recorded"}), **fields}


_PARTS = {"train": "training", "val": "validation"}


def _classes(found: Any) -> str:
    columns, rows = _mapping(found).get("columns"), _mapping(found).get("rows")
    if not columns or not rows:
        return ""
    return table([escaped(name) for name in columns], [[shown(value) for value in row] for row in rows])


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
