"""Before a validation all processes have the buffers of the first."""

from __future__ import annotations

import numpy as np
import torch
from ignite.engine import Engine
from torch import nn

from monai_ext.engines import process_group
from monai_ext.engines.equal_buffers import EqualBuffers
from rank_processes import on_ranks


def network() -> nn.Module:
    made = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), nn.Sequential(nn.BatchNorm1d(3)))
    made.register_buffer("flag", torch.tensor([True, False]))
    made.register_buffer("empty", torch.empty(0))
    return made


def _buffers() -> dict[str, np.ndarray]:
    torch.manual_seed(process_group.rank())
    made = network()
    for buffer in made.buffers():
        if buffer.is_floating_point():
            buffer.normal_()
        else:
            buffer.fill_(process_group.rank() == 0)
    engine = Engine(lambda *_: None)
    EqualBuffers(made).attach(engine)
    if process_group.rank() == 0:
        kept = {name: value.clone() for name, value in made.state_dict().items()}
    engine.run([0])
    if process_group.rank() == 0:
        torch.testing.assert_close(dict(made.state_dict()), kept, rtol=0, atol=0)
    return {name: np.array(value) for name, value in made.state_dict().items()}


def test_all_ranks_have_the_statistics_of_the_first() -> None:
    first, *others = on_ranks(_buffers, 3)
    for other in others:
        for name in ("1.running_mean", "1.running_var", "1.num_batches_tracked", "2.0.running_var", "flag"):
            np.testing.assert_array_equal(other[name], first[name])
        assert not np.array_equal(other["0.weight"], first["0.weight"])  # weights are not its matter
    assert first["flag"].all()


def test_alone_nothing_changes() -> None:
    made = network()
    before = {name: value.clone() for name, value in made.state_dict().items()}
    engine = Engine(lambda *_: None)
    EqualBuffers(made).attach(engine)
    engine.run([0])
    torch.testing.assert_close(dict(made.state_dict()), before, rtol=0, atol=0)
