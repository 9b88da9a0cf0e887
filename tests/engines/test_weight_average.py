"""The exponential moving average of weights."""

from __future__ import annotations

import torch
from ignite.engine import Engine

from monai_ext.engines.weight_average import WeightAverage


def test_average_follows_the_formula() -> None:
    network = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.zeros_(network.weight)
    average = WeightAverage(network, decay=0.5)
    expected = 0.0
    for step in range(1, 6):
        torch.nn.init.constant_(network.weight, float(step))
        average.update()
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * step
    torch.testing.assert_close(float(average.module.weight), expected)


def test_skipped_step_does_not_count() -> None:
    network = torch.nn.Linear(1, 1, bias=False)
    average = WeightAverage(network, decay=0.5)
    engine = Engine(lambda engine, skipped: setattr(engine.state, "step_skipped", skipped))
    average.attach(engine)
    engine.run([False, True, True, False])
    assert average.steps == 2


def test_counters_are_copied_and_state_survives() -> None:
    network = torch.nn.BatchNorm1d(2)
    average = WeightAverage(network, decay=0.9)
    network(torch.randn(4, 2))
    average.update()
    assert int(average.module.num_batches_tracked) == 1
    other = WeightAverage(torch.nn.BatchNorm1d(2), decay=0.9)
    other.load_state_dict(average.state_dict())
    torch.testing.assert_close(other.module.running_mean, average.module.running_mean)
    assert other.steps == 1


def test_decay_zero_is_the_network_itself() -> None:
    network = torch.nn.Linear(1, 1)
    assert WeightAverage(network, decay=0).module is network
