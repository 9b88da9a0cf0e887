"""Loss and gradient of a batch that is spread over processes are those of the batch in one process."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from monai_ext.engines import process_group
from monai_ext.engines.data_parallel import data_parallel
from monai_ext.losses.deep_supervision import DeeplySupervised
from monai_ext.losses.dice_cross_entropy import DiceCrossEntropy
from monai_ext.losses.sums_over_processes import sums_over_processes
from rank_processes import on_ranks

CLASSES, IGNORED, BATCH = 3, 9, 4


class _TwoLevels(torch.nn.Module):
    """A network with outputs at two resolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.fine = torch.nn.Conv3d(1, CLASSES, 3, padding=1)
        self.coarse = torch.nn.Conv3d(1, CLASSES, 2, stride=2)

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        return [self.fine(images), self.coarse(images)]


def _batch() -> tuple[torch.Tensor, torch.Tensor]:
    """Images and labels; the last two samples hold most of the ignored voxels and lack a class."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(BATCH, 1, 4, 6, 8, generator=generator)
    labels = torch.randint(0, CLASSES, (BATCH, 1, 4, 6, 8), generator=generator)
    labels[2:][labels[2:] == 2] = 1
    labels[2:, :, :, :3] = IGNORED
    labels[0, :, 0, 0, :3] = IGNORED
    return images, labels


def _step(options: dict[str, Any]) -> tuple[float, dict[str, Any], dict[str, Any]]:
    """Mean loss over the processes, its parts, and gradients of a step on this process's share of the batch."""
    torch.manual_seed(3)
    network = _TwoLevels()
    loss = DeeplySupervised(DiceCrossEntropy(num_classes=CLASSES, **options))
    images, labels = _batch()
    if options.get("ignore_index") is None:
        labels[labels == IGNORED] = 0
    size = BATCH // process_group.world_size()
    share = slice(process_group.rank() * size, (process_group.rank() + 1) * size)
    together = data_parallel(network, "cpu")
    value = loss(together(images[share]), labels[share])
    value.backward()
    shares = process_group.gather(
        (float(value.detach()), {name: float(part) for name, part in loss.last_parts.items()})
    )
    means = {name: sum(parts[name] for _, parts in shares) / len(shares) for name in loss.last_parts}
    gradients = {name: w.grad.numpy() for name, w in network.named_parameters() if w.grad is not None}
    return sum(mean for mean, _ in shares) / len(shares), means, gradients


@pytest.mark.parametrize(
    "options",
    [
        {"batch_dice": True},
        {"batch_dice": False},
        {"batch_dice": True, "ignore_index": IGNORED},
        {"batch_dice": False, "ignore_index": IGNORED},
        {"batch_dice": False, "class_weights": [1.0, 2.0, 5.0]},
        {"batch_dice": True, "activation": "sigmoid", "ignore_index": IGNORED},
        {"batch_dice": True, "focal_gamma": 2.0, "class_weights": [1.0, 2.0, 5.0], "ignore_index": IGNORED},
    ],
    ids=str,
)
def test_loss_and_gradient_of_two_ranks_are_those_of_one_process(options: dict[str, Any]) -> None:
    value, parts, gradients = _step(options)
    assert max(abs(g).max() for g in gradients.values()) > 1e-3
    for found, found_parts, found_gradients in on_ranks(_step, 2, options):
        # the same float32 sums in another order
        assert found == pytest.approx(value, rel=1e-6)
        assert found_parts == pytest.approx(parts, rel=1e-5)
        assert set(found_gradients) == set(gradients)
        for name, gradient in gradients.items():
            torch.testing.assert_close(
                torch.from_numpy(found_gradients[name]), torch.from_numpy(gradient), rtol=1e-4, atol=1e-7
            )


def test_the_batch_matters() -> None:
    """What the test above compares would differ if every process took ratios of its own part."""
    images, labels = _batch()
    network, loss = _TwoLevels(), DeeplySupervised(DiceCrossEntropy(batch_dice=True, ignore_index=IGNORED))
    with torch.no_grad():
        whole = float(loss(network(images), labels))
        parts = [float(loss(network(images[half]), labels[half])) for half in (slice(0, 2), slice(2, 4))]
    assert abs(whole - sum(parts) / 2) > 1e-3


def _messages() -> tuple[int, list[Any]]:
    calls: list[int] = []
    real = torch.distributed.all_reduce
    torch.distributed.all_reduce = lambda values, *rest: (calls.append(values.numel()), real(values, *rest))
    images, labels = _batch()
    labels[labels == IGNORED] = 0
    network = _TwoLevels()
    for options in ({"batch_dice": True}, {"batch_dice": False}):
        DeeplySupervised(DiceCrossEntropy(**options))(network(images), labels).backward()
    return len(calls), calls


def test_one_message_a_step_and_none_where_none_is_needed() -> None:
    assert on_ranks(_messages, 2) == [(1, [2 * 3 * CLASSES])] * 2  # two levels, three sums a class


def test_alone_nothing_changes() -> None:
    values = torch.ones(2, requires_grad=True)
    assert sums_over_processes([values])[0] is values
