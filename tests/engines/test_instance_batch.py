"""Batches of images with objects: padding, order by shape, and what MONAI's engines hand to the network."""

from __future__ import annotations

from itertools import islice
from typing import Any

import numpy as np
import pytest
import torch
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from torch import nn

from monai_ext.engines.capped_objects import CappedObjects
from monai_ext.engines.instance_batch import AspectGroupedStream, collate_instances, prepare_instances
from monai_ext.engines.sample_stream import SampleStream
from monai_ext.networks.mask_rcnn.structures import Targets


def sample(height: int, width: int, objects: int, name: str) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(height)
    return {
        "image": torch.rand(3, height, width, generator=generator) + 1,
        "label_map": torch.ones(height, width, dtype=torch.int32),
        "boxes": torch.rand(objects, 4, generator=generator),
        "labels": torch.ones(objects, dtype=torch.int64),
        "ids": torch.arange(objects, dtype=torch.int32),
        "crowd": torch.zeros(1, 4),
        "capped": objects // 2,
        "case": name,
    }


def test_images_are_padded_to_one_size() -> None:
    samples = [sample(40, 65, 3, "a"), sample(50, 20, 0, "b")]
    batch = collate_instances(samples, 32)
    assert batch["image"].shape == (2, 3, 64, 96)
    assert batch["image_sizes"].tolist() == [[40, 65], [50, 20]]
    assert (batch["image_sizes"].dtype, batch["case"], batch["capped"]) == (torch.int64, ["a", "b"], 1)
    for image, target, one in zip(batch["image"], batch["targets"], samples, strict=True):
        height, width = one["image"].shape[1:]
        assert torch.equal(image[:, :height, :width], one["image"])
        assert image.sum() == pytest.approx(float(one["image"].sum()), rel=1e-5)  # all else is 0
        assert isinstance(target, Targets)
        assert target.label_map.shape == (64, 96)
        assert target.label_map.dtype == torch.int32
        assert torch.equal(target.label_map[:height, :width], one["label_map"])
        assert target.label_map.sum() == height * width
        assert all(torch.equal(getattr(target, name), one[name]) for name in ("boxes", "labels", "ids", "crowd"))


def test_least_size_of_a_batch() -> None:
    samples = [sample(40, 65, 3, "a")]
    assert collate_instances(samples, 64)["image"].shape == (1, 3, 64, 128)
    assert collate_instances(samples, 32, (96, 40))["image"].shape == (1, 3, 96, 96)
    assert collate_instances([sample(64, 96, 0, "a")], 32)["image"].shape == (1, 3, 64, 96)


def test_whole_images_have_no_targets() -> None:
    whole = [{"image": torch.ones(1, 5, 9), "size": (10, 18), "case": "a", "path": "/a.png"} for _ in range(2)]
    batch = collate_instances(whole, 8)
    assert batch.keys() == {"image", "image_sizes", "size", "case", "path"}
    assert batch["image"].shape == (2, 1, 8, 16)
    assert batch["size"] == [(10, 18), (10, 18)]


