"""nnU-Net bundle: the config files themselves; what all bundles share is in test_bundle_configs.py."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bundle_commands import NNUNET, bundle_run


def test_training_and_inference_build_the_same_network() -> None:
    """But for the heads that only training needs, and initial weights, which loaded ones replace."""
    train, infer = (json.loads((NNUNET / f).read_text())["network_def"] for f in ("train.json", "inference.json"))
    assert train.pop("deep_supervision") == "@deep_supervision"
    assert infer.pop("deep_supervision") is False
    assert train.pop("up_init") == "@up_init"
    assert train.pop("keep_output") == "@keep_output"  # concerns gradients only
    assert train == infer


@pytest.mark.parametrize(
    ("overrides", "parts"),
    [
        ({"dataset_dir": "nowhere"}, ["nowhere", "Cure"]),
        ({"fold": 5}, ["5", "Cure"]),
        ({"plan_file": "none.json"}, ["none.json", "plan not found"]),
        ({"group_by": "patient"}, ["patient", "Cure"]),
    ],
)
def test_mistakes_end_with_one_message(tmp_path: Path, overrides: dict, parts: list[str]) -> None:
    done = bundle_run(tmp_path, "preprocessing", "train.json", **overrides)
    assert done.status == 1
    message = done.err[done.err.index("error: ") :]
    assert all(part in message for part in parts)
    assert "Traceback" not in done.err
