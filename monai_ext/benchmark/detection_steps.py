"""Times training and inference of a detector as its bundle does them: real loader, or random images."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from monai.utils.enums import CommonKeys

from monai_ext.benchmark import bundle_steps
from monai_ext.benchmark.timing import Timing, time_steps
from monai_ext.networks.mask_rcnn.structures import Targets
from monai_ext.planning.instance_plan import InstancePlan


class SyntheticInstances:
    """The same random batch for ever, as `collate_instances` gives it: noise with elliptic objects.

    Args:
        plan: sizes and classes.
        batch_size: images.
        num_objects: of each image; those that later ones cover wholly are missing.
        seed: of noise and objects.
    """

    is_synthetic = True

    def __init__(self, plan: InstancePlan, batch_size: int, num_objects: int = 20, seed: int = 0) -> None:
        random = torch.Generator().manual_seed(seed)
        divisor = plan.size_divisor
        height, width = (-(-size // divisor) * divisor for size in plan.image_size)
        self.images = torch.randn((batch_size, plan.channels, height, width), generator=random)
        self.sizes = torch.tensor([[height, width]] * batch_size)
        self.targets = [_objects(height, width, num_objects, plan.num_classes, random) for _ in range(batch_size)]

    def __iter__(self) -> Iterator[dict[str, Any]]:
        while True:
            yield {CommonKeys.IMAGE: self.images, "image_sizes": self.sizes, "targets": self.targets}


def _objects(height: int, width: int, count: int, num_classes: int, random: torch.Generator) -> Targets:
    label_map = torch.zeros((height, width), dtype=torch.int32)
    y, x = torch.arange(height)[:, None] + 0.5, torch.arange(width)[None] + 0.5
    for number in range(1, count + 1):
        draw = torch.rand(4, generator=random)
        radii = (0.02 + 0.13 * draw[:2]) * min(height, width)
        centre = draw[2:] * torch.tensor([height, width])
        label_map[((y - centre[0]) / radii[0]) ** 2 + ((x - centre[1]) / radii[1]) ** 2 <= 1] = number
    ids = torch.unique(label_map)
    ids = ids[ids > 0]
    boxes = torch.zeros((len(ids), 4))
    for row, number in enumerate(ids.tolist()):
        rows, columns = torch.nonzero(label_map == number).unbind(1)
        boxes[row] = torch.stack([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]).float()
    labels = torch.randint(1, num_classes + 1, (len(ids),), generator=random)
    return Targets(boxes, labels, ids.int(), label_map, torch.zeros((0, 4)))


def detector_columns(plan: InstancePlan, batch_size: int) -> dict[str, Any]:
    """Columns of a result row that the plan of a detector gives."""
    return {
        "benchmark": f"mask_rcnn bundle, {plan.arch}",
        "spatial_dims": 2,
        "batch_size": batch_size,
        "patch_size": plan.image_size,
        "channels": plan.channels,
        "classes": plan.num_classes,
        "base_features": plan.base_features,
        "data": plan.dataset,
    }


def time_detection(
    loader: Iterable[Mapping[str, Any]],
    network: torch.nn.Module,
    plan: InstancePlan,
    batch_size: int,
    device: torch.device | str,
    warmup_steps: int,
    bench_batches: int,
    about: Mapping[str, Any],
    results_file: str,
    prepare_batch: Callable[..., tuple[Any, ...]],
) -> Timing:
    """Time the search in one batch of network inputs, from host memory to boxes and masks, again and again.

    Args:
        loader: of which the first batch is taken.
        network: `MaskRCNN`.
        plan: of the network.
        batch_size: most images of the batch that are taken.
        device: where the network is.
        warmup_steps, bench_batches: not timed, timed.
        about: columns of the result row; `amp` and `amp_dtype` decide the precision.
        results_file: CSV file to append the row to; empty for none.
        prepare_batch: gives images, targets and the network's further arguments.
    """
    device = torch.device(device)
    first = next(iter(loader))
    batch = {"image": first[CommonKeys.IMAGE][:batch_size], "image_sizes": first["image_sizes"][:batch_size]}
    half = getattr(torch, about["amp_dtype"]) if about["amp"] else None
    if device.type != "cuda" and half is not None:
        half = torch.bfloat16
    network.eval()

    @torch.inference_mode()
    def step() -> None:
        images, _, args, kwargs = prepare_batch(batch, device, True)
        with torch.autocast(device.type, half, enabled=half is not None):
            network(images, *args, **kwargs)

    timing = time_steps(step, device, len(batch["image"]), warmup_steps, bench_batches)
    columns = detector_columns(plan, len(batch["image"]))
    about = {"data": f"{plan.dataset}, no loader", **about}
    bundle_steps.report("predict", timing, columns, device, about, results_file)
    return timing
