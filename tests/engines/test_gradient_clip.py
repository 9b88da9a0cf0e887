"""Clipping acts between backward pass and step."""

from __future__ import annotations

import pytest
import torch
from monai.engines import SupervisedTrainer

from monai_ext.engines.gradient_clip import GradientClip


def step(max_norm: float) -> tuple[float, object]:
    """Size of one SGD step with rate 1 under a gradient of norm 30."""
    network = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.zeros_(network.weight)
    trainer = SupervisedTrainer(
        device="cpu",
        max_epochs=1,
        train_data_loader=[{"image": torch.full((1, 1), 30.0), "label": torch.zeros(1, 1)}],
        network=network,
        optimizer=torch.optim.SGD(network.parameters(), lr=1.0),
        loss_function=lambda prediction, _: prediction.sum(),
        train_handlers=[GradientClip(max_norm)],
        decollate=False,
    )
    trainer.run()
    return float(network.weight.detach().abs()), trainer.state


@pytest.mark.parametrize(("max_norm", "size"), [(0, 30.0), (12, 12.0), (100, 30.0)])
def test_step_is_as_long_as_allowed(max_norm: float, size: float) -> None:
    found, state = step(max_norm)
    assert found == pytest.approx(size, rel=1e-5)  # clip_grad_norm_ adds 1e-6 to the norm
    if max_norm:
        assert float(state.gradient_norm) == pytest.approx(30.0)
