"""Batches of images of different sizes with their objects: order, padding, and what MONAI's engines take."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from monai_ext.datasets.instance_dataset import InstanceCase
from monai_ext.engines import process_group
from monai_ext.engines.sample_stream import SampleStream
from monai_ext.errors import InputError
from monai_ext.networks.mask_rcnn.structures import Targets

Prepared = tuple[torch.Tensor, Any, tuple[Any, ...], dict[str, Any]]


def collate_instances(
    samples: Sequence[Mapping[str, Any]], divisor: int, size: Sequence[int] = (1, 1)
) -> dict[str, Any]:
    """Make a batch of samples of `InstanceSamples` or `WholeInstances`; images are padded below and to the right.

    Args:
        samples: of one kind.
        divisor: heights and widths become multiples of it (`InstancePlan.size_divisor`).
        size: least (height, width) of the batch, for shapes that never change.

    Returns:
        `image` (`[B, C, H, W]` float32, 0 where padded), `image_sizes` (`[B, 2]` int64, (height, width) before
        padding), all other entries as lists, and instead of objects `targets` (list of `Targets`) and `capped` (their
        sum).
    """
    images = [sample["image"] for sample in samples]
    sizes = torch.tensor([image.shape[1:] for image in images], dtype=torch.int64)
    height, width = (
        -(-max(int(edge), int(least)) // divisor) * divisor
        for edge, least in zip(sizes.amax(0).tolist(), size, strict=True)
    )
    batch = images[0].new_zeros((len(images), images[0].shape[0], height, width))
    for place, image in zip(batch, images, strict=True):
        place[:, : image.shape[1], : image.shape[2]] = image
    out: dict[str, Any] = {"image": batch, "image_sizes": sizes}
    objects = {*Targets._fields, "capped"}
    for name in samples[0]:
        if name != "image" and name not in objects:
            out[name] = [sample[name] for sample in samples]
    if "label_map" in samples[0]:
        maps = torch.zeros((len(images), height, width), dtype=torch.int32)
        for place, sample in zip(maps, samples, strict=True):
            label_map = sample["label_map"]
            place[: label_map.shape[0], : label_map.shape[1]] = label_map
        out["targets"] = [
            Targets(sample["boxes"], sample["labels"], sample["ids"], label_map, sample["crowd"], sample.get("draw"))
            for sample, label_map in zip(samples, maps, strict=True)
        ]
        out["capped"] = sum(int(sample["capped"]) for sample in samples)
    return out


class AspectGroupedStream(SampleStream):
    """A `SampleStream` whose steps show images of like shape, so that little of a batch is padding.

    Images are grouped by height / width at `bounds`. Every pass over the cases has its own order and shows each case
    once. Within a pass, whole steps (of all ranks) are taken from one group each; what is left of the groups fills, one
    group after the other, the steps that remain and those that straddle two passes. So per pass at most one step per
    bound, and one more where passes meet, are mixed.

    Args:
        sizes: (height, width) of every case.
        batch_size, seed, rank, world_size: as in `SampleStream`.
        bounds: ascending height / width at which a new group begins; 1 separates upright from wide images.
    """

    def __init__(
        self,
        sizes: Sequence[Sequence[int]],
        batch_size: int,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        bounds: Sequence[float] = (1.0,),
    ) -> None:
        super().__init__(len(sizes), batch_size, seed, rank, world_size)
        aspects = [height / width for height, width in sizes]
        self.groups = np.searchsorted(np.asarray(bounds, dtype=float), aspects, side="left")

    def order_of_pass(self, number: int) -> np.ndarray:
        random = np.random.default_rng((self.seed, number))
        cases = random.permutation(self.num_cases)
        share = self.batch_size * self.world_size
        head = min(-number * self.num_cases % share, self.num_cases)  # fills the step that the last pass began
        most = (self.num_cases - head) // share
        whole, left = [], []
        for group in np.unique(self.groups):
            members = cases[self.groups[cases] == group]
            end = len(members) // share * share
            whole += list(members[:end].reshape(-1, share))
            left.append(members[end:])
        chosen = random.permutation(len(whole))
        left += [whole[index] for index in chosen[most:]]
        rest = np.concatenate(left)
        # mixed steps hold neighbouring groups; whether upright or wide ones begin the pass is drawn
        rest = rest[np.argsort(self.groups[rest], kind="stable")][:: int(random.choice((-1, 1)))]
        steps = [whole[index] for index in chosen[:most]]
        mixed = (most - len(steps)) * share
        steps += list(rest[head : head + mixed].reshape(-1, share))
        order = [steps[index] for index in random.permutation(len(steps))]
        return np.concatenate([rest[:head], *order, rest[head + mixed :]])


def instance_stream(
    cases: Sequence[InstanceCase], batch_size: int, seed: int, grouped: bool, rank: int = 0, world_size: int = 1
) -> SampleStream:
    """The order of the training images.

    Args:
        cases: of the training.
        batch_size: samples per step and process.
        seed: of the order.
        grouped: steps of images of like shape.
        rank, world_size: of this process.
    """
    if grouped:
        return AspectGroupedStream([case.size for case in cases], batch_size, seed, rank, world_size)
    return SampleStream(len(cases), batch_size, seed, rank, world_size)


def share_of_batch(images: int) -> int:
    """Images per step of each process where all together shall have `images`, as recipes want it.

    Raises:
        InputError: the processes cannot have equal shares.
    """
    processes = process_group.world_size()
    if images % processes:
        raise InputError(
            f"--batch_size: the recipe's {images} images per step cannot be dealt to {processes} processes. "
            f"Cure: a number of processes that divides {images}, or --batch_size for each process, with the learning "
            "rate and max_steps that go with it"
        )
    return images // processes


def prepare_instances(training: bool, channels_last: bool = False) -> Callable[..., Prepared]:
    """Function for the `prepare_batch` of MONAI's engines.

    It takes what `collate_instances` gives and returns `(images, targets, (image_sizes, targets), {})`, so that the
    engine calls `network(images, image_sizes, targets)`, which gives losses; with `training` False
    `(images, None, (image_sizes,), {})`, which gives detections.

    Args:
        training: the batch has targets, and they are wanted.
        channels_last: memory layout of the images.
    """
    memory_format = torch.channels_last if channels_last else torch.contiguous_format

    def prepared(
        batch: Mapping[str, Any],
        device: torch.device | str | None = None,
        non_blocking: bool = False,
        **_: Any,
    ) -> Prepared:
        images = batch["image"]
        place = images.device if device is None else torch.device(device)
        images = images.to(place, non_blocking=non_blocking).contiguous(memory_format=memory_format)
        sizes = batch["image_sizes"]  # read on the host: on a device every step would wait for the one before
        if not training:
            return images, None, (sizes,), {}
        targets = [target.to(place, non_blocking) for target in batch["targets"]]
        return images, targets, (sizes, targets), {}

    return prepared
