"""Batch norm over the batches of all processes instead of each its own."""

from __future__ import annotations

import logging

import torch
from torch import distributed, nn

from monai_ext.errors import InputError
from monai_ext.networks.fake_quantisation import is_fake_quantised
from monai_ext.networks.shared_batch_norm import with_shared_statistics

logger = logging.getLogger(__name__)


def with_sync_batch_norm(network: nn.Module, sync_bn: bool, norm: str, device: torch.device | str) -> nn.Module:
    """Replace batch norms by synchronised ones where several processes train together; weights stay loadable.

    Names and shapes of the weights do not change, so a file from either kind loads into the other.

    Args:
        network: changed in place, apart from a network that is a batch norm itself.
        sync_bn: whether it is wanted.
        norm: normalisation layer of the network, as in its plan.
        device: where it will run; PyTorch's synchronised batch norm is for GPUs, `SharedBatchNorm` for processors.

    Raises:
        InputError: it is wanted for a network without batch norm, or for one that learns ranges of quantisation.
    """
    if not sync_bn:
        return network
    if norm != "batch":
        raise InputError(
            f"--sync_bn True: the network has {norm} norm, which needs no synchronisation. "
            "Cure: --norm batch, or leave sync_bn False"
        )
    processes = distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1
    if processes < 2:
        logger.warning("sync_bn: training runs in one process, batch norm stays as it is")
        return network
    if is_fake_quantised(network):
        raise InputError(
            "--sync_bn True with --quantize qat: ranges of quantisation are learned by every process for itself. "
            "Cure: one of them"
        )
    if torch.device(device).type == "cpu":
        return with_shared_statistics(network)
    return nn.SyncBatchNorm.convert_sync_batchnorm(network)