class Losses(nn.Module):
    """Stands for a detector: says what it was called with."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))
        self.calls: list[tuple[Any, ...]] = []

    def forward(self, images: torch.Tensor, image_sizes: Any = None, targets: Any = None) -> Any:
        self.calls.append((images, image_sizes, targets))
        return {"mask": self.weight * images.mean()} if targets is not None else images[:, :1]


def total(losses: dict[str, torch.Tensor], targets: Any) -> torch.Tensor:
    return sum(losses.values(), torch.zeros(()))


def test_engines_of_monai_call_the_network_with_sizes_and_targets() -> None:
    network, counted = Losses(), CappedObjects()
    batches = [collate_instances([sample(40, 65, 3, "a"), sample(50, 20, 4, "b")], 32)] * 2
    trainer = SupervisedTrainer(
        device=torch.device("cpu"),
        max_epochs=2,
        train_data_loader=batches,
        network=network,
        optimizer=torch.optim.SGD(network.parameters(), 0.1),
        loss_function=total,
        prepare_batch=prepare_instances(training=True, channels_last=True),
    )
    counted.attach(trainer)
    trainer.run()
    images, sizes, targets = network.calls[0]
    assert images.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(images, batches[0]["image"])
    assert torch.equal(sizes, batches[0]["image_sizes"])
    assert all(torch.equal(a, b) for a, b in zip(targets[1][:-1], batches[0]["targets"][1][:-1], strict=True))
    assert network.weight.item() < 1
    assert (counted.epoch, counted.total) == (6, 12)

    evaluator = SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=batches[:1],
        network=network,
        prepare_batch=prepare_instances(training=False),
        decollate=False,
    )
    evaluator.run()
    images, sizes, targets = network.calls[-1]
    assert targets is None
    assert torch.equal(sizes, batches[0]["image_sizes"])
    assert evaluator.state.output["label"] is None


def test_sizes_stay_on_the_host() -> None:
    batch = collate_instances([sample(40, 65, 3, "a"), sample(50, 20, 4, "b")], 32)
    images, targets, (sizes, _), _ = prepare_instances(training=True)(batch, torch.device("meta"))
    assert {images.device.type, *(tensor.device.type for tensor in targets[0][:-1])} == {"meta"}
    assert sizes.device.type == "cpu"  # a network that reads them there waits for nothing


def shapes(wide: int, upright: int) -> list[tuple[int, int]]:
    random = np.random.default_rng(0)
    long, short = random.integers(600, 700, wide + upright), random.integers(300, 500, wide + upright)
    return [
        (int(s), int(g)) if index < wide else (int(g), int(s))
        for index, (g, s) in enumerate(zip(long, short, strict=True))
    ]


def first(stream: SampleStream, steps: int) -> list[tuple[int, int, int]]:
    return list(islice(stream, steps * stream.batch_size))


@pytest.mark.parametrize(("wide", "upright", "batch_size"), [(30, 11, 4), (7, 0, 3), (3, 2, 4), (1, 1, 8), (16, 16, 4)])
def test_every_pass_shows_every_case_once(wide: int, upright: int, batch_size: int) -> None:
    sizes = shapes(wide, upright)
    stream = AspectGroupedStream(sizes, batch_size, seed=3)
    shown = [case for _, case, _ in first(stream, 5 * len(sizes))]
    passes = [shown[start : start + len(sizes)] for start in range(0, 5 * len(sizes), len(sizes))]
    assert all(sorted(one) == list(range(len(sizes))) for one in passes)
    assert len(sizes) < 5 or len({tuple(one) for one in passes}) == 5


@pytest.mark.parametrize("batch_size", [2, 4, 7])
def test_steps_show_like_shapes(batch_size: int) -> None:
    sizes = shapes(61, 39)
    stream = AspectGroupedStream(sizes, batch_size, seed=1)
    steps = 10 * 100 // batch_size
    shown = first(stream, steps)
    mixed = 0
    for step in range(steps):
        kinds = {sizes[case][0] > sizes[case][1] for _, case, _ in shown[step * batch_size : (step + 1) * batch_size]}
        mixed += len(kinds) > 1
    # ten passes: at most one step of the rest in each, and one where two meet
    assert mixed <= 20
    plain = first(SampleStream(100, batch_size, seed=1), steps)
    by_chance = sum(
        len({sizes[case][0] > sizes[case][1] for _, case, _ in plain[step * batch_size : (step + 1) * batch_size]}) > 1
        for step in range(steps)
    )
    assert mixed < 0.5 * by_chance


def test_stream_is_resumed_and_shared_between_ranks() -> None:
    sizes = shapes(13, 10)
    whole = first(AspectGroupedStream(sizes, 4, seed=1), 20)
    resumed = AspectGroupedStream(sizes, 4, seed=1)
    resumed.start_at(9)
    assert first(resumed, 11) == whole[36:]
    ranks = [first(AspectGroupedStream(sizes, 2, seed=1, rank=r, world_size=2), 20) for r in (0, 1)]
    together = [item for step in range(20) for rank in ranks for item in rank[2 * step : 2 * step + 2]]
    assert together == whole
    assert all(resumed.case_index(number) == case for number, case, _ in reversed(whole))
    assert first(AspectGroupedStream(sizes, 4, seed=2), 20) != whole


def test_more_groups() -> None:
    sizes = [(100, 100 * (1 + number % 4)) for number in range(64)]
    stream = AspectGroupedStream(sizes, 4, bounds=(0.3, 0.4, 0.7))
    assert len(np.unique(stream.groups)) == 4
    shown = first(stream, 16)
    assert all(len({sizes[case] for _, case, _ in shown[start : start + 4]}) == 1 for start in range(0, 64, 4))
