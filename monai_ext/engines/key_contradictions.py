"""Keys of which each is legal by itself and that contradict each other."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from monai_ext.errors import Problems

DEFAULTS: dict[str, Any] = {
    "spatial_dims": 3,
    "batch_size": 0,
    "nvol": 0,
    "data2d_dim": 0,
    "norm": "instance",
    "sync_bn": False,
    "focal": False,
    "labels": {},
    "resume": False,
    "overwrite": False,
    "task": "",
    "plan_file": "",
    "max_epochs": 1,
    "min_epochs": 0,
    "val_start_epoch": 1,
    "val_interval": 1,
    "patience": 0,
    "pred_format": "",
}


def check_contradictions(options: Mapping[str, Any]) -> None:
    """Refuse values of keys that cannot hold together, all of them at once.

    Args:
        options: key to value, plus `labels` (class name to value, a list of values for a region) where the dataset is
            known. Keys of `DEFAULTS` that are missing count as left alone, others are not looked at. A `batch_size`
            of 0 is planned later and contradicts nothing; where `task` or `plan_file` decide the plan, the keys that
            they replace are not looked at either.

    Raises:
        InputError: lists every contradiction with its reason and its cure.
    """
    problems = Problems("keys that contradict each other")
    given = {**DEFAULTS, **{name: options[name] for name in DEFAULTS if name in options}}
    if "max_epochs" in options and "dicom" in given["pred_format"]:  # the key of configs that train and evaluate
        reason = "cases of a dataset are files, a DICOM segmentation refers to a DICOM series"
        problems.add(f"--pred_format {given['pred_format']}", reason, "nii or npy here, dicom with inference.json")
    for check in (_check_slices, _check_network_and_loss, _check_sources, _check_course):
        check(given, problems.add)
    problems.raise_if_any()


Add = Callable[[str, str, str], None]


def _check_slices(o: Mapping[str, Any], add: Add) -> None:
    if o["plan_file"]:
        return
    nvol, batch_size = o["nvol"], 0 if o["task"] else o["batch_size"]
    if o["spatial_dims"] == 3:
        if nvol > 1:
            reason = "neighbouring slices of a volume make up a batch of a 2D network only"
            add(f"--nvol {nvol} with --spatial_dims 3", reason, "--nvol 0, or --spatial_dims 2")
        if o["data2d_dim"]:
            reason = "it tells what a 2D network is trained on"
            add(f"--data2d_dim {o['data2d_dim']} with --spatial_dims 3", reason, "--data2d_dim 0, or --spatial_dims 2")
    elif nvol > 0 and batch_size % nvol:
        below, above = batch_size // nvol * nvol, -(-batch_size // nvol) * nvol
        sizes = f"{below} or {above}" if below else str(above)
        reason = f"every volume gives the same number of slices, {batch_size} / {nvol} is none"
        add(f"--nvol {nvol} with --batch_size {batch_size}", reason, f"--batch_size {sizes}")


def _check_network_and_loss(o: Mapping[str, Any], add: Add) -> None:
    if o["sync_bn"] and o["norm"] != "batch" and not o["plan_file"]:
        reason = f"{o['norm']} norm looks at one sample alone, there is nothing to synchronise"
        add(f"--sync_bn True with --norm {o['norm']}", reason, "--norm batch, or --sync_bn False")
    regions = [name for name, value in o["labels"].items() if isinstance(value, list | tuple)]
    if o["focal"] and regions:
        reason = f"the focal loss wants one class a voxel, the classes {', '.join(regions)} of the dataset overlap"
        add("--focal True", reason, "--focal False, or a dataset whose labels are single values")


def _check_sources(o: Mapping[str, Any], add: Add) -> None:
    if o["resume"] and o["overwrite"]:
        reason = "one goes on with the training in output_dir, the other starts anew"
        add("--resume True with --overwrite True", reason, "give one of them")
    if o["task"] and o["plan_file"]:
        reason = "both decide the plan"
        add(f"--task {o['task']} with --plan_file {o['plan_file']}", reason, "give one of them")


def _check_course(o: Mapping[str, Any], add: Add) -> None:
    last, interval, patience = o["max_epochs"], o["val_interval"], o["patience"]
    if o["min_epochs"] > last:
        reason = "training ends before it may end early"
        cure = f"--min_epochs {last} at most, or more --max_epochs"
        add(f"--min_epochs {o['min_epochs']} with --max_epochs {last}", reason, cure)
    if o["val_start_epoch"] > last:
        reason = "training ends before the first validation, so no best model could be chosen"
        cure = f"--val_start_epoch {last} at most, or more --max_epochs"
        add(f"--val_start_epoch {o['val_start_epoch']} with --max_epochs {last}", reason, cure)
    if patience > 0 and interval > patience:
        reason = f"patience ends {patience} epochs after the best validation, before another could be better"
        cure = f"--val_interval {patience} at most, or --patience {interval} at least"
        add(f"--patience {patience} with --val_interval {interval}", reason, cure)
