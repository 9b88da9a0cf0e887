"""Every key of the detection bundle changes what it says: in the component it reaches, or in the test named."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.bundle import ConfigParser
from torch import nn

from bundle_commands import MASK_RCNN, Finished
from mask_rcnn_workflows import detection_workflow
from monai_ext.benchmark.detection_steps import SyntheticInstances
from monai_ext.engines.config_keys import load_key_specs
from monai_ext.engines.instance_batch import AspectGroupedStream
from monai_ext.engines.instance_metric import KEY_SCORES
from monai_ext.engines.run_folder import cpu_bfloat16
from monai_ext.ops import forms
from parsed_configs import Check, assert_every_key_is_shown, chain, fold, group, handler, part, plan

DRAWN = {"fold_rule": "drawn"}  # the phantom has a split of its own
SGD = {"optimizer": "sgd"}
ANCHORS = [[8], [16], [32], [64], [128]]
Configure = Callable[..., ConfigParser]


@pytest.fixture(scope="module")
def shared_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("shared_mask")


@pytest.fixture
def configured(shared_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Configure:
    monkeypatch.chdir(tmp_path)

    def configure(*files: str, **overrides: Any) -> ConfigParser:
        return detection_workflow(*files, **{"store_dir": str(shared_store), **overrides}).parser

    return configure


@pytest.fixture(scope="module")
def unchanged(shared_store: Path, tmp_path_factory: pytest.TempPathFactory) -> ConfigParser:
    """The tiny training as it is, shared by the tests of most keys."""
    folder = tmp_path_factory.mktemp("unchanged") / "run"
    return detection_workflow(store_dir=str(shared_store), output_dir=str(folder)).parser


@pytest.fixture(autouse=True)
def _forms_as_before() -> Iterator[None]:
    before = forms.chosen()
    yield
    forms.choose(before)
    forms.choose_for({})


def network(p: ConfigParser) -> Any:
    return part("network")(p)


def rules(p: ConfigParser) -> Any:
    return network(p).rules


def transform(name: str) -> Callable[[ConfigParser], Any]:
    return lambda p: next((t for t in chain(p) if type(t).__name__ == name), None)


crop, flip, turn = transform("RandScaleCropPadd"), transform("RandMirrord"), transform("RandRightAngleTurnd")


def intensity(p: ConfigParser) -> dict[str, Any]:
    """Changes of intensity by the name of their transform."""
    return {type(t).__name__: t for t in transform("RandPictureIntensityd")(p).transforms}


def last_digits(names: tuple[str, ...]) -> set[str]:
    return {name[-5] for name in names}


def setting(field: str, value: Any) -> Check:
    """Whether the plan of the training has a value."""
    return lambda p: getattr(plan(p), field) == value


# key -> what is set, and what is true of the components then and not without it
CHANGES: dict[str, tuple[dict[str, Any], Check]] = {
    "nfolds": ({"nfolds": 2, **DRAWN}, lambda p: len(fold(p).val) == 26),
    "fold_rule": (DRAWN, lambda p: len(fold(p).val) < 12 and any("/train/" in name for name in fold(p).val)),
    "group_by": (
        {"group_by": r"name:\d\d(\d)\.", **DRAWN},
        lambda p: not last_digits(fold(p).val) & last_digits(fold(p).train),
    ),
    "train_list": ({"train_list": "*/train/00*"}, lambda p: len(part("prepared")(p).train) == 10),
    "val_list": ({"val_list": "*/val/04*"}, lambda p: len(fold(p).val) == 10),
    "eval_samples": ({"eval_samples": 5}, lambda p: len(part("prepared")(p).val) == 5),
    "seed": ({"seed": 7}, lambda p: part("train#dataset")(p).seed == 7 and part("train#sampler")(p).seed == 7),
    "loss_scale": ({"loss_scale": 128}, lambda p: handler("LossScale")(p).loss_scale == 128),
    "compile": ({"compile": True}, lambda p: network(p).backbone._compiled_call_impl is not None),
    "channels_last": (
        {"channels_last": False},
        lambda p: network(p).backbone.body.layer1[0].conv1.weight.is_contiguous() and not network(p).channels_last,
    ),
    "fused_ops": ({"fused_ops": False}, lambda p: forms.chosen() == "torch"),
    "arch": ({"arch": "resnet-small"}, lambda p: len(network(p).backbone.body.layer2) == 2),
    "norm": ({"norm": "frozen_batch"}, lambda p: "FrozenBatchNorm" in kinds_of_norm(p)),
    "finetune_bn": ({"finetune_bn": True}, lambda p: "BatchNorm2d" in kinds_of_norm(p)),
    "freeze_at": ({"freeze_at": 1}, lambda p: not network(p).backbone.body.conv1.weight.requires_grad),
    "stem_stride": ({"stem_stride": 2}, lambda p: network(p).backbone.body.conv1.stride == (2, 2)),
    "stride_in_1x1": ({"stride_in_1x1": True}, setting("stride_in_1x1", True)),
    "box_head": ({"box_head": "conv"}, lambda p: len(network(p).box_head.convs) == 4),
    "mask_size": ({"mask_size": 14}, lambda p: network(p).mask_size == plan(p).mask_size == 14),
    "channels": ({"channels": 3}, lambda p: plan(p).channels == network(p).backbone.body.conv1.in_channels == 3),
    "normalisation": ({"normalisation": "range"}, setting("normalisation", "range")),
    "percentiles": ({"percentiles": [5, 95]}, setting("percentiles", (5.0, 95.0))),
    "value_range": ({"value_range": [10, 90]}, setting("value_range", (10.0, 90.0))),
    "mean": ({"mean": [0.3], "std": [1]}, setting("mean", (0.3,))),
    "std": ({"std": [0.7], "mean": [0]}, setting("std", (0.7,))),
    "resize": ({"resize": "fit"}, lambda p: plan(p).resize == "fit" and crop(p).base == "fit"),
    "scale": ({"scale": 1.5}, lambda p: plan(p).scale == crop(p).base == 1.5),
    "image_size": ({"image_size": [64, 96]}, lambda p: plan(p).image_size == crop(p).size == (64, 96)),
    "anchor_sizes": ({"anchor_sizes": ANCHORS}, lambda p: network(p).anchors.sizes[2] == (32.0,)),
    "aspect_ratios": ({"aspect_ratios": [1]}, lambda p: network(p).anchors.ratios == (1.0,)),
    "anchor_offset": ({"anchor_offset": 0.5}, lambda p: network(p).anchors.offset == 0.5),
    "round_anchors": ({"round_anchors": True}, lambda p: network(p).anchors.round),
    "canonical_size": ({"canonical_size": 77}, lambda p: network(p).pool.canonical_size == 77),
    "pool_sampling": ({"pool_sampling": 0}, lambda p: network(p).pool.sampling == 0),
    "pool_aligned": ({"pool_aligned": False}, lambda p: not network(p).pool.aligned),
    "max_objects": ({"max_objects": 3}, lambda p: part("train#dataset")(p).max_objects == 3),
    "batch_size": (
        {"batch_size": 3},
        lambda p: part("train#dataloader")(p).batch_size == 3 and part("train#sampler")(p).batch_size == 3,
    ),
    "accumulate_steps": ({"accumulate_steps": 2}, lambda p: part("train#trainer#iteration_update")(p).parts == 2),
    "val_batch_size": ({"val_batch_size": 7}, lambda p: part("validate#inferer")(p).tile_batch == 7),
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
        {"key_score": "nuclei_ap"},
        lambda p: (
            list(part("validate#evaluator")(p).key_metric_names) == ["nuclei_ap"]
            if hasattr(part("validate#evaluator")(p), "key_metric_names")
            else part("validate#evaluator")(p).state.key_metric_name == "nuclei_ap"
        ),
    ),
    "save_interval": ({"save_interval": 5}, lambda p: handler("TrainingCheckpoint")(p).save_interval == 5),
    "optimizer": (SGD, lambda p: type(part("optimizer_def")(p)) is torch.optim.SGD),
    "learning_rate": ({"learning_rate": 0.5}, lambda p: group(p)["lr"] == 0.5),
    "bias_rate": (
        {"bias_rate": 2, "learning_rate": 0.25},
        lambda p: {g["lr"] for g in part("parameters")(p)} == {0.25, 0.5},
    ),
    "weight_decay": (
        {"weight_decay": 0.25},
        lambda p: {g["weight_decay"] for g in part("parameters")(p)} == {0.0, 0.25},
    ),
    "momentum": ({"momentum": 0.5, **SGD}, lambda p: group(p)["momentum"] == 0.5),
    "nesterov": ({"nesterov": True, **SGD}, lambda p: group(p)["nesterov"] is True),
    "eps": ({"eps": 1e-7}, lambda p: group(p)["eps"] == 1e-7),
    "scheduler": ({"scheduler": "poly"}, lambda p: part("lr_scheduler_def")(p).kind == "poly"),
    "warmup_steps": (
        {"warmup_steps": 10, "max_steps": 100},
        lambda p: part("lr_scheduler_def")(p).warmup == pytest.approx(0.1),
    ),
    "warmup_lr": (
        {"warmup_lr": 0.1, "learning_rate": 0.4},
        lambda p: part("lr_scheduler_def")(p).warmup_start == pytest.approx(0.25),
    ),
    "warmup": ({"warmup": 0.25}, lambda p: part("lr_scheduler_def")(p).warmup == 0.25),
    "lr_factor": ({"lr_factor": 0.3}, lambda p: part("lr_scheduler_def")(p).factor == 0.3),
    "lr_steps": ({"lr_steps": [0.25]}, lambda p: part("lr_scheduler_def")(p).milestones == (0.25,)),
    "lr_patience": ({"lr_patience": 3}, lambda p: part("lr_scheduler_def")(p).patience == 3),
    "grad_clip": ({"grad_clip": 3}, lambda p: handler("GradientClip")(p).max_norm == 3),
    "max_bad_steps": ({"max_bad_steps": 3}, lambda p: handler("FiniteLoss")(p).max_bad_steps == 3),
    "ema_decay": ({"ema_decay": 0.5}, lambda p: part("average")(p).decay == 0.5),
    "rpn_batch": ({"rpn_batch": 33}, lambda p: rules(p).rpn_batch == 33),
    "rpn_positive": ({"rpn_positive": 0.4}, lambda p: rules(p).rpn_positive == 0.4),
    "rpn_high": ({"rpn_high": 0.6}, lambda p: rules(p).rpn_high == 0.6),
    "rpn_low": ({"rpn_low": 0.2}, lambda p: rules(p).rpn_low == 0.2),
    "rpn_beta": ({"rpn_beta": 0.1}, lambda p: rules(p).rpn_beta == 0.1),
    "roi_batch": ({"roi_batch": 17}, lambda p: rules(p).roi_batch == 17),
    "roi_positive": ({"roi_positive": 0.5}, lambda p: rules(p).roi_positive == 0.5),
    "roi_threshold": ({"roi_threshold": 0.6}, lambda p: rules(p).roi_threshold == 0.6),
    "mask_batch": ({"mask_batch": 5}, lambda p: rules(p).mask_batch == 5),
    "box_beta": ({"box_beta": 1}, lambda p: rules(p).box_beta == 1),
    "train_pre_nms": ({"train_pre_nms": 90}, lambda p: rules(p).proposals.pre_nms == 90),
    "train_post_nms": ({"train_post_nms": 40}, lambda p: rules(p).proposals.post_nms == 40),
    "rpn_pre_nms": ({"rpn_pre_nms": 45}, lambda p: network(p).proposals.pre_nms == 45),
    "rpn_post_nms": ({"rpn_post_nms": 35}, lambda p: network(p).proposals.post_nms == 35),
    "rpn_nms": ({"rpn_nms": 0.6}, lambda p: network(p).proposals.nms == rules(p).proposals.nms == 0.6),
    "loss_weights": ({"loss_weights": [1, 2, 3, 4, 5]}, lambda p: part("loss_def")(p).weights["mask"] == 5),
    "score_threshold": ({"score_threshold": 0.1}, lambda p: network(p).detections.score == 0.1),
    "box_nms": ({"box_nms": 0.4}, lambda p: network(p).detections.nms == 0.4),
    "max_detections": ({"max_detections": 60}, lambda p: network(p).detections.count == 60),
    "tile_overlap": ({"tile_overlap": 24}, lambda p: part("validate#inferer")(p).tile_overlap == 24),
    "label_threshold": (
        {"label_threshold": 0.25},
        lambda p: plan(p).label_threshold == part("evaluate#plan")(p).label_threshold == 0.25,
    ),
    "min_area": ({"min_area": 9}, lambda p: plan(p).min_area == part("evaluate#plan")(p).min_area == 9),
    "augment": ({"augment": False}, lambda p: len(chain(p)) == 1 and crop(p).scale == (1, 1)),
    "crop": ({"crop": False}, lambda p: crop(p) is None),
    "scale_jitter": ({"scale_jitter": [0.1, 2]}, lambda p: crop(p).scale == (0.1, 2)),
    "scale_law": ({"scale_law": "uniform"}, lambda p: crop(p).law == "uniform"),
    "prefer_objects": ({"prefer_objects": 0.25}, lambda p: crop(p).prefer_objects == 0.25),
    "flip_axes": ({"flip_axes": [1]}, lambda p: flip(p).axes == (1,)),
    "turns": ({"turns": False}, lambda p: turn(p) is None),
    "jitter": ({"jitter": 0}, lambda p: set(intensity(p)) == {"RandBlurd", "RandNoised"}),
    "blur_noise": ({"blur_noise": 0}, lambda p: not {"RandBlurd", "RandNoised"} & set(intensity(p))),
    "invert": ({"invert": 0.2}, lambda p: "RandInvertd" in intensity(p)),
    "stain_jitter": ({"stain_jitter": 0.2}, lambda p: "RandStainJitterd" in intensity(p)),
    "aspect_grouping": ({"aspect_grouping": True}, lambda p: type(part("train#sampler")(p)) is AspectGroupedStream),
    "cache_mib": ({"cache_mib": 3}, lambda p: part("train#dataset")(p).cache_bytes == 3 * 2**20),
    "part": ({"part": "all"}, lambda p: len(part("evaluate#source")(p).fold.val) == 52),
    "tta": ({"tta": True}, lambda p: len(part("evaluate#inferer")(p).views) == 4),
    "ap_detections": ({"ap_detections": 7}, lambda p: part("evaluate#outputs")(p).most == 7),
    "pred_format": ({"pred_format": "coco"}, lambda p: part("predict#outputs")(p).outputs == ("coco",)),
    "label_format": ({"label_format": "tif"}, lambda p: part("predict#outputs")(p).label_format == "tif"),
    "num_workers": ({"num_workers": 1}, lambda p: part("train#dataloader")(p).num_workers == 1),
    "log_interval": ({"log_interval": 3}, lambda p: part("train#progress")(p).log_interval == 3),
    "profile": ({"profile": "trace"}, lambda p: handler("Profile")(p).kind == "trace"),
    "benchmark": ({"benchmark": True}, lambda p: p["training"] == p["training_benchmark"]),
    "synthetic": ({"synthetic": True}, lambda p: isinstance(part("timing#loader")(p), SyntheticInstances)),
    "synthetic_objects": (
        {"synthetic_objects": 1, "synthetic": True},
        lambda p: len(part("timing#loader")(p).targets[0].ids) == 1,
    ),
}
TRAINING, PREDICTION = "bundles/test_mask_rcnn_training.py::", "bundles/test_mask_rcnn_prediction.py::"
BENCHMARK, KEYS = "bundles/test_mask_rcnn_benchmark.py::", "bundles/test_mask_rcnn_keys.py::"
# keys whose effect shows only when a command runs, or needs data of its own
ELSEWHERE = {
    "dataset_dir": TRAINING + "test_label_maps_are_trained_on",
    "layout": TRAINING + "test_folder_of_both_layouts",
    "output_dir": TRAINING + "test_sessions_end_with_the_weights_of_one_training",
    "store_dir": TRAINING + "test_training_leaves_what_it_says",
    "log_file": TRAINING + "test_training_leaves_what_it_says",
    "pretrained": TRAINING + "test_weights_of_another_training",
    "backbone_ckpt": TRAINING + "test_weights_of_another_training",
    "resume": TRAINING + "test_sessions_end_with_the_weights_of_one_training",
    "select": TRAINING + "test_folder_of_both_layouts",
    "train_annotations": TRAINING + "test_annotation_files_are_chosen",
    "val_annotations": TRAINING + "test_annotation_files_are_chosen",
    "skip_broken": TRAINING + "test_faults_of_a_coco_file_are_told_at_once",
    "eval_at_end": TRAINING + "test_recipe_of_coco",
    "ckpt_path": PREDICTION + "test_folder_becomes_label_maps_tables_and_overlays",
    "input": PREDICTION + "test_folder_becomes_label_maps_tables_and_overlays",
    "overwrite": PREDICTION + "test_nothing_is_overwritten_silently",
    "skip_unreadable": PREDICTION + "test_damaged_input_is_named",
    "fold": KEYS + "test_folds_that_are_drawn",
    "fold_seed": KEYS + "test_folds_that_are_drawn",
    "amp": KEYS + "test_mixed_precision_reaches_the_engines",
    "amp_dtype": KEYS + "test_mixed_precision_reaches_the_engines",
    "batched_nms": KEYS + "test_single_ops_run_as_plain_torch",
    "fused_proposals": KEYS + "test_single_ops_run_as_plain_torch",
    "compile_eval": KEYS + "test_backbone_is_compiled_for_the_evaluation",
    "cv_folds": "bundles/test_mask_rcnn_cross_validation.py::test_folds_are_trained_and_averaged",
    "device": "engines/test_run_folder.py",
    "affinity": "cpu_affinity/test_pinning.py::test_real_processes_and_their_loader_workers_are_pinned",
    "bench_warmup": BENCHMARK + "test_benchmark_key_times_instead_of_training",
    "bench_batches": BENCHMARK + "test_benchmark_key_times_instead_of_training",
    "results_file": BENCHMARK + "test_benchmark_key_times_instead_of_training",
}


def kinds_of_norm(p: ConfigParser) -> set[str]:
    return {type(m).__name__ for m in network(p).backbone.body.modules() if "Norm" in type(m).__name__}


@pytest.mark.parametrize("key", sorted(CHANGES))
def test_key_changes_what_it_says(key: str, configured: Configure, unchanged: ConfigParser) -> None:
    overrides, holds = CHANGES[key]
    assert holds(configured(**overrides))
    without = {k: v for k, v in overrides.items() if k != key and {k, key} != {"mean", "std"}}
    if key == "fused_ops":  # was set for the whole process
        forms.choose("auto")
    assert not holds(configured(**without, output_dir="default") if without else unchanged)


def test_every_key_is_shown_to_work() -> None:
    assert_every_key_is_shown(MASK_RCNN, CHANGES, ELSEWHERE)


def test_mixed_precision_reaches_the_engines(configured: Configure) -> None:
    for amp, dtype in ((True, "float16"), (False, "bfloat16")):
        parser = configured(amp=amp, amp_dtype=dtype, device="cpu", output_dir=dtype)
        assert part("train#inferer")(parser).enabled is cpu_bfloat16(amp, "cpu")
        assert part("validate#inferer")(parser).cpu_bfloat16 is cpu_bfloat16(amp, "cpu")
        for engine in ("train#trainer", "validate#evaluator"):
            assert part(engine)(parser).amp_kwargs["dtype"] is getattr(torch, dtype)


def test_folds_that_are_drawn(configured: Configure) -> None:
    """Folds of one seed share no image; those of another are others, of equal size."""
    one, next_one, other = (
        fold(configured(fold=number, fold_seed=seed, output_dir=f"run{number}{seed}", **DRAWN)).val
        for number, seed in ((0, 0), (1, 0), (0, 1))
    )
    assert not set(one) & set(next_one)
    assert set(one) != set(other)
    assert len(one) == len(other)


def test_single_ops_run_as_plain_torch(configured: Configure) -> None:
    cpu = torch.device("cpu")
    best = {op: forms.implementation(op, cpu) for op in ("nms", "match_anchors", "decode_proposals", "roi_align")}
    configured(batched_nms=False)
    assert forms.implementation("nms", cpu).__name__.endswith("nms.reference")
    assert forms.implementation("match_anchors", cpu) is best["match_anchors"]
    configured(fused_proposals=False)
    assert forms.implementation("nms", cpu) is best["nms"]
    for op in ("match_anchors", "decode_proposals"):
        assert forms.implementation(op, cpu).__name__.endswith(f"{op}.reference")
    assert forms.implementation("roi_align", cpu) is best["roi_align"]


def test_backbone_is_compiled_for_the_evaluation(configured: Configure, trained_mask: tuple[Path, Finished]) -> None:
    model = str(trained_mask[0] / "runs/mask_rcnn/phantom/0/model.pt")
    for compiled in (True, False):
        found = part("evaluate#network")(configured(ckpt_path=model, compile_eval=compiled))
        assert (found.backbone._compiled_call_impl is not None) is compiled
        assert isinstance(found, nn.Module)


def test_key_scores_are_those_of_the_metric() -> None:
    """The check of keys knows them all, so that a wrong one is refused before anything is written."""
    spec = load_key_specs(MASK_RCNN / "keys.json")["key_score"]
    assert tuple(spec.choices or ()) == KEY_SCORES
