"""Weights know the plan that they were trained with."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from monai_ext.atomic_files import save_tensors
from monai_ext.engines.checkpoint_files import load_tensors
from monai_ext.engines.scheduled_validation import ScheduledValidation
from monai_ext.engines.training_checkpoint import load_weights
from monai_ext.errors import InputError
from monai_ext.export.trained_model import open_model
from monai_ext.networks.valid_unet import network_from_em_plan
from monai_ext.planning.em_plan import EmPlan
from monai_ext.planning.plan_identity import NOTE, digest_of_file, note_plan, noted_plan, plan_digest
from monai_ext.planning.plan_kinds import SIGNS, plan_type
from small_detector import small_plan

BUNDLES = Path(__file__).parents[2] / "bundles"
PLAN = EmPlan("cells", "tile", (140, 140), (0.0, 255.0), 4, levels=3, upsampling="conv2")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A folder as a training leaves it."""
    torch.manual_seed(0)
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "plan.json").write_text(PLAN.to_json())
    network = network_from_em_plan(PLAN)
    unused: Any = None
    saver = ScheduledValidation(unused, 1, network, folder, unused)
    saver._save("model.pt")
    return folder


def put_plan(folder: Path, **changes: Any) -> None:
    (folder / "plan.json").write_text(replace(PLAN, **changes).to_json())


def test_training_writes_the_digest_into_the_model(run: Path) -> None:
    state = load_tensors(run / "model.pt", "")
    assert noted_plan(state) == plan_digest(PLAN) == digest_of_file(run / "plan.json")
    # for everybody else it is a state dict as ever
    plain = torch.load(run / "model.pt", weights_only=True)
    network = network_from_em_plan(PLAN)
    assert set(plain) == set(network.state_dict())
    network.load_state_dict(plain)


def test_plan_of_another_run_of_the_same_shape(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    network = network_from_em_plan(PLAN)
    load_weights(network, run / "model.pt", "")
    with caplog.at_level(logging.WARNING):
        open_model(run)
    assert not caplog.records
    put_plan(run, value_range=(0.0, 65535.0))
    for opened in (lambda: load_weights(network, run / "model.pt", ""), lambda: open_model(run)):
        with pytest.raises(InputError, match=r"model\.pt: was trained with another plan than .*plan\.json.*Cure: keep"):
            opened()


def test_models_without_a_digest_open_with_a_warning(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    torch.save(dict(torch.load(run / "model.pt", weights_only=True)), run / "model.pt")
    put_plan(run, value_range=(0.0, 65535.0))
    load_weights(network_from_em_plan(PLAN), run / "model.pt", "")
    with caplog.at_level(logging.WARNING):
        open_model(run)
    assert "holds no note of the plan" in caplog.text


def test_digest_is_of_what_results_depend_on(tmp_path: Path) -> None:
    detector = small_plan(tile_overlap=16)
    assert plan_digest(replace(detector, score_threshold=0.3, max_detections=7)) == plan_digest(detector)
    assert plan_digest(replace(detector, mean=(0.1,))) != plan_digest(detector)
    assert plan_digest(replace(detector, dataset="others")) != plan_digest(detector)
    # neither the form of the file counts nor fields that an earlier version did not write
    content = json.loads(detector.to_json())
    (tmp_path / "plan.json").write_text(json.dumps({k: content[k] for k in sorted(content) if k != "round_anchors"}))
    assert digest_of_file(tmp_path / "plan.json") == plan_digest(detector)
    (tmp_path / "plan.json").write_text("{")
    assert digest_of_file(tmp_path / "plan.json") == digest_of_file(tmp_path / "none.json") == ""


@pytest.mark.parametrize("bundle", SIGNS)
def test_plans_of_all_bundles(bundle: str) -> None:
    path = BUNDLES / bundle / "configs" / "default_plan.json"
    assert digest_of_file(path) == plan_digest(plan_type(bundle).load(path))


def test_notes_of_strangers(tmp_path: Path) -> None:
    layer = torch.nn.Linear(2, 2)
    state: Any = layer.state_dict()
    note_plan(state, tmp_path / "none.json")
    assert noted_plan(state) == ""
    oddities: list[Any] = [None, [], {"": None}, {"": {NOTE: 3}}]
    for odd in oddities:
        state._metadata = odd
        assert noted_plan(state) == ""
    note_plan({}, BUNDLES / "unet_em" / "configs" / "default_plan.json")
    save_tensors(tmp_path / "odd.pt", {"a": torch.zeros(1)})
    assert noted_plan(load_tensors(tmp_path / "odd.pt", "")) == ""


@pytest.mark.parametrize("field", ["intensity", "normalization", "spacing", "axes", "patch_size", "labels", "channels"])
def test_what_a_scan_is_prepared_by_changes_the_digest(field: str) -> None:
    """Of these, most leave the shapes of the weights as they are."""
    plan = plan_type("nnunet").load(BUNDLES / "nnunet" / "configs" / "default_plan.json")
    value = getattr(plan, field)
    other = {**value, "other": 99} if isinstance(value, dict) else (*value[:-1], "other")
    assert plan_digest(replace(plan, **{field: other})) != plan_digest(plan)
