"""The network as every process trains it: with gradients averaged over all processes."""

from __future__ import annotations

import os

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from monai_ext.engines import process_group
from monai_ext.errors import InputError


def data_parallel(
    network: nn.Module,
    device: torch.device | str,
    static_graph: bool = True,
    bucket_mb: float | None = None,
    gradients_in_buckets: bool = True,
) -> nn.Module:
    """Wrap a network so that its backward pass averages gradients over the processes; alone, give it back as it is.

    The weights of the first process are given to all. Weights stay those of `network`, so that an average, a
    checkpoint or an optimiser that holds `network` needs no unwrapping.

    Args:
        network: on its device.
        device: of the training.
        static_graph: every step uses the same weights in the same order, which lets DDP plan its messages once.
        bucket_mb: gradients sent in one message, in MiB; None: 25, but 1 in the first.
        gradients_in_buckets: gradients are views of what is sent, which spares a copy of all of them.

    Raises:
        InputError: torchrun started several processes that never joined, or several share one GPU.
    """
    if not process_group.running():
        process_group.check_joined()
        return network
    device = torch.device(device)
    machine = os.environ.get("GROUP_RANK", "0")
    places = process_group.gather((machine, str(device)))
    if device.type == "cuda" and len(set(places)) < len(places):
        raise InputError(f"--device {device}: several processes would share one GPU. Cure: leave --device out")
    # no device_ids: engines have moved the inputs, and DDP would move along what a network wants to read on the host
    return DistributedDataParallel(
        network,
        bucket_cap_mb=bucket_mb,
        gradient_as_bucket_view=gradients_in_buckets,
        static_graph=static_graph,
    )
