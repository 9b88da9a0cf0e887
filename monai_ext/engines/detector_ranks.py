"""A detector trained by several processes as one process would train it on all their images."""

from __future__ import annotations

import torch
from torch import distributed, nn

from monai_ext.engines import process_group
from monai_ext.engines.data_parallel import data_parallel


def data_parallel_detector(network: nn.Module, device: torch.device | str) -> nn.Module:
    """Wrap a `MaskRCNN`, so that gradients are averaged and losses divided by numbers of all processes' images.

    The losses of the heads are means over regions and masks, of which images have different numbers: means of means of
    the processes would not be the mean of all. Alone, the network comes back as it is.

    Args:
        network: on its device.
        device: of the training.

    Raises:
        InputError: as `data_parallel`.
    """
    if process_group.running():
        network.mean_count = mean_over_processes  # type: ignore[assignment]
    # not static: accumulated parts send no messages, the last one does, and heads may see other regions or none
    return data_parallel(network, device, static_graph=False)


@torch.no_grad()
def mean_over_processes(counts: torch.Tensor) -> torch.Tensor:
    """Mean of a float tensor over the processes, on its device; the host does not wait for a GPU."""
    counts = counts / process_group.world_size()
    distributed.all_reduce(counts)
    return counts
