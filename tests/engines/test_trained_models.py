"""One model or the folds of a cross-validation, by the example of the EM bundle."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from monai_ext.engines.em_inference import (
    plan_of_models,
    trained_network,
)
from monai_ext.engines.trained_models import common_plan, find_models
from monai_ext.errors import InputError
from monai_ext.networks.ensemble import ProbabilityMean
from monai_ext.networks.valid_unet import ValidUNet, network_from_em_plan
from monai_ext.planning.em_plan import EmPlan

PLAN = EmPlan("stack", "tile", (60, 60), (0.0, 255.0), 2, 2)


@pytest.fixture
def folds(tmp_path: Path) -> Path:
    """A folder of two folds with different weights."""
    for fold in range(2):
        torch.manual_seed(fold)
        folder = tmp_path / "folds" / str(fold)
        folder.mkdir(parents=True)
        torch.save(network_from_em_plan(PLAN).state_dict(), folder / "model.pt")
        (folder / "plan.json").write_text(PLAN.to_json())
    return tmp_path / "folds"


def test_models_are_found(folds: Path, tmp_path: Path) -> None:
    models = [str(folds / fold / "model.pt") for fold in "01"]
    assert find_models(str(folds), "") == models
    assert find_models(str(folds / "1"), "") == models[1:]
    assert find_models(models[0], "") == models[:1]
    assert find_models(models, "") == models
    with pytest.raises(InputError, match=r"none\.pt: model not found"):
        find_models([models[0], str(tmp_path / "none.pt")], "")


def test_ensemble_and_single_model(folds: Path) -> None:
    single = trained_network(network_from_em_plan(PLAN), str(folds / "0"), "")
    both = trained_network(network_from_em_plan(PLAN), str(folds), "")
    assert isinstance(single, ValidUNet)
    assert isinstance(both, ProbabilityMean)
    x = torch.randn(1, 1, 60, 60)
    other = trained_network(network_from_em_plan(PLAN), str(folds / "1"), "").eval()
    expected = (single.eval()(x).softmax(1) + other(x).softmax(1)) / 2
    torch.testing.assert_close(both.eval()(x).softmax(1), expected)


def test_models_of_different_plans_are_refused(folds: Path) -> None:
    assert plan_of_models(str(folds), "") == PLAN
    (folds / "1" / "plan.json").write_text(EmPlan("stack", "resize", (60, 60), (0.0, 255.0), 2, 2).to_json())
    with pytest.raises(InputError, match="trained with another plan than"):
        common_plan(EmPlan, find_models(str(folds), ""), "")


def test_default_plan_where_nothing_is_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    bundle = Path(__file__).parents[2] / "bundles" / "unet_em"
    assert plan_of_models("", str(bundle)).base_features == 64
    with pytest.raises(InputError, match="model not found"):
        plan_of_models("none.pt", str(bundle))


def test_only_folds_make_an_ensemble(folds: Path) -> None:
    """Runs that were set aside, or were trained on every slice, are no folds."""
    for name in ("previous-1", "all"):
        shutil.copytree(folds / "0", folds / name)
    assert len(find_models(str(folds), "")) == 2
