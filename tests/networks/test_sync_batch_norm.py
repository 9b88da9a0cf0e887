"""When batch norms are synchronised, when that is only said, and when it is refused."""

from __future__ import annotations

import logging

import pytest
import torch
from torch import distributed, nn

from monai_ext.errors import InputError
from monai_ext.networks.plan_unet import PlanUNet
from monai_ext.networks.shared_batch_norm import SharedBatchNorm
from monai_ext.networks.sync_batch_norm import with_sync_batch_norm


def network(norm: str = "batch") -> PlanUNet:
    return PlanUNet(3, 1, 2, [[1] * 3, [2] * 3], [[3] * 3] * 2, (4, 8), norm=norm)


def synchronised(module: nn.Module) -> int:
    return sum(isinstance(m, nn.SyncBatchNorm | SharedBatchNorm) for m in module.modules())


@pytest.fixture
def processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pretend that two processes train: the conversion itself asks no other process."""
    monkeypatch.setattr(distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(distributed, "get_world_size", lambda: 2)


def test_several_processes_share_their_statistics(processes: None) -> None:
    plain = network()
    names = list(plain.state_dict())
    norms = sum(isinstance(m, nn.BatchNorm3d) for m in plain.modules())
    found = with_sync_batch_norm(plain, True, "batch", "cuda:0")
    assert synchronised(found) == norms == 6
    assert list(found.state_dict()) == names
    network().load_state_dict(found.state_dict())


@pytest.mark.parametrize("sync_bn", [False, True])
def test_one_process_keeps_its_norms(sync_bn: bool, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        found = with_sync_batch_norm(network(), sync_bn, "batch", "cuda:0")
    assert synchronised(found) == 0
    assert ("training runs in one process" in caplog.text) == sync_bn


def test_not_wanted_is_not_done(processes: None) -> None:
    assert synchronised(with_sync_batch_norm(network(), False, "batch", "cuda:0")) == 0


def test_processors_have_one_that_ddp_takes(processes: None) -> None:
    """DDP refuses PyTorch's there."""
    found = with_sync_batch_norm(network(), True, "batch", torch.device("cpu"))
    assert synchronised(found) == 6
    assert not any(isinstance(m, nn.SyncBatchNorm) for m in found.modules())


def test_other_norms_are_refused() -> None:
    with pytest.raises(InputError, match=r"--sync_bn True: the network has group norm.*Cure: --norm batch"):
        with_sync_batch_norm(network("group"), True, "group", "cpu")
