"""Every key of the nnU-Net bundle changes what it says: in the component it reaches, or in the test that is named."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.bundle import ConfigParser, ConfigWorkflow

from bundle_commands import NNUNET
from monai_ext.datasets.folds import make_folds
from monai_ext.engines.device_augmentation import DeviceAugmentation
from monai_ext.engines.preparation import prepare_part
from monai_ext.networks.norm_act import NormAct
from monai_ext.ops import forms
from parsed_configs import Check, assert_every_key_is_shown, chain, fold, group, handler, part, plan


@pytest.fixture(scope="module")
def shared_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("shared")


@pytest.fixture
def configured(
    shared_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., ConfigParser]]:
    monkeypatch.chdir(tmp_path)

    def configure(**overrides: Any) -> ConfigParser:
        files = [str(NNUNET / name) for name in ("train.json", "tiny.json")]
        root = str(NNUNET.parent)  # found by the workflow, which is not the caller here
        keys = {"bundle_root": root, "store_dir": str(shared_store), "affinity": "disabled", **overrides}
        workflow = ConfigWorkflow(config_file=files, workflow_type="train", logging_file=False, **keys)
        workflow.initialize()
        return workflow.parser

    yield configure
    forms.choose("auto")


def modules(p: ConfigParser) -> set[str]:
    return {type(module).__name__ for module in part("network")(p).modules()}


SLICES = {"spatial_dims": 2, "patch_size": [16, 16], "batch_size": 4}
# key -> what is set, and what is true of the components then and not without it
CHANGES: dict[str, tuple[dict[str, Any], Check]] = {
    "log_file": ({"log_file": "other.jsonl"}, lambda p: str(part("train#progress")(p).log_file) == "other.jsonl"),
    "fold": (
        {"fold": 1},
        lambda p: fold(p).val == make_folds([c.name for c in part("source")(p).dataset.training])[1].val,
    ),
    "nfolds": ({"nfolds": 10}, lambda p: len(fold(p).val) == 2),
    "seed": ({"seed": 7}, lambda p: part("train#dataset")(p).seed == part("train#sampler")(p).seed == 7),
    "amp": ({"amp": False}, lambda p: not part("train#inferer")(p).enabled),
    "compile": ({"compile": True}, lambda p: part("train#trainer")(p).compile),
    "channels_last": (
        {"channels_last": False},
        lambda p: all(w.is_contiguous() for w in part("network")(p).parameters()),
    ),
    "fused_ops": ({"fused_ops": False}, lambda p: forms.chosen() == "torch"),
    "augment_on": (
        {"augment_on": "device", "num_workers": 0},
        lambda p: (
            isinstance(part("train#dataloader")(p), DeviceAugmentation)
            and next(iter(part("train#dataloader")(p)))["image"].shape[2:] == plan(p).patch_size
        ),
    ),
    "keep_output": (
        {"keep_output": True},
        lambda p: all(m.keep_output for m in part("network")(p).modules() if isinstance(m, NormAct)),
    ),
    "spatial_dims": (SLICES, lambda p: "Conv2d" in modules(p) and "Conv3d" not in modules(p)),
    "slice_axis": ({**SLICES, "slice_axis": 2}, lambda p: plan(p).slice_axis == 2),
    "nvol": (
        {**SLICES, "nvol": 2},
        lambda p: (
            next(iter(part("train#dataloader")(p)))["image"].shape == (4, 1, 16, 16)
            and part("train#crop")(p).slices == 2
        ),
    ),
    "base_features": ({"base_features": 6}, lambda p: plan(p).features[0] == 6),
    "spacing": ({"spacing": [2.0, 2.0, 2.0]}, lambda p: plan(p).spacing == (2.0, 2.0, 2.0)),
    "resample": ({"resample": False}, lambda p: not plan(p).resample),
    "crop": ({"crop": "none"}, lambda p: plan(p).crop == "none"),
    "dilation": ({"dilation": True}, lambda p: plan(p).label_closing),
    "patch_size": ({"patch_size": [24, 16, 16]}, lambda p: sorted(plan(p).patch_size) == [16, 16, 24]),
    "batch_size": ({"batch_size": 3}, lambda p: next(iter(part("train#dataloader")(p)))["image"].shape[0] == 3),
    "norm": ({"norm": "batch"}, lambda p: "BatchNorm3d" in modules(p)),
    "negative_slope": (
        {"negative_slope": 0.2},
        lambda p: any(getattr(m, "negative_slope", 0) == 0.2 for m in part("network")(p).modules()),
    ),
    "res_block": ({"res_block": True}, lambda p: "ResidualBlock" in modules(p)),
    "deep_supervision": ({"deep_supervision": False}, lambda p: not part("network")(p).deep_supervision),
    "up_init": ({"up_init": "kaiming"}, lambda p: _spread(part("network")(p).decoder[0].up.weight) > 1),
    "max_epochs": ({"max_epochs": 9}, lambda p: part("train#trainer")(p).state.max_epochs == 9),
    "min_epochs": ({"min_epochs": 1}, lambda p: part("validate#schedule")(p).min_epochs == 1),
    "max_minutes": ({"max_minutes": 3}, lambda p: part("budget")(p).max_minutes == 3),
    "epoch_length": ({"epoch_length": 5}, lambda p: part("train#trainer")(p).state.epoch_length == 5),
    "train_batches": ({"train_batches": 1}, lambda p: part("train#trainer")(p).state.epoch_length == 1),
    "test_batches": ({"test_batches": 1}, lambda p: len(part("validate#dataset")(p)) == 1),
    "val_interval": ({"val_interval": 4}, lambda p: part("validate#schedule")(p).interval == 4),
    "val_start_epoch": (
        {"val_start_epoch": 3, "max_epochs": 4},
        lambda p: part("validate#schedule")(p).start_epoch == 3,
    ),
    "patience": ({"patience": 6}, lambda p: part("validate#schedule")(p).patience == 6),
    "optimizer": ({"optimizer": "radam"}, lambda p: type(part("optimizer_def")(p)).__name__ == "RAdam"),
    "learning_rate": ({"learning_rate": 0.5}, lambda p: part("lr_scheduler_def")(p).peaks == [0.5]),
    "weight_decay": ({"weight_decay": 0.5}, lambda p: group(p)["weight_decay"] == 0.5),
    "momentum": ({"optimizer": "sgd", "momentum": 0.5}, lambda p: group(p).get("momentum") == 0.5),
    "nesterov": ({"optimizer": "sgd", "nesterov": False}, lambda p: group(p).get("nesterov") is False),
    "scheduler": ({"scheduler": "poly"}, lambda p: part("lr_scheduler_def")(p).kind == "poly"),
    "warmup": ({"warmup": 0.5}, lambda p: part("lr_scheduler_def")(p).scale(0.25) == 0.5),
    "lr_factor": ({"lr_factor": 0.5}, lambda p: part("lr_scheduler_def")(p).factor == 0.5),
    "lr_steps": ({"lr_steps": [0.1]}, lambda p: part("lr_scheduler_def")(p).milestones == (0.1,)),
    "lr_patience": ({"lr_patience": 3}, lambda p: part("lr_scheduler_def")(p).patience == 3),
    "grad_clip": ({"grad_clip": 3}, lambda p: handler("GradientClip")(p).max_norm == 3),
    "max_bad_steps": ({"max_bad_steps": 3}, lambda p: handler("FiniteLoss")(p).max_bad_steps == 3),
    "ema_decay": ({"ema_decay": 0.5}, lambda p: part("average")(p).decay == 0.5),
    "class_weights": ({"class_weights": [1, 2, 3]}, lambda p: part("loss")(p).loss.class_weights is not None),
    "focal": ({"focal": True}, lambda p: part("loss")(p).loss.focal_gamma == 2),
    "batch_dice": ({"batch_dice": True}, lambda p: part("loss")(p).loss.batch_dice is True),
    "oversampling": ({"oversampling": 1.0}, lambda p: part("train#crop")(p).oversampling == 1),
    "crop_mode": ({"crop_mode": "per_sample"}, lambda p: part("train#crop")(p).mode == "per_sample"),
    "mirror": ({"mirror": 0.5}, lambda p: any(type(t).__name__ == "RandMirrord" for t in chain(p))),
    "overlap": ({"overlap": 0.25}, lambda p: part("validate#inferer")(p).overlap == 0.25),
    "blend": ({"blend": "constant"}, lambda p: part("validate#inferer")(p).blend == "constant"),
    "sw_batch_size": ({"sw_batch_size": 7}, lambda p: part("validate#inferer")(p).sw_batch_size == 7),
    "skip_even": ({"skip_even": False}, lambda p: part("validate#inferer")(p).skip_even is False),
    "tta": ({"tta": True, "mirror": 0.5}, lambda p: part("validate#inferer")(p).mirror_axes == (0, 1, 2)),
    "num_workers": ({"num_workers": 1}, lambda p: part("train#dataloader")(p).num_workers == 1),
    "log_interval": ({"log_interval": 3}, lambda p: part("train#progress")(p).log_interval == 3),
}
# keys whose effect shows only when a command runs, or needs data of its own
ELSEWHERE = {
    "onnx_path": "engines/test_onnx_inference.py::test_foreign_file_is_checked_by_its_shapes",
    "providers": "bundles/test_inference_ort.py::test_volumes",
    "onnx_threads": "inferers/test_onnx_network.py::test_threads",
    "dataset_dir": "bundles/test_nnunet_slices.py::test_images_are_trained_evaluated_and_predicted",
    "output_dir": "bundles/test_nnunet_training.py::test_same_seed_same_training_whatever_the_workers",
    "store_dir": "engines/test_preparation.py::test_second_run_does_nothing",
    "input": "bundles/test_nnunet_prediction.py::test_inference_needs_only_model_and_plan",
    "ckpt_path": "bundles/test_nnunet_prediction.py::test_inference_needs_only_model_and_plan",
    "resume": "bundles/test_nnunet_training.py::test_stopped_training_goes_on_as_if_it_had_not_stopped",
    "overwrite": "engines/test_preparation.py::test_overwritten_training_is_set_aside",
    "fold_seed": "datasets/test_folds.py::test_seed_changes_the_split",
    "group_by": "datasets/test_folds.py::test_groups_are_read_from_a_table",
    "splits_file": "datasets/test_folds.py::test_file_of_splits_wins",
    "cv_folds": "bundles/test_nnunet_cross_validation.py::test_mistakes_are_told_before_any_fold_starts",
    "device": "bundles/test_nnunet_keys.py::test_device_that_does_not_exist_is_refused",
    "affinity": "cpu_affinity/test_pinning.py::test_real_processes_and_their_loader_workers_are_pinned",
    "amp_dtype": "bundles/test_nnunet_keys.py::test_type_of_mixed_precision_reaches_the_engines",
    "data2d_dim": "bundles/test_nnunet_slices.py::test_images_need_a_2d_network_and_one_size",
    "mixed_sizes": "bundles/test_nnunet_slices.py::test_images_need_a_2d_network_and_one_size",
    "task": "engines/test_preparation.py::test_named_plan_of_a_published_task",
    "plan_file": "bundles/test_nnunet_prediction.py::test_network_options_travel_with_the_plan",
    "memory_gb": "planning/test_planner.py::test_memory_and_width_shrink_the_patch",
    "sync_bn": "networks/test_sync_batch_norm.py",
    "save_preds": "bundles/test_nnunet_cross_validation.py::test_evaluation_decides_and_inference_applies",
    "pred_format": "engines/test_prediction_outputs.py::test_arrays_hold_probabilities_in_canonical_axes",
    "segment_codes": "engines/test_prediction_outputs.py::test_classes_are_coded_as_the_file_says",
    "postprocess": "bundles/test_nnunet_cross_validation.py::test_evaluation_decides_and_inference_applies",
    "probabilities": "engines/test_prediction_outputs.py::test_probabilities_count_too",
    "tolerance_mm": "bundles/test_nnunet_keys.py::test_tolerance_reaches_the_report",
    "profile": "bundles/test_nnunet_benchmark.py::test_profile_writes_a_trace_beside_the_curves",
    "warmup_steps": "bundles/test_nnunet_benchmark.py::test_benchmarks_time_the_bundle_and_leave_no_model",
    "bench_batches": "bundles/test_nnunet_benchmark.py::test_benchmarks_time_the_bundle_and_leave_no_model",
    "results_file": "bundles/test_nnunet_benchmark.py::test_benchmarks_time_the_bundle_and_leave_no_model",
    "part": "bundles/test_nnunet_keys.py::test_parts_are_prepared",
}


def _spread(weight: torch.Tensor) -> float:
    """Standard deviation of a transposed convolution times the root of its fan-in: 1.41 for Kaiming, 0.58 else."""
    return float(weight.detach().std()) * weight[0].numel() ** 0.5


@pytest.mark.parametrize("key", sorted(CHANGES))
def test_key_changes_what_it_says(key: str, configured: Callable[..., ConfigParser]) -> None:
    overrides, holds = CHANGES[key]
    assert holds(configured(**overrides))
    without = {k: v for k, v in overrides.items() if k != key}
    if key == "spatial_dims":
        without["patch_size"] = [16, 16, 16]
    assert not holds(configured(**without, output_dir="default"))


def test_every_key_is_shown_to_work() -> None:
    assert_every_key_is_shown(NNUNET, CHANGES, ELSEWHERE)


def test_device_that_does_not_exist_is_refused(configured: Callable[..., ConfigParser]) -> None:
    parser = configured(device="cuda:77", amp=False, batch_size=2, base_features=4)
    with pytest.raises(Exception, match=r"cuda:77|evaluate"):
        parser.get_parsed_content("training#0")


def test_type_of_mixed_precision_reaches_the_engines(configured: Callable[..., ConfigParser]) -> None:
    parser = configured(amp_dtype="float16")
    for engine in ("train#trainer", "validate#evaluator"):
        assert parser.get_parsed_content(engine).amp_kwargs["dtype"] is torch.float16


def test_tolerance_reaches_the_report(configured: Callable[..., ConfigParser]) -> None:
    assert configured(tolerance_mm=3.5).get_parsed_content("evaluate#outputs#tolerance_mm") == 3.5


@pytest.mark.parametrize(("name", "number"), [("training", 20), ("val", 4), ("test", 2)])
def test_parts_are_prepared(configured: Callable[..., ConfigParser], name: str, number: int) -> None:
    parser = configured(part=name)
    preparation = parser.get_parsed_content("preprocessing#1")
    assert preparation is None  # it prints the folder
    store = prepare_part(part("prepared")(parser), str(parser["store_dir"]), name)
    assert len(store.names) == number
    assert all((store.load(case).label is None) == (name == "test") for case in store.names)
