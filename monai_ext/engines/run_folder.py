"""Where a run writes, and what it says at its start."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

import torch

import monai_ext
from monai_ext.engines import process_group
from monai_ext.engines.folder_ranks import require_common_folder
from monai_ext.engines.preparation import dataset_name
from monai_ext.engines.run_protection import RunPlan, hold_while_running, same_plan
from monai_ext.engines.workflow import running_workflow
from monai_ext.errors import InputError
from monai_ext.inferers.bfloat16_inferer import has_native_bfloat16

logger = logging.getLogger(__name__)


def default_output_dir(bundle_root: str, dataset_dir: str, fold: int | str, spatial_dims: int = 3) -> str:
    """`runs/<bundle>/<dataset>/<fold>` under the working directory, with `_2d` behind the fold of a 2D network."""
    name = f"{fold}_2d" if spatial_dims == 2 else str(fold)
    return str(Path("runs") / Path(bundle_root).name / dataset_name(dataset_dir) / name)


def default_store_dir(bundle_root: str, dataset_dir: str) -> str:
    """What all folds of a dataset share: `runs/<bundle>/<dataset>/prepared` under the working directory."""
    return str(Path("runs") / Path(bundle_root).name / dataset_name(dataset_dir) / "prepared")


def announce(output_dir: str, device: torch.device | str) -> None:
    """Print the output folder first, then what a bug report needs; log to the terminal and nothing else.

    No other process may run in the folder from here on, see `run_protection.hold_folder`.

    Raises:
        LockedError: another process runs in the output folder.
        InputError: the output folder cannot be made or written, or is not the same on all machines, the device does not
            exist, or torchrun's processes did not join.
    """
    process_group.check_joined()
    if process_group.is_first():
        print(f"output: {Path(output_dir).resolve()}", flush=True)
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"--device {device}: cannot be used ({reason}). Cure: cpu, or cuda:0 on a GPU") from error
    try:
        Path(output_dir).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"{output_dir}: cannot be made ({error}). Cure: set --output_dir to a writable folder"
        ) from error
    require_common_folder(output_dir, "output_dir")
    process_group.together(lambda: hold_while_running(Path(output_dir), running_workflow() or announce))
    device = torch.device(device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    logger.info("monai_ext %s, torch %s, Python %s, %s", monai_ext.__version__, torch.__version__, version, name)


def find_model(ckpt_path: str, bundle_root: str) -> str:
    """Model file for inference: the one given, else the bundle's own, else the only one trained under `runs`.

    Raises:
        InputError: none is found, or several are and none was chosen.
    """
    if ckpt_path:
        path = Path(ckpt_path)
        path = path / "model.pt" if path.is_dir() else path
        if not path.is_file():
            raise InputError(f"--ckpt_path {ckpt_path}: model not found. Cure: give the model.pt of a training")
        return str(path)
    own = Path(bundle_root) / "models" / "model.pt"
    if own.is_file():
        return str(own)
    found = sorted((Path("runs") / Path(bundle_root).name).glob("*/*/model.pt"))
    if len(found) == 1:
        logger.info("no ckpt_path given: using the only trained model, %s", found[0])
        return str(found[0])
    if found:
        listed = "\n".join(f"  - {path}" for path in found)
        raise InputError(f"several trained models are here:\n{listed}\nCure: choose one with --ckpt_path")
    raise InputError(
        f"no model: neither {own} nor a training under {Path('runs').resolve()}. Cure: --ckpt_path <folder>/model.pt"
    )


def plan_beside(ckpt_path: str, bundle_root: str) -> str:
    """Path of the plan beside a model; while no model is there either, the bundle's default plan.

    Raises:
        InputError: the model has lost its plan. Weights of another plan may load and predict wrongly.
    """
    beside = Path(ckpt_path).parent / "plan.json"
    if beside.is_file():
        return str(beside)
    if Path(ckpt_path).is_file():
        raise InputError(f"{ckpt_path}: there is no plan.json beside it. Cure: copy it from the folder of the training")
    return str(Path(bundle_root) / "configs" / "default_plan.json")


def check_plan_beside(prepared: RunPlan, ckpt_path: str) -> None:
    """Training builds its network from the plan beside `ckpt_path`, so that must be the plan just prepared.

    Raises:
        InputError: another plan lies there.
    """
    path = Path(ckpt_path).parent / "plan.json"
    if not path.is_file() or not same_plan(prepared.load(path), prepared):
        raise InputError(
            f"--ckpt_path {ckpt_path}: the plan beside it is not the plan of this training. "
            "Cure: leave ckpt_path alone when training; --resume True goes on with a training"
        )


def on_device(network: torch.nn.Module, device: torch.device | str, channels_last: bool) -> torch.nn.Module:
    """The network on its device, its weights in channels-last layout if asked for."""
    network = network.to(device)
    if not channels_last:
        return network
    dims = {weight.ndim for weight in network.parameters()}
    return network.to(memory_format=torch.channels_last_3d if 5 in dims else torch.channels_last)  # type: ignore[call-overload]


def default_num_workers() -> int:
    """Processors that this process may use, less two for the training itself, at most 8."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(8, max(0, allowed - 2))


def plan_of_model(ckpt_path: str, bundle_root: str) -> str:
    """Path of the plan of the model that `find_model` finds; the bundle's default plan if there is no model at all."""
    try:
        model = find_model(ckpt_path, bundle_root)
    except InputError:
        if ckpt_path:
            raise
        model = ""
    return plan_beside(model, bundle_root) if model else str(Path(bundle_root) / "configs" / "default_plan.json")


def existing(path: str, key: str) -> Path:
    """The path given by a key.

    Raises:
        InputError: nothing was given, or nothing is there.
    """
    if not path:
        raise InputError(f"--{key} is empty. Cure: give a file or folder, as in --{key} scan.nii.gz")
    if not Path(path).exists():
        raise InputError(f"--{key} {path}: does not exist. Cure: check the path, relative to {Path.cwd()}")
    return Path(path)


def mirror_axes(axes: tuple[int, ...], tta: bool) -> tuple[int, ...]:
    """Axes whose flips are averaged: those the model was trained with, none without `tta`."""
    if tta and not axes:
        logger.warning("tta: the model was trained without flips, so none are averaged")
    return tuple(axes) if tta else ()


def native_mixed_precision(device: torch.device | str) -> bool:
    """Whether mixed precision pays on a device: CUDA, or a processor with bfloat16 instructions."""
    kind = torch.device(device).type
    return kind == "cuda" or (kind == "cpu" and has_native_bfloat16())


def mixed_precision(amp: bool, device: torch.device | str) -> bool:
    """Whether MONAI's engine works in mixed precision: on CUDA only, see `cpu_bfloat16` for processors."""
    return amp and torch.device(device).type == "cuda"


def cpu_bfloat16(amp: bool, device: torch.device | str) -> bool:
    """Whether the network is called in bfloat16 on a processor; float32 if that would be emulated."""
    if not amp or torch.device(device).type == "cuda":
        return False
    if not native_mixed_precision(device):
        logger.warning("amp: this device has no bfloat16 instructions; everything is computed in float32")
        return False
    return True


def steps_per_rank(max_steps: int) -> int:
    """Optimiser steps of this process: the steps of all processes together, divided by their number, at least 1."""
    return max(1, max_steps // process_group.world_size())
