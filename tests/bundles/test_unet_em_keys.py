"""Every key of the EM bundle changes what it says: in the component it reaches, or in the test that is named."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.bundle import ConfigParser, ConfigWorkflow

from bundle_commands import UNET_EM
from monai_ext.datasets.em_folds import slice_folds
from parsed_configs import Check, assert_every_key_is_shown, chain, fold, group, handler, part, plan


@pytest.fixture(scope="module")
def shared_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("shared_em")


@pytest.fixture
def configured(shared_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., ConfigParser]:
    monkeypatch.chdir(tmp_path)

    def configure(*files: str, **overrides: Any) -> ConfigParser:
        paths = [str(UNET_EM / name) for name in files or ("train.json", "tiny.json")]
        root = str(UNET_EM.parent)  # found by the workflow, which is not the caller here
        keys = {"bundle_root": root, "store_dir": str(shared_store), "affinity": "disabled", **overrides}
        workflow = ConfigWorkflow(config_file=paths, workflow_type="train", logging_file=False, **keys)
        workflow.initialize()
        return workflow.parser

    return configure


def tiles(p: ConfigParser) -> Any:
    return part("validate#inferer")(p).inferer


def spread(p: ConfigParser) -> float:
    """Standard deviation of a weight times the root of its fan-in: 1.41 for He, 1 or less else."""
    weight = part("network")(p).encoder[1][2].weight.detach()
    return float(weight.std()) * weight[0].numel() ** 0.5


def expected_fold(**options: Any) -> tuple[str, ...]:
    return slice_folds([f"slice {i:02d}" for i in range(10)], **options)[0].val


# key -> what is set, and what is true of the components then and not without it
CHANGES: dict[str, tuple[dict[str, Any], Check]] = {
    "fold": ({"fold": 1}, lambda p: fold(p).val != expected_fold()),
    "nfolds": ({"nfolds": 2}, lambda p: len(fold(p).val) == 5),
    "fold_seed": ({"fold_seed": 3}, lambda p: fold(p).val == expected_fold(fold_seed=3)),
    "fold_rule": ({"fold_rule": "legacy", "fold": 4}, lambda p: fold(p).val == legacy_fold()),
    "seed": ({"seed": 7}, lambda p: part("train#dataset")(p).seed == 7 and part("train#sampler")(p).seed == 7),
    "amp": ({"amp": False}, lambda p: part("train#inferer")(p).enabled is False),
    "compile": ({"compile": True}, lambda p: p.get_parsed_content("train#trainer#compile") is True),
    "channels_last": (
        {"channels_last": True},
        lambda p: part("network")(p).encoder[1][2].weight.is_contiguous(memory_format=torch.channels_last),
    ),
    "geometry": ({"geometry": "resize"}, lambda p: part("prepared")(p).train.images.shape[-1] == 76),
    "patch_size": ({"patch_size": [60, 64]}, lambda p: plan(p).input_size == (60, 64)),
    "base_features": ({"base_features": 3}, lambda p: part("network")(p).head.in_channels == 3),
    "levels": ({"levels": 1, "patch_size": [60]}, lambda p: len(part("network")(p).encoder) == 1),
    "upsampling": ({"upsampling": "conv3"}, lambda p: hasattr(part("network")(p).up[0], "conv")),
    "init": ({"init": "glorot", "base_features": 16}, lambda p: spread(p) < 1.2),
    "dropout": ({"dropout": 0.1}, lambda p: part("network")(p).bottleneck[1].p == 0.1),
    "batch_size": (
        {"batch_size": 3},
        lambda p: part("train#dataloader")(p).batch_size == 3 and part("train#sampler")(p).batch_size == 3,
    ),
    "max_epochs": ({"max_epochs": 3}, lambda p: part("train#trainer")(p).state.max_epochs == 3),
    "min_epochs": ({"min_epochs": 1}, lambda p: part("validate#schedule")(p).min_epochs == 1),
    "max_minutes": ({"max_minutes": 5}, lambda p: part("budget")(p).max_minutes == 5),
    "epoch_length": ({"epoch_length": 7}, lambda p: part("train#trainer")(p).state.epoch_length == 7),
    "val_interval": ({"val_interval": 4, "max_epochs": 4}, lambda p: part("validate#schedule")(p).interval == 4),
    "val_start_epoch": (
        {"val_start_epoch": 2, "max_epochs": 4},
        lambda p: part("validate#schedule")(p).start_epoch == 2,
    ),
    "patience": ({"patience": 3}, lambda p: part("validate#schedule")(p).patience == 3),
    "optimizer": ({"optimizer": "adam_l2"}, lambda p: type(part("optimizer_def")(p)) is torch.optim.Adam),
    "learning_rate": ({"learning_rate": 0.5}, lambda p: group(p)["lr"] == 0.5),
    "weight_decay": ({"weight_decay": 0.25}, lambda p: group(p)["weight_decay"] == 0.25),
    "eps": ({"eps": 1e-7}, lambda p: group(p)["eps"] == 1e-7),
    "momentum": ({"momentum": 0.5, "optimizer": "sgd"}, lambda p: group(p).get("momentum") == 0.5),
    "nesterov": ({"nesterov": False, "optimizer": "sgd"}, lambda p: group(p)["nesterov"] is False),
    "scheduler": ({"scheduler": "poly"}, lambda p: part("lr_scheduler_def")(p).kind == "poly"),
    "warmup": ({"warmup": 0.5}, lambda p: part("lr_scheduler_def")(p).warmup == 0.5),
    "lr_factor": ({"lr_factor": 0.1}, lambda p: part("lr_scheduler_def")(p).factor == 0.1),
    "lr_steps": ({"lr_steps": [0.25]}, lambda p: part("lr_scheduler_def")(p).milestones == (0.25,)),
    "lr_patience": ({"lr_patience": 3}, lambda p: part("lr_scheduler_def")(p).patience == 3),
    "grad_clip": ({"grad_clip": 3}, lambda p: handler("GradientClip")(p).max_norm == 3),
    "max_bad_steps": ({"max_bad_steps": 3}, lambda p: handler("FiniteLoss")(p).max_bad_steps == 3),
    "ema_decay": ({"ema_decay": 0.5}, lambda p: part("average")(p).decay == 0.5),
    "augment": ({"augment": False}, lambda p: len(chain(p)) == 1),
    "roi_size": ({"roi_size": [60]}, lambda p: tiles(p).input_size == (60, 60)),
    "overlap": ({"overlap": 0.5}, lambda p: tiles(p).overlap == 0.5),
    "blend": ({"blend": "constant"}, lambda p: tiles(p).blend == "constant"),
    "sw_batch_size": ({"sw_batch_size": 7}, lambda p: tiles(p).sw_batch_size == 7),
    "pred_format": ({"pred_format": "labels"}, lambda p: part("predict#outputs")(p).pred_format == "labels"),
    "num_workers": ({"num_workers": 1}, lambda p: part("train#dataloader")(p).num_workers == 1),
    "log_interval": ({"log_interval": 3}, lambda p: part("train#progress")(p).log_interval == 3),
    "profile": ({"profile": "trace"}, lambda p: handler("Profile")(p).kind == "trace"),
}
# keys whose effect shows only when a command runs, or needs data of its own
ELSEWHERE = {
    "onnx_path": "engines/test_onnx_inference.py::test_foreign_file_is_checked_by_its_shapes",
    "providers": "bundles/test_inference_ort.py::test_volumes",
    "onnx_threads": "inferers/test_onnx_network.py::test_threads",
    "dataset_dir": "bundles/test_unet_em_training.py::test_real_stack_is_trained_evaluated_and_predicted",
    "output_dir": "bundles/test_unet_em_training.py::test_stopped_training_goes_on_as_if_it_had_not_stopped",
    "store_dir": "bundles/test_unet_em_training.py::test_training_leaves_what_it_says",
    "log_file": "bundles/test_unet_em_training.py::test_training_leaves_what_it_says",
    "input": "bundles/test_unet_em_prediction.py::test_stack_of_probabilities",
    "ckpt_path": "bundles/test_unet_em_prediction.py::test_folds_are_averaged",
    "resume": "bundles/test_unet_em_training.py::test_stopped_training_goes_on_as_if_it_had_not_stopped",
    "overwrite": "bundles/test_unet_em_prediction.py::test_labels_of_8_bits_and_no_silent_overwriting",
    "cv_folds": "bundles/test_unet_em_cross_validation.py::test_folds_are_trained_and_averaged",
    "device": "engines/test_run_folder.py",
    "affinity": "cpu_affinity/test_pinning.py::test_real_processes_and_their_loader_workers_are_pinned",
    "amp_dtype": "bundles/test_unet_em_keys.py::test_type_of_mixed_precision_reaches_the_engines",
    "max_steps": "bundles/test_unet_em_keys.py::test_steps_become_epochs",
    "tta": "bundles/test_unet_em_prediction.py::test_views_change_the_prediction",
    "thresholds": "bundles/test_unet_em_training.py::test_evaluation_reports_every_score",
    "benchmark": "bundles/test_unet_em_benchmark.py::test_benchmark_key_times_instead_of_training",
    "warmup_steps": "bundles/test_unet_em_benchmark.py::test_benchmark_key_times_instead_of_training",
    "bench_batches": "bundles/test_unet_em_benchmark.py::test_benchmark_key_times_instead_of_training",
    "results_file": "bundles/test_unet_em_benchmark.py::test_benchmark_key_times_instead_of_training",
}


def legacy_fold() -> tuple[str, ...]:
    """Of ten slices: the legacy rule turns by one slice a fold, the disjoint one by two."""
    return slice_folds([f"slice {i:02d}" for i in range(10)], fold_rule="legacy")[4].val


@pytest.mark.parametrize("key", sorted(CHANGES))
def test_key_changes_what_it_says(key: str, configured: Callable[..., ConfigParser]) -> None:
    overrides, holds = CHANGES[key]
    assert holds(configured(**overrides))
    without = {k: v for k, v in overrides.items() if k != key}
    assert not holds(configured(**without, output_dir="default"))


def test_every_key_is_shown_to_work() -> None:
    assert_every_key_is_shown(UNET_EM, CHANGES, ELSEWHERE)


def test_type_of_mixed_precision_reaches_the_engines(configured: Callable[..., ConfigParser]) -> None:
    parser = configured(amp_dtype="float16")
    for engine in ("train#trainer", "validate#evaluator"):
        assert parser.get_parsed_content(engine).amp_kwargs["dtype"] is torch.float16


def test_steps_become_epochs(configured: Callable[..., ConfigParser]) -> None:
    """6400 steps in epochs of 50 are 128; a rest is rounded up."""
    assert configured("train.json", max_steps=6400).get_parsed_content("max_epochs") == 128
    assert configured("train.json", max_steps=6401).get_parsed_content("max_epochs") == 129
    recipe = configured("train.json", "recipe_nvidia_2021.json")
    assert recipe.get_parsed_content("max_epochs") == 128


def test_recipe_of_nvidia(configured: Callable[..., ConfigParser]) -> None:
    """The published settings, component by component."""
    files = ("train.json", "recipe_nvidia_2021.json", "tiny.json")
    parser = configured(*files, patch_size=[188], levels=4, batch_size=8)
    optimizer = part("optimizer_def")(parser)
    assert type(optimizer) is torch.optim.Adam
    settings = {name: group(parser)[name] for name in ("lr", "weight_decay", "eps", "betas")}
    assert settings == {"lr": 1e-4, "weight_decay": 5e-4, "eps": 1e-7, "betas": (0.9, 0.999)}
    assert len(optimizer.param_groups) == 1  # biases decay too
    schedule = part("lr_scheduler_def")(parser)
    assert {schedule.scale(p) for p in (0, 0.5, 1)} == {1.0}
    assert part("average")(parser).decay == 0
    assert handler("GradientClip")(parser).max_norm == 0
    assert plan(parser).geometry == "resize"
    assert plan(parser).upsampling == "conv3"
    assert [type(t).__name__ for t in chain(parser)] == [
        "RandMirrord", "RandCropResized", "RandBrightnessShiftd", "CenterSpatialCropd",
    ]  # fmt: skip
    sample = part("train#dataset")(parser)[(0, 0, 0)]
    assert sample["image"].shape == (1, 188, 188)
    assert sample["label"].shape == (1, 4, 4)
    assert sample["image"].abs().max() <= 1
    overlay = json.loads((UNET_EM / "recipe_nvidia_2021.json").read_text())
    published = {
        "patch_size": [572],
        "base_features": 64,
        "batch_size": 8,
        "dropout": 0.5,
        "init": "glorot",
        "levels": 4,
    }
    assert {name: overlay[name] for name in published} == published


def test_recipe_of_the_paper(configured: Callable[..., ConfigParser]) -> None:
    parser = configured("train.json", "recipe_paper_2015.json", "tiny.json", patch_size=[188], levels=4)
    assert type(part("optimizer_def")(parser)) is torch.optim.SGD
    assert group(parser)["momentum"] == 0.99
    assert plan(parser).upsampling == "conv2"
    assert plan(parser).geometry == "tile"
    sample = part("train#dataset")(parser)[(0, 0, 0)]
    assert sample["image"].shape == (1, 188, 188)
    assert sample["label"].shape == (1, 4, 4)
