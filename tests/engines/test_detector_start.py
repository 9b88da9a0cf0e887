"""Weights that a detector starts from, and limits that a person may change afterwards."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from monai_ext.engines.detector_start import start_detector, trained_detector, with_compiled_backbone, with_limits
from monai_ext.engines.instance_preparation import synthetic_plan
from monai_ext.errors import InputError
from monai_ext.networks.mask_rcnn.detector import network_from_instance_plan

PLAN = synthetic_plan("resnet-tiny", (64, 64), num_classes=2, tile_overlap=16)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    path = tmp_path / "model.pt"
    torch.save(network_from_instance_plan(PLAN).state_dict(), path)
    (tmp_path / "plan.json").write_text(PLAN.to_json())
    return path


def test_training_starts_from_another_training(model: Path) -> None:
    network = start_detector(network_from_instance_plan(PLAN), PLAN, str(model), "", "cpu")
    expected = torch.load(model, weights_only=True)
    for name, tensor in network.state_dict().items():
        torch.testing.assert_close(tensor, expected[name], rtol=0, atol=0)


def test_last_layers_are_new_for_other_classes(model: Path) -> None:
    """As many classes, but others: what was learned about them is of no use."""
    other = replace(PLAN, classes=("nucleus", "vessel"))
    network = start_detector(network_from_instance_plan(other), other, str(model), "", "cpu")
    old, new = torch.load(model, weights_only=True), network.state_dict()
    changed = {name for name in old if not torch.equal(old[name], new[name])}
    assert changed
    assert all(name.startswith(("box_head", "mask_head")) for name in changed), changed


def test_what_is_frozen_without_weights_is_told(model: Path, caplog: pytest.LogCaptureFixture) -> None:
    """NVIDIA's recipe without its weight file would train on fixed noise."""
    frozen = replace(PLAN, norm="frozen_batch")
    start_detector(network_from_instance_plan(frozen, freeze_at=2), frozen, "", "", "cpu")
    assert "--freeze_at 2 and --norm frozen_batch without weights" in caplog.text
    caplog.clear()
    start_detector(network_from_instance_plan(PLAN), PLAN, "", "", "cpu")
    start_detector(network_from_instance_plan(PLAN, freeze_at=2), PLAN, str(model), "", "cpu")
    assert "without weights" not in caplog.text


def test_two_sources_are_refused(model: Path) -> None:
    with pytest.raises(InputError, match=r"--pretrained .* with --backbone_ckpt"):
        start_detector(network_from_instance_plan(PLAN), PLAN, str(model), str(model), "cpu")


def test_trained_detector_is_that_of_the_file(model: Path, tmp_path: Path) -> None:
    network = trained_detector(network_from_instance_plan(PLAN), str(model), str(tmp_path), "cpu")
    expected = torch.load(model, weights_only=True)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in network.state_dict().items())


def test_several_models_are_refused(model: Path, tmp_path: Path) -> None:
    for fold in "01":
        (tmp_path / "folds" / fold).mkdir(parents=True)
        for name in ("model.pt", "plan.json"):
            (tmp_path / "folds" / fold / name).write_bytes((tmp_path / name).read_bytes())
    with pytest.raises(InputError, match="holds 2 models"):
        trained_detector(network_from_instance_plan(PLAN), str(tmp_path / "folds"), "", "cpu")


def test_compiling_the_backbone_keeps_names() -> None:
    network = network_from_instance_plan(PLAN)
    names = list(network.state_dict())
    assert list(with_compiled_backbone(network, True).state_dict()) == names
    backbone = network.get_submodule("backbone")
    assert backbone._compiled_call_impl is not None  # type: ignore[truthy-function]
    assert network_from_instance_plan(PLAN).get_submodule("backbone")._compiled_call_impl is None


def test_negative_limits_are_those_of_the_plan() -> None:
    plan = replace(PLAN, label_threshold=0.4, min_area=7)
    assert with_limits(plan, label_threshold=-1, min_area=-1) == plan
    assert with_limits(plan, label_threshold=0.0, min_area=20) == replace(plan, label_threshold=0.0, min_area=20)
    with pytest.raises(InputError, match="label_threshold"):
        with_limits(plan, label_threshold=1.5)
