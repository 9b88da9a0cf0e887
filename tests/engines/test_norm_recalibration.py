"""Batch norm statistics measured anew before a validation."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from ignite.engine import Engine
from torch import nn

from monai_ext.engines.norm_recalibration import NormRecalibration
from monai_ext.networks.shared_batch_norm import SharedBatchNorm
from rank_processes import on_ranks


class Images(torch.utils.data.Dataset[dict[str, Any]]):
    """Images around grey value 3, where training saw others."""

    def __init__(self, count: int) -> None:
        self.values = 3 + torch.randn(count, 2, 4, 4, generator=torch.Generator().manual_seed(0))

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"image": self.values[index], "label": 0}


def recalibration(network: nn.Module, count: int = 12, **options: Any) -> NormRecalibration:
    given = {"num_images": 12, "batch_size": 4, "device": "cpu", "inferer": lambda x, f: f(x), **options}
    return NormRecalibration(network, Images(count), lambda batch, device: (batch["image"].to(device), None), **given)


@pytest.fixture
def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.BatchNorm2d(2), nn.Dropout(0.9), nn.BatchNorm2d(2, track_running_stats=False))


def test_statistics_are_those_of_the_images(network: nn.Sequential) -> None:
    it = recalibration(network)
    engine = Engine(lambda *_: None)
    it.attach(engine)
    weights = {name: p.clone() for name, p in network.named_parameters()}
    engine.run([0], max_epochs=1)
    norm = network[0]
    batches = [torch.stack([it.images[i]["image"] for i in part]) for part in it._batches()]
    assert [len(batch) for batch in batches] == [4, 4, 4]
    expected = torch.stack([batch.mean((0, 2, 3)) for batch in batches]).mean(0)
    torch.testing.assert_close(norm.running_mean, expected)
    variance = torch.stack([batch.transpose(0, 1).flatten(1).var(1) for batch in batches]).mean(0)
    torch.testing.assert_close(norm.running_var, variance)
    assert all(torch.equal(p, weights[name]) for name, p in network.named_parameters())
    assert norm.momentum == 0.1
    assert not norm.training


def test_every_validation_measures_alike(network: nn.Sequential) -> None:
    it = recalibration(network, num_images=6)
    it.measure()
    first = network[0].running_mean.clone()
    network[0].running_mean.zero_()
    it.measure()
    torch.testing.assert_close(network[0].running_mean, first, rtol=0, atol=0)


@pytest.mark.parametrize("options", [{"num_images": 0}, {"count": 0}])
def test_nothing_to_measure_changes_nothing(network: nn.Sequential, options: dict[str, int]) -> None:
    it = recalibration(network, **options)
    engine = Engine(lambda *_: None)
    it.attach(engine)
    engine.run([0], max_epochs=1)
    assert network[0].running_mean.tolist() == [0, 0]


def test_small_rest_is_spread_over_the_batches(network: nn.Sequential) -> None:
    assert [len(part) for part in recalibration(network, count=9, num_images=9)._batches()] == [3, 3, 3]


def test_batches_of_very_many_processes_stay_small(network: nn.Sequential) -> None:
    it = recalibration(network, count=200, num_images=200, batch_size=4096)
    assert [len(part) for part in it._batches()] == [50, 50, 50, 50]


def test_frozen_parts_keep_their_statistics() -> None:
    network = nn.Sequential()
    network.layer0, network.layer1 = nn.BatchNorm2d(2), nn.BatchNorm2d(2)
    recalibration(network, freeze="stem").measure()
    assert network.layer0.running_mean.tolist() == [0, 0]
    assert network.layer1.running_mean.abs().max() > 1e-9


def _shared(count: int, kind: type[nn.Module]) -> list[Any]:
    it = recalibration(nn.Sequential(kind(2), nn.Conv2d(2, 2, 1), kind(2)), count)
    torch.manual_seed(0)
    it.network[1].reset_parameters()
    it.measure()
    return [np.array(buffer) for buffer in it.network.buffers()]


@pytest.mark.parametrize("kind", [nn.BatchNorm2d, SharedBatchNorm])
@pytest.mark.parametrize("count", [12, 6, 3])
def test_ranks_share_the_batches_of_one_process(count: int, kind: type[nn.Module]) -> None:
    """Three, two and one batch on two ranks, the last without any; norms that share statistics do not do so here."""
    expected = _shared(count, nn.BatchNorm2d)
    for found in on_ranks(_shared, 2, count, kind):
        for value, other in zip(found, expected, strict=True):
            np.testing.assert_allclose(value, other, rtol=1e-5, atol=1e-6)  # float32 sums in another order
    assert expected[2] == -(-count // 4)
