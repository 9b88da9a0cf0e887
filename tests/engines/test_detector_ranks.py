"""Two processes learn from a detector's losses what one process with all their images learns."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pytest
import torch
from ignite.engine import Events
from monai.engines import SupervisedTrainer
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.nn.parallel import DistributedDataParallel

from monai_ext.engines import process_group
from monai_ext.engines.accumulated_step import AccumulatedStep
from monai_ext.engines.detector_ranks import data_parallel_detector, mean_over_processes
from monai_ext.engines.instance_batch import prepare_instances, share_of_batch
from monai_ext.losses.detection_loss import LOSSES, DetectionLoss
from rank_processes import on_ranks
from small_detector import discs, small_detector

UNEQUAL = (1, 6, 0, 3)  # objects of four images: of their masks, means of the halves are not the mean of all
CANDIDATES = {"roi_batch": 300, "mask_batch": 5}  # more places than proposals, so that regions differ in number too
EQUAL, FULL = (3, 3, 3, 3), {"roi_batch": 16, "mask_batch": 1}  # every image counts as many regions and masks


def batch_of(numbers: range, objects: tuple[int, ...]) -> dict[str, Any]:
    """Images of discs; what is drawn of each is told by its number."""
    images, targets = zip(*(discs(objects[number % 4], seed=number) for number in numbers), strict=True)
    sizes = torch.tensor([image.shape[1:] for image in images])
    drawn = [one._replace(draw=1000 + number) for number, one in zip(numbers, targets, strict=True)]
    return {"image": torch.stack(images), "image_sizes": sizes, "targets": drawn}


def trained(
    parts: int,
    batch: int,
    common_counts: bool = True,
    objects: tuple[int, ...] = UNEQUAL,
    rules: dict[str, int] = CANDIDATES,
) -> tuple[list[dict[str, float]], dict[str, np.ndarray], int]:
    """Losses (mean over the processes) of two steps, gradients of the first, and number of messages with gradients."""
    rank, world = process_group.rank(), process_group.world_size()
    network = small_detector(**rules)
    wrapped = data_parallel_detector(network, "cpu")
    if not common_counts:
        network.mean_count = None
    messages: list[int] = []
    if isinstance(wrapped, DistributedDataParallel):
        # without annotations, which DDP would compare
        wrapped.register_comm_hook(
            None, lambda state, bucket: (messages.append(bucket.index()), allreduce_hook(state, bucket))[1]
        )
    loss = DetectionLoss()
    starts = [(step * world + rank) * batch for step in range(2)]
    trainer = SupervisedTrainer(
        device="cpu",
        max_epochs=1,
        train_data_loader=[batch_of(range(start, start + batch), objects) for start in starts],
        network=wrapped,
        optimizer=torch.optim.SGD(network.parameters(), 0.01),
        loss_function=loss,
        prepare_batch=prepare_instances(training=True),
        decollate=False,
        iteration_update=AccumulatedStep(parts),
    )
    rows: list[dict[str, float]] = []
    gradients: dict[str, np.ndarray] = {}

    def note(engine: Any) -> None:
        shares = process_group.gather({name: float(value) for name, value in loss.last_parts.items()})
        rows.append({name: sum(share[name] for share in shares) / world for name in LOSSES})
        if not gradients:
            for name, weight in network.named_parameters():
                assert weight.grad is not None, name
                gradients[name] = weight.grad.numpy().copy()

    trainer.add_event_handler(Events.ITERATION_COMPLETED, note)
    trainer.run()
    assert isinstance(wrapped, DistributedDataParallel) == (world > 1)
    return rows, gradients, len(messages)


def far_apart(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> float:
    """Largest difference of a gradient, relative to its own largest entry."""
    return max(float(np.abs(one[name] - other[name]).max() / (np.abs(one[name]).max() + 1e-6)) for name in one)


def test_losses_and_gradients_are_those_of_all_images() -> None:
    rows, gradients, _ = trained(1, 4)
    shares = on_ranks(trained, 2, 1, 2)
    for ranked, own, _ in shares:
        # float32 sums in another order
        assert far_apart(gradients, own) < 1e-4
        for a, b in zip(rows, ranked, strict=True):
            assert b == pytest.approx(a, rel=1e-4, abs=1e-6)
    # what would come out without the common numbers is far from that
    without = on_ranks(trained, 2, 1, 2, False)[0][1]
    assert far_apart(gradients, without) > 0.05


def test_accumulated_parts_are_averaged_once() -> None:
    """With equal numbers in all parts, two processes with two parts each are one process with a whole batch."""
    rows, gradients, _ = trained(1, 4, True, EQUAL, FULL)
    (ranked, own, messages), (_, other, _) = on_ranks(trained, 2, 2, 2, True, EQUAL, FULL)
    assert far_apart(gradients, own) < 1e-4
    assert digest(own) == digest(other)  # processes that go on with other gradients would drift apart
    assert ranked[0] == pytest.approx(rows[0], rel=1e-4, abs=1e-6)
    assert messages <= 3  # one in the first step, two when DDP has sorted the weights; each of the four passes: 7


def digest(values: dict[str, np.ndarray]) -> str:
    return hashlib.sha256(b"".join(values[name].tobytes() for name in sorted(values))).hexdigest()


def mean_of_own() -> list[float]:
    return mean_over_processes(torch.tensor([1.0 + process_group.rank(), 8.0])).tolist()


def test_mean_over_processes() -> None:
    assert on_ranks(mean_of_own, 3) == [[2.0, 8.0]] * 3


def test_recipes_keep_their_batch() -> None:
    """A recipe's batch is that of all processes together."""
    assert share_of_batch(16) == 16
    assert on_ranks(share_of_batch, 2, 16) == [8, 8]
    assert all("16 images per step cannot be dealt to 3 processes" in told for told in on_ranks(share_of_batch, 3, 16))
