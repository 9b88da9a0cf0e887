"""The recipes of the nnU-Net bundle: what each one sets, and that they train."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from monai.bundle import ConfigParser

from bundle_commands import NNUNET, bundle_run
from monai_ext.planning.plan import Plan

RECIPES = ("recipe_nvidia_2021.json", "recipe_nnunet_v2.json", "recipe_fast.json")
OVERLAYS = (*RECIPES, "evaluate.json", "tiny.json")


def merged(*names: str) -> ConfigParser:
    parser = ConfigParser()
    parser.read_config([str(NNUNET / name) for name in names])
    return parser


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_overlay_starts_as_the_base_does_and_adds_no_key(overlay: str) -> None:
    base, changes = merged("train.json").get(), json.loads((NNUNET / overlay).read_text())
    assert changes["initialize"] == base["initialize"]
    assert {key.split("#")[0] for key in changes} <= set(base)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_overlay_alone_is_refused_with_the_reason(tmp_path: Path, overlay: str) -> None:
    done = bundle_run(tmp_path, "training", overlay)
    assert done.status == 1
    assert f"{overlay}: changes train.json and does not run without it" in done.err
    assert "Cure: give both" in done.err
    assert "Traceback" not in done.err


@pytest.mark.parametrize("spatial_dims", [2, 3])
@pytest.mark.parametrize("recipe", RECIPES)
def test_recipe_trains(tmp_path: Path, recipe: str, spatial_dims: int) -> None:
    patch = "[16, 16]" if spatial_dims == 2 else "[16, 16, 16]"
    options = {"spatial_dims": spatial_dims, "patch_size": patch, "max_minutes": 0, "output_dir": "run"}
    options |= {"overlap": 0, "test_batches": 1}
    done = bundle_run(tmp_path, "train_and_evaluate", "train.json", recipe, "tiny.json", **options)
    assert done.status == 0, done.err
    assert (tmp_path / "run" / "evaluation" / "summary.json").exists()
    state = torch.load(tmp_path / "run" / "last.pt", weights_only=True)
    assert state["iteration"] == 2
    plan = Plan.load(tmp_path / "run" / "plan.json")
    assert plan.crop == ("positive" if "nvidia" in recipe else "nonzero")
    assert bool(plan.mirror_axes) == ("fast" not in recipe)


def test_nvidia_recipe_takes_the_published_patch_and_spacing_of_its_task() -> None:
    parser = merged("train.json", "recipe_nvidia_2021.json")
    parser["dataset_dir"] = "/somewhere/Task05_Prostate"
    assert parser.get_parsed_content("task") == "05"
    parser = merged("train.json", "recipe_nvidia_2021.json")
    parser["dataset_dir"] = "/somewhere/mine"
    assert parser.get_parsed_content("task") == ""


def test_recipes_augment_differently() -> None:
    """The list of 2021 zooms in and never rotates; that of v2 rotates where the patch is read."""
    v2, nvidia = (
        merged("train.json", "recipe_nnunet_v2.json").get(),
        merged("train.json", "recipe_nvidia_2021.json").get(),
    )
    names = {
        name: [t["_target_"].split(".")[-1] for t in c["augmentation"]] for name, c in (("v2", v2), ("nv", nvidia))
    }
    assert names["nv"] == ["RandZoomInd", "RandMirrord", "RandNoised", "RandBlurd", "RandBrightnessd", "RandContrastd"]
    assert names["v2"].count("RandGammad") == 2
    assert nvidia["spatial_augmentation"] == "$None"
    assert v2["spatial_augmentation"]["_target_"].endswith("SpatialDraw")
