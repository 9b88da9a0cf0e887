"""The step at which rounding starts, in a run, after a resume, and for the average of the weights."""

from __future__ import annotations

import logging

import pytest
import torch
from ignite.engine import Engine
from torch import nn

from monai_ext.engines.quantisation_start import QuantisationStart
from monai_ext.engines.weight_average import WeightAverage
from monai_ext.networks.fake_quantisation import ranges, with_fake_quantisation


def layer() -> nn.Module:
    torch.manual_seed(0)
    return with_fake_quantisation(nn.Sequential(nn.Linear(4, 2)))


def active(network: nn.Module) -> bool:
    return all(found.active for _, found in ranges(network))


@pytest.mark.parametrize("delay", [0, 3])
def test_rounding_starts_after_the_delay(delay: int, caplog: pytest.LogCaptureFixture) -> None:
    network = layer()
    average = WeightAverage(network, 0.9)
    seen = []

    def step(engine: Engine, batch: torch.Tensor) -> None:
        seen.append((active(network), active(average.module)))
        network(batch)

    engine = Engine(step)
    QuantisationStart(network, average.module, nn.ReLU(), quant_delay=delay).attach(engine)
    with caplog.at_level(logging.INFO):
        engine.run([torch.randn(2, 4)] * 6)
    assert seen == [(number > delay,) * 2 for number in range(1, 7)]
    assert caplog.text.count("8 bits from step") == 1
    assert f"from step {delay + 1} on" in caplog.text


def test_resumed_run_rounds_where_the_first_would() -> None:
    """A checkpoint from before the start switches it off again; one from after it goes on rounding."""
    network = layer()
    handler = QuantisationStart(network, quant_delay=10)
    engine = Engine(lambda *_: None)
    for iteration, expected in ((5, False), (11, True)):
        for _, found in ranges(network):
            found.active = not expected
        handler.active = None
        engine.state.iteration = iteration
        handler(engine)
        assert active(network) is expected
