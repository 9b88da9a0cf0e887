"""Every key of the classification bundle changes what it says: in the component it reaches, or in the test named."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.bundle import ConfigParser, ConfigWorkflow

from bundle_commands import SE_RESNEXT
from monai_ext.datasets.class_folds import choose_class_fold
from monai_ext.engines.sample_stream import SampleStream
from monai_ext.networks.fake_quantisation import is_fake_quantised
from monai_ext.ops import forms
from parsed_configs import Check, assert_every_key_is_shown, chain, fold, group, handler, part, plan

TABLE = {"fold_rule": "drawn"}  # the phantom has a split of its own


@pytest.fixture(scope="module")
def shared_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("shared_class")


@pytest.fixture
def configured(shared_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., ConfigParser]:
    monkeypatch.chdir(tmp_path)

    def configure(*files: str, **overrides: Any) -> ConfigParser:
        paths = [str(SE_RESNEXT / name) for name in files or ("train.json", "tiny.json")]
        root = str(SE_RESNEXT.parent)  # found by the workflow, which is not the caller here
        keys = {"bundle_root": root, "store_dir": str(shared_store), "affinity": "disabled", **overrides}
        workflow = ConfigWorkflow(config_file=paths, workflow_type="train", logging_file=False, **keys)
        workflow.initialize()
        return workflow.parser

    return configure


@pytest.fixture(autouse=True)
def _forms_as_before() -> Any:
    before = forms.chosen()
    yield
    forms.choose(before)


def network(p: ConfigParser) -> Any:
    return part("network")(p)


def first_fold(p: ConfigParser) -> tuple[str, ...]:
    """Validation cases of fold 0 of those drawn."""
    source = part("prepared")(p).source
    return choose_class_fold(source.dataset, 0, 5, 12345, "drawn", source.groups).val


def first_norm_of_last_block(p: ConfigParser) -> float:
    return float(network(p).layer4[-1].conv3.adn.N.weight.detach().abs().max())


def transform(name: str) -> Callable[[ConfigParser], Any]:
    return lambda p: next((t for t in chain(p) if type(t).__name__ == name), None)


crop, flip = transform("RandResizedCropd"), transform("RandMirrord")
turn, jitter = transform("RandRightAngleTurnd"), transform("RandColourJitterd")
mixing = part("mixing")


# key -> what is set, and what is true of the components then and not without it
CHANGES: dict[str, tuple[dict[str, Any], Check]] = {
    "fold": ({"fold": 1, **TABLE}, lambda p: fold(p).val != first_fold(p)),
    "nfolds": ({"nfolds": 2, **TABLE}, lambda p: len(fold(p).val) == 160),
    "fold_rule": (TABLE, lambda p: len(fold(p).val) == 64),
    "group_by": (
        {"group_by": r"name:_(\d+)", **TABLE},
        lambda p: all(f"{n.split('/')[0]}/discs/discs_{n[-7:]}" in fold(p).val for n in fold(p).val),
    ),
    "multi_label": ({"multi_label": True}, lambda p: plan(p).multi_label),
    "seed": ({"seed": 7}, lambda p: part("train#dataset")(p).seed == 7 and part("train#sampler")(p).seed == 7),
    "amp": ({"amp": False}, lambda p: part("train#inferer")(p).enabled is False),
    "loss_scale": ({"loss_scale": 128}, lambda p: handler("LossScale")(p).loss_scale == 128),
    "compile": ({"compile": True}, lambda p: p.get_parsed_content("train#trainer#compile") is True),
    "channels_last": (
        {"channels_last": False},
        lambda p: not network(p).layer0.conv1.weight.is_contiguous(memory_format=torch.channels_last),
    ),
    "fused_ops": ({"fused_ops": False}, lambda p: forms.chosen() == "torch"),
    "arch": ({"arch": "resnet50"}, lambda p: plan(p).groups == 1 and plan(p).se_ratio == 0),
    "layers": ({"layers": [1, 2, 1, 1]}, lambda p: len(network(p).layer2) == 2),
    "base_features": ({"base_features": 16}, lambda p: network(p).layer0.conv1.out_channels == 16),
    "se_hidden": ({"se_hidden": 5}, lambda p: network(p).layer4[0].se_layer.fc[0].out_features == 5),
    "stem_pool": ({"stem_pool": "none"}, lambda p: isinstance(network(p).layer0.pool, torch.nn.Identity)),
    "final_conv": ({"final_conv": True}, lambda p: isinstance(network(p).last_linear, torch.nn.Conv2d)),
    "conv_init": (
        {"conv_init": "truncated"},
        # a truncated normal has no value beyond two of its own deviations, some of 1024 normal ones are
        lambda p: bool(_spread(network(p).layer4[0].conv1.conv.weight) < 2.4),
    ),
    "zero_init_last_norm": ({"zero_init_last_norm": True}, lambda p: first_norm_of_last_block(p) == 0),
    "drop_path": ({"drop_path": 0.5}, lambda p: any(getattr(m, "chance", 0) == 0.5 for m in network(p).modules())),
    "dropout": ({"dropout": 0.25}, lambda p: "p=0.25" in str(network(p))),
    "image_size": ({"image_size": [48, 40]}, lambda p: plan(p).image_size == (48, 40)),
    "channels": ({"channels": 1}, lambda p: plan(p).channels == network(p).layer0.conv1.in_channels == 1),
    "mean": ({"mean": [0.1, 0.2, 0.3], "std": [1, 1, 1]}, lambda p: plan(p).mean == (0.1, 0.2, 0.3)),
    "std": ({"std": [0.5, 0.5, 0.5], "mean": [0, 0, 0]}, lambda p: plan(p).std == (0.5, 0.5, 0.5)),
    "crop_ratio": ({"crop_ratio": 1.0}, lambda p: part("validate#dataset")(p).transform.crop_ratio == 1),
    "interpolation": ({"interpolation": "bicubic"}, lambda p: plan(p).interpolation == "bicubic"),
    "batch_size": (
        {"batch_size": 3},
        lambda p: part("train#dataloader")(p).batch_size == 3 and part("train#sampler")(p).batch_size == 3,
    ),
    "max_steps": ({"max_steps": 9}, lambda p: part("budget")(p).max_steps == 9),
    "max_epochs": ({"max_epochs": 3}, lambda p: part("train#trainer")(p).state.max_epochs == 3),
    "run_epochs": ({"run_epochs": 1}, lambda p: handler("SessionLimit")(p).run_epochs == 1),
    "min_epochs": ({"min_epochs": 1}, lambda p: part("validate#schedule")(p).min_epochs == 1),
    "max_minutes": ({"max_minutes": 5}, lambda p: part("budget")(p).max_minutes == 5),
    "epoch_length": ({"epoch_length": 7}, lambda p: part("train#trainer")(p).state.epoch_length == 7),
    "val_interval": ({"val_interval": 4, "max_epochs": 4}, lambda p: part("validate#schedule")(p).interval == 4),
    "val_start_epoch": (
        {"val_start_epoch": 2, "max_epochs": 4},
        lambda p: part("validate#schedule")(p).start_epoch == 2,
    ),
    "patience": ({"patience": 3}, lambda p: part("validate#schedule")(p).patience == 3),
    "key_score": (
        {"key_score": "macro_roc_auc"},
        lambda p: (
            list(part("validate#evaluator")(p).key_metric_names) == ["macro_roc_auc"]
            if hasattr(part("validate#evaluator")(p), "key_metric_names")
            else part("validate#evaluator")(p).state.key_metric_name == "macro_roc_auc"
        ),
    ),
    "optimizer": ({"optimizer": "adamw"}, lambda p: type(part("optimizer_def")(p)) is torch.optim.AdamW),
    "learning_rate": ({"learning_rate": 0.5}, lambda p: group(p)["lr"] == 0.5),
    "weight_decay": ({"weight_decay": 0.25}, lambda p: group(p)["weight_decay"] == 0.25),
    "decay_biases": (
        {"decay_biases": True},
        lambda p: any(t is network(p).last_linear.bias for t in group(p)["params"]),
    ),
    "layer_decay": ({"layer_decay": 0.5}, lambda p: len({g["lr"] for g in part("parameters")(p)}) == 6),
    "freeze": (
        {"freeze": "stage1"},
        lambda p: part("parameters")(p) and not any(t.requires_grad for t in network(p).layer1.parameters()),
    ),
    "eps": ({"eps": 1e-7, "optimizer": "adamw"}, lambda p: group(p).get("eps") == 1e-7),
    "momentum": ({"momentum": 0.5}, lambda p: group(p)["momentum"] == 0.5),
    "nesterov": ({"nesterov": True}, lambda p: group(p)["nesterov"] is True),
    "scheduler": ({"scheduler": "poly"}, lambda p: part("lr_scheduler_def")(p).kind == "poly"),
    "warmup_epochs": (
        {"warmup_epochs": 1, "max_epochs": 10},
        lambda p: part("lr_scheduler_def")(p).warmup == pytest.approx(0.1),
    ),
    "warmup": ({"warmup": 0.25}, lambda p: part("lr_scheduler_def")(p).warmup == 0.25),
    "lr_factor": ({"lr_factor": 0.3}, lambda p: part("lr_scheduler_def")(p).factor == 0.3),
    "lr_steps": ({"lr_steps": [0.25]}, lambda p: part("lr_scheduler_def")(p).milestones == (0.25,)),
    "lr_patience": ({"lr_patience": 3}, lambda p: part("lr_scheduler_def")(p).patience == 3),
    "grad_clip": ({"grad_clip": 3}, lambda p: handler("GradientClip")(p).max_norm == 3),
    "max_bad_steps": ({"max_bad_steps": 3}, lambda p: handler("FiniteLoss")(p).max_bad_steps == 3),
    "ema_decay": ({"ema_decay": 0.5}, lambda p: part("average")(p).decay == 0.5),
    "norm_images": (
        {"norm_images": 8},
        lambda p: part("validate#handlers")(p)[-1].num_images == 8,
    ),
    "label_smoothing": ({"label_smoothing": 0.3}, lambda p: mixing(p).label_smoothing == 0.3),
    "mixup_alpha": ({"mixup_alpha": 0.2}, lambda p: mixing(p).mixup_alpha == 0.2),
    "cutmix_alpha": ({"cutmix_alpha": 1.0}, lambda p: mixing(p).cutmix_alpha == 1),
    "mix_per_sample": ({"mix_per_sample": True}, lambda p: mixing(p).per_sample),
    "focal_gamma": ({"focal_gamma": 2}, lambda p: part("loss_def")(p).focal_gamma == 2),
    "class_weights": (
        {"class_weights": [1, 2, 3, 4]},
        lambda p: part("loss_def")(p).class_weights is not None and part("loss_def")(p).class_weights.tolist()[3] == 4,
    ),
    "balanced_sampling": ({"balanced_sampling": True}, lambda p: type(part("train#sampler")(p)) is not SampleStream),
    "augment": ({"augment": False}, lambda p: len(chain(p)) == 1),
    "crop_area": ({"crop_area": [0.5, 0.75]}, lambda p: tuple(crop(p).area) == (0.5, 0.75)),
    "crop_aspect": ({"crop_aspect": [0.9, 1.1]}, lambda p: tuple(crop(p).aspect) == (0.9, 1.1)),
    "flip_axes": ({"flip_axes": [0]}, lambda p: tuple(flip(p).axes) == (0,)),
    "turns": ({"turns": True}, lambda p: turn(p) is not None),
    "jitter": ({"jitter": 0.25}, lambda p: jitter(p) is not None),
    "quantize": ({"quantize": "qat"}, lambda p: is_fake_quantised(network(p))),
    "quant_delay": ({"quant_delay": 5}, lambda p: part("train#quantisation")(p).quant_delay == 5),
    "num_workers": ({"num_workers": 1}, lambda p: part("train#dataloader")(p).num_workers == 1),
    "log_interval": ({"log_interval": 3}, lambda p: part("train#progress")(p).log_interval == 3),
    "profile": ({"profile": "trace"}, lambda p: handler("Profile")(p).kind == "trace"),
}
# keys whose effect shows only when a command runs, or needs data of its own
ELSEWHERE = {
    "onnx_path": "engines/test_onnx_inference.py::test_foreign_file_is_checked_by_its_shapes",
    "providers": "bundles/test_inference_ort.py::test_volumes",
    "onnx_threads": "inferers/test_onnx_network.py::test_threads",
    "sync_bn": "bundles/test_se_resnext_ranks.py::test_synchronised_norms_train_what_one_process_trains",
    "dataset_dir": "bundles/test_se_resnext_training.py::test_real_cells_are_trained_and_evaluated",
    "output_dir": "bundles/test_se_resnext_training.py::test_sessions_end_with_the_weights_of_one_training",
    "store_dir": "bundles/test_se_resnext_training.py::test_training_leaves_what_it_says",
    "log_file": "bundles/test_se_resnext_training.py::test_training_leaves_what_it_says",
    "ckpt_path": "bundles/test_se_resnext_prediction.py::test_folds_are_averaged_and_views_too",
    "input": "bundles/test_se_resnext_prediction.py::test_folder_becomes_a_table",
    "pretrained": "bundles/test_se_resnext_training.py::test_table_with_several_labels_from_pretrained_weights",
    "image_dir": "bundles/test_se_resnext_training.py::test_table_with_several_labels_from_pretrained_weights",
    "resume": "bundles/test_se_resnext_training.py::test_sessions_end_with_the_weights_of_one_training",
    "overwrite": "bundles/test_se_resnext_prediction.py::test_nothing_is_overwritten_silently",
    "skip_unreadable": "bundles/test_se_resnext_training.py::test_damaged_images_are_named_or_left_out",
    "fold_seed": "bundles/test_se_resnext_keys.py::test_seed_of_folds",
    "cv_folds": "bundles/test_se_resnext_cross_validation.py::test_folds_are_trained_and_averaged",
    "device": "engines/test_run_folder.py",
    "affinity": "cpu_affinity/test_pinning.py::test_real_processes_and_their_loader_workers_are_pinned",
    "amp_dtype": "bundles/test_se_resnext_keys.py::test_type_of_mixed_precision_reaches_the_engines",
    "part": "bundles/test_se_resnext_training.py::test_table_with_several_labels_from_pretrained_weights",
    "tta": "bundles/test_se_resnext_prediction.py::test_folds_are_averaged_and_views_too",
    "threshold": "bundles/test_se_resnext_training.py::test_table_with_several_labels_from_pretrained_weights",
    "bootstrap": "bundles/test_se_resnext_training.py::test_evaluation_reports_every_score",
    "top_k": "bundles/test_se_resnext_prediction.py::test_folder_becomes_a_table",
    "cam": "bundles/test_se_resnext_prediction.py::test_folder_becomes_a_table",
    "quant_symmetric": "bundles/test_se_resnext_prediction.py::test_export_to_eight_bits",
    "export_format": "bundles/test_se_resnext_prediction.py::test_export_to_eight_bits",
    "benchmark": "bundles/test_se_resnext_benchmark.py::test_benchmark_key_times_instead_of_training",
    "warmup_steps": "bundles/test_se_resnext_benchmark.py::test_benchmark_key_times_instead_of_training",
    "bench_batches": "bundles/test_se_resnext_benchmark.py::test_benchmark_key_times_instead_of_training",
    "synthetic_size": "bundles/test_se_resnext_benchmark.py::test_synthetic_images_time_the_network_alone",
    "results_file": "bundles/test_se_resnext_benchmark.py::test_benchmark_key_times_instead_of_training",
}


def _spread(weight: torch.Tensor) -> float:
    """Largest value in standard deviations."""
    return float(weight.detach().abs().max() / weight.detach().std())


@pytest.mark.parametrize("key", sorted(CHANGES))
def test_key_changes_what_it_says(key: str, configured: Callable[..., ConfigParser]) -> None:
    overrides, holds = CHANGES[key]
    assert holds(configured(**overrides))
    without = {k: v for k, v in overrides.items() if k != key and (key, k) not in (("mean", "std"), ("std", "mean"))}
    assert not holds(configured(**without, output_dir="default"))


def test_every_key_is_shown_to_work() -> None:
    assert_every_key_is_shown(SE_RESNEXT, CHANGES, ELSEWHERE)


def test_type_of_mixed_precision_reaches_the_engines(configured: Callable[..., ConfigParser]) -> None:
    parser = configured(amp_dtype="float16")
    for engine in ("train#trainer", "validate#evaluator"):
        assert parser.get_parsed_content(engine).amp_kwargs["dtype"] is torch.float16


def test_seed_of_folds(configured: Callable[..., ConfigParser]) -> None:
    one, other = (configured(fold_seed=seed, output_dir=f"run{seed}", **TABLE) for seed in (0, 1))
    assert fold(one).val != fold(other).val
    assert len(fold(one).val) == len(fold(other).val)


@pytest.mark.parametrize(("file", "epochs", "mixup"), [("", 90, 0), ("_250", 250, 0.2)])
def test_recipe_of_nvidia(file: str, epochs: int, mixup: float, configured: Callable[..., ConfigParser]) -> None:
    """The published settings, component by component; the network is made narrow."""
    parser = configured("train.json", f"recipe_nvidia_2021{file}.json", layers=[1, 1, 1, 1], base_features=16)
    optimizer = part("optimizer_def")(parser)
    assert type(optimizer) is torch.optim.SGD
    assert {name: group(parser)[name] for name in ("lr", "momentum", "nesterov")} == {
        "lr": 0.256,  # a batch of 256
        "momentum": 0.875,
        "nesterov": False,
    }
    decays = {g["weight_decay"] for g in optimizer.param_groups}
    assert decays == {0.0, 1 / 16384}
    norms = sum(len(list(m.parameters())) for m in network(parser).modules() if "BatchNorm" in type(m).__name__)
    assert sum(len(g["params"]) for g in optimizer.param_groups if g["weight_decay"] == 0) == norms
    assert part("train#trainer")(parser).state.max_epochs == epochs
    schedule = part("lr_scheduler_def")(parser)
    assert (schedule.kind, schedule.warmup) == ("cosine", pytest.approx(8 / epochs))
    assert (mixing(parser).mixup_alpha, mixing(parser).label_smoothing) == (mixup, 0.1)
    assert part("average")(parser).decay == 0
    assert plan(parser).image_size == (224, 224)
    assert plan(parser).resize_size == 256
    assert (tuple(crop(parser).area), tuple(flip(parser).axes)) == ((0.08, 1.0), (1,))
    overlay = json.loads((SE_RESNEXT / f"recipe_nvidia_2021{file}.json").read_text())
    assert overlay["arch"] == "se-resnext101-32x4d"


def test_fine_tuning(configured: Callable[..., ConfigParser]) -> None:
    parser = configured("train.json", "recipe_finetune.json", layers=[1, 1, 1, 1], base_features=16)
    rates = sorted({g["lr"] for g in part("optimizer_def")(parser).param_groups})
    assert len(rates) == 5  # four stages and the classifying layer, the stem is frozen
    assert rates[-1] == 0.01
    assert not any(t.requires_grad for t in network(parser).layer0.parameters())
    assert type(part("train#sampler")(parser)) is not SampleStream
