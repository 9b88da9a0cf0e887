"""A diverged training stops with a message before anything is saved."""

from __future__ import annotations

import pytest
import torch
from ignite.engine import Engine, Events

from monai_ext.engines.finite_loss import FiniteLoss
from monai_ext.errors import InputError


def steps(losses: list[float], interval: int) -> list[int]:
    """Run an epoch; return the step at which each save would happen."""
    saved: list[int] = []
    engine = Engine(lambda _, value: {"loss": torch.tensor(value)})
    FiniteLoss(interval).attach(engine)
    engine.add_event_handler(Events.EPOCH_COMPLETED, lambda e: saved.append(e.state.iteration))
    engine.run(losses, max_epochs=1)
    return saved


def test_finite_losses_pass() -> None:
    assert steps([1.0, 2.0, 3.0], 2) == [3]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize(("interval", "noticed"), [(2, 2), (100, 4)])
def test_bad_loss_is_noticed_before_saving(bad: float, interval: int, noticed: int) -> None:
    with pytest.raises(InputError, match=f"by step {noticed}.*--learning_rate"):
        steps([1.0, bad, 1.0, 1.0], interval)
