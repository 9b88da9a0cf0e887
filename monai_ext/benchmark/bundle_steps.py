"""Times a bundle's own training and prediction: real loader, augmentation, windows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sized
from itertools import cycle
from pathlib import Path
from typing import Any

import torch
from monai.utils.enums import CommonKeys

from monai_ext.benchmark.benchmark_results import append_benchmark, benchmark_row, format_benchmark, published_figures
from monai_ext.benchmark.timing import Timing, peak_memory_mib, time_steps
from monai_ext.errors import InputError
from monai_ext.planning.class_plan import ClassPlan
from monai_ext.planning.em_plan import EmPlan
from monai_ext.planning.plan import Plan

PrepareBatch = Callable[..., tuple[Any, ...]]


def image_and_label(
    batch: Mapping[str, Any], device: torch.device, non_blocking: bool = False
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """What an engine without a `prepare_batch` of its own hands to the network and to the loss, if there is a label."""
    label = batch.get(CommonKeys.LABEL)
    image = batch[CommonKeys.IMAGE].to(device, non_blocking=non_blocking)
    return image, None if label is None else label.to(device, non_blocking=non_blocking)


def time_training(
    loader: Iterable[Mapping[str, Any]],
    network: torch.nn.Module,
    loss: Callable[..., torch.Tensor],
    optimizer: torch.optim.Optimizer,
    inferer: Callable[..., Any],
    columns: Mapping[str, Any],
    device: torch.device | str,
    warmup_steps: int,
    bench_batches: int,
    about: Mapping[str, Any],
    results_file: str = "",
    prepare_batch: PrepareBatch = image_and_label,
) -> Timing:
    """Time steps from loading a batch to the step of the optimiser; the network is left trained a little, unsaved.

    Args:
        loader: endless batches of `image` and `label`.
        network, loss, optimizer, inferer: as the trainer has them.
        columns: those that the plan gives, such as `plan_columns`.
        device: where the network is.
        warmup_steps, bench_batches: not timed, timed.
        about: columns of the result row; `amp` and `amp_dtype` decide the precision on CUDA.
        results_file: CSV file to append the row to; empty for none.
        prepare_batch: as the trainer has it.
    """
    device = torch.device(device)
    batches = iter(loader)
    half = cuda_half(device, about)
    scaler = torch.amp.GradScaler("cuda", enabled=half == torch.float16)
    network.train()

    def step() -> None:
        batch = next(batches)
        images, labels, *rest = prepare_batch(batch, device, True)
        args, kwargs = rest if rest else ((), {})
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cuda", half, enabled=half is not None):
            value = loss(inferer(images, network, *args, **kwargs), labels)
        scaler.scale(value).backward()
        scaler.step(optimizer)
        scaler.update()

    timing = time_steps(step, device, columns["batch_size"], warmup_steps, bench_batches)
    loading = "" if getattr(loader, "is_synthetic", False) else ", loader included"
    report("train", timing, columns, device, {"data": f"{columns['data']}{loading}", **about}, results_file)
    return timing


def time_forward(
    loader: Iterable[Mapping[str, Any]],
    network: torch.nn.Module,
    inferer: Callable[..., Any],
    columns: Mapping[str, Any],
    device: torch.device | str,
    warmup_steps: int,
    bench_batches: int,
    about: Mapping[str, Any],
    results_file: str = "",
    prepare_batch: PrepareBatch = image_and_label,
) -> Timing:
    """Time the prediction of one batch of network inputs, from host memory to class labels, again and again.

    Args as `time_training`.
    """
    device = torch.device(device)
    first = next(iter(loader))
    batch = {name: first[name] for name in (CommonKeys.IMAGE, CommonKeys.LABEL) if name in first}
    if device.type == "cuda":
        batch = {name: value.pin_memory() for name, value in batch.items()}
    half = cuda_half(device, about)
    network.eval()

    @torch.inference_mode()
    def step() -> None:
        with torch.autocast("cuda", half, enabled=half is not None):
            images, *_ = prepare_batch(batch, device, True)
            inferer(images, network).float().softmax(1).argmax(1)

    timing = time_steps(step, device, len(batch[CommonKeys.IMAGE]), warmup_steps, bench_batches)
    report("predict", timing, columns, device, {"data": f"{columns['data']}, no loader", **about}, results_file)
    return timing


def time_inference(
    volumes: Iterable[Mapping[str, Any]],
    network: torch.nn.Module,
    inferer: Any,
    columns: Mapping[str, Any],
    device: torch.device | str,
    warmup_steps: int,
    bench_batches: int,
    about: Mapping[str, Any],
    results_file: str = "",
) -> Timing:
    """Time the prediction of whole stored cases, window by window; one case is one image.

    Args:
        volumes: batches of one stored case, taken again and again.
        inferer: `WindowInferer`.

    Raises:
        InputError: there are no cases.
    """
    device = torch.device(device)
    if isinstance(volumes, Sized) and not len(volumes):
        raise InputError("inference_benchmark: the fold has no validation cases. Cure: another --fold")
    cases = cycle(volumes)
    half = cuda_half(device, about)
    network.eval()

    @torch.inference_mode()
    def step() -> None:
        with torch.autocast("cuda", half, enabled=half is not None):
            inferer.segment(next(cases)[CommonKeys.IMAGE].to(device), network)

    timing = time_steps(step, device, 1, warmup_steps, bench_batches)
    report("predict", timing, columns, device, {"data": f"{columns['data']}, whole cases", **about}, results_file)
    return timing


def plan_columns(plan: Plan) -> dict[str, Any]:
    """Columns of a result row that the plan of nnU-Net gives."""
    return {
        "benchmark": "nnunet bundle",
        "spatial_dims": plan.spatial_dims,
        "batch_size": plan.batch_size,
        "patch_size": plan.patch_size,
        "channels": plan.num_channels,
        "classes": plan.num_classes,
        "base_features": plan.features[0],
        "data": plan.dataset,
    }


def slice_columns(plan: EmPlan, batch_size: int) -> dict[str, Any]:
    """Columns of a result row that the plan of an EM model gives."""
    return {
        "benchmark": "unet_em bundle",
        "spatial_dims": 2,
        "batch_size": batch_size,
        "patch_size": plan.input_size,
        "channels": 1,
        "classes": 2,
        "base_features": plan.base_features,
        "data": plan.dataset,
    }


def class_columns(plan: ClassPlan, batch_size: int) -> dict[str, Any]:
    """Columns of a result row that the plan of a classifier gives."""
    return {
        "benchmark": f"se_resnext101 bundle, {plan.arch}",
        "spatial_dims": plan.spatial_dims,
        "batch_size": batch_size,
        "patch_size": plan.image_size,
        "channels": plan.channels,
        "classes": plan.num_classes,
        "base_features": plan.base_features,
        "data": plan.dataset,
    }


def cuda_half(device: torch.device, about: Mapping[str, Any]) -> torch.dtype | None:
    return getattr(torch, about["amp_dtype"]) if device.type == "cuda" and about["amp"] else None


def report(
    mode: str,
    timing: Timing,
    given: Mapping[str, Any],
    device: torch.device,
    about: Mapping[str, Any],
    results_file: str,
) -> None:
    precision = "float32"
    if about["amp"]:
        precision = about["amp_dtype"] if device.type == "cuda" else "bfloat16"
    columns = {
        **given,
        "mode": mode,
        "precision": precision,
        "peak_memory_mib": peak_memory_mib(device),
        "device": str(device),
        **about,
    }
    row = benchmark_row(given["benchmark"], timing, columns)
    figures = published_figures(given["benchmark"], mode, 2, timing.batch_size) if _is_published(given) else []
    print(format_benchmark(row, figures))
    if results_file:
        append_benchmark(Path(results_file), row)
        print(f"row appended to {Path(results_file).resolve()}")


# network at full width and size, of which there are published figures
PUBLISHED_SIZES = {
    "unet_em bundle": (64, (572, 572)),
    "se_resnext101 bundle, se-resnext101-32x4d": (64, (224, 224)),
    "mask_rcnn bundle, resnet50": (64, (832, 1344)),
}


def _is_published(given: Mapping[str, Any]) -> bool:
    return PUBLISHED_SIZES.get(given["benchmark"]) == (given["base_features"], tuple(given["patch_size"]))
