"""All processes validate the running statistics that are saved: those of the first."""

from __future__ import annotations

import torch
from ignite.engine import Engine

from monai_ext.engines import process_group
from monai_ext.engines.first_buffers import FirstBuffers
from rank_processes import on_ranks


def _statistics() -> tuple[list[float], float, int]:
    """Running mean at the evaluator's first case, a weight, and the number of batches seen."""
    network = torch.nn.BatchNorm1d(2)
    torch.nn.init.constant_(network.weight, float(process_group.rank()))
    network(torch.full((4, 2), 10.0 * (1 + process_group.rank())))
    seen: list[list[float]] = []
    evaluator = Engine(lambda *_: seen.append(network.running_mean.tolist()))
    FirstBuffers(network).attach(evaluator)
    evaluator.run([0])
    return seen[0], float(network.weight.detach()[0]), int(network.num_batches_tracked)


def test_buffers_are_those_of_the_first_process() -> None:
    alone = _statistics()
    assert alone == ([1.0, 1.0], 0.0, 1)  # momentum 0.1
    assert on_ranks(_statistics, 2) == [alone, ([1.0, 1.0], 1.0, 1)]
