"""Gradient accumulation gives the gradient of the whole batch, in one step of the optimiser."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from monai.engines import SupervisedTrainer

from monai_ext.engines.accumulated_step import AccumulatedStep, split_batch
from monai_ext.engines.gradient_clip import GradientClip
from monai_ext.errors import InputError


class _Loss(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.last_parts: dict[str, torch.Tensor] = {}

    def forward(self, prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        loss = (prediction - target).square().mean()
        self.last_parts = {"square": loss.detach()}
        return loss


def _trained(parts: int | None, clip: float = 0.0, images: int = 7) -> tuple[torch.nn.Module, Any, list[float]]:
    torch.manual_seed(3)
    network = torch.nn.Linear(4, 2)
    batches = [{"image": torch.randn(images, 4), "label": torch.randn(images, 2)} for _ in range(3)]
    loss, seen = _Loss(), list[float]()
    trainer = SupervisedTrainer(
        device="cpu",
        max_epochs=1,
        train_data_loader=batches,
        network=network,
        optimizer=torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9),
        loss_function=loss,
        train_handlers=[GradientClip(clip)] if clip else [],
        decollate=False,
        iteration_update=None if parts is None else AccumulatedStep(parts),
    )
    from ignite.engine import Events

    trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda e: seen.append(float(e.state.output["loss"])))
    trainer.run()
    return network, loss, seen


@pytest.mark.parametrize("parts", [1, 2, 3, 7, 20])
@pytest.mark.parametrize("clip", [0.0, 0.3])
def test_training_in_parts_is_training_on_the_batch(parts: int, clip: float) -> None:
    whole, whole_loss, whole_values = _trained(None, clip)
    split, split_loss, split_values = _trained(parts, clip)
    # sums in another order: a few units of float32's last place
    torch.testing.assert_close(split.weight, whole.weight, rtol=1e-5, atol=1e-6)
    assert split_values == pytest.approx(whole_values, rel=1e-5)
    assert float(split_loss.last_parts["square"]) == pytest.approx(float(whole_loss.last_parts["square"]), rel=1e-5)


def test_parts_keep_order_and_count_images() -> None:
    batch = {"image": torch.arange(5), "case": list("abcde"), "name": "set", "scale": torch.tensor(2.0)}
    pieces = split_batch(batch, 2)
    assert [count for _, count in pieces] == [2, 3]
    assert [piece["case"] for piece, _ in pieces] == [["a", "b"], ["c", "d", "e"]]
    assert torch.cat([piece["image"] for piece, _ in pieces]).tolist() == list(range(5))
    assert all(piece["name"] == "set" and float(piece["scale"]) == 2 for piece, _ in pieces)


def test_no_part_is_refused() -> None:
    with pytest.raises(InputError, match="--accumulate_steps 0"):
        AccumulatedStep(0)
