"""A network whose kernels are launched all at once: for small batches on a GPU, where launching is what takes time."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

import torch
from torch import nn

_WARMUP_CALLS = 3  # libraries choose and allocate at their first calls, which a graph must not contain
Replay = Callable[[torch.Tensor], torch.Tensor]
Key = tuple[torch.Size, tuple[int, ...], torch.dtype, torch.device, torch.dtype | None]


class CudaGraphCall(nn.Module):
    """Inference by replaying a CUDA graph per shape of the input.

    The first call with a shape, layout, type or autocast type records the kernels of the network; later calls copy the
    input to where they read it and launch all of them at once. The weights must stay where they are: after moving or
    replacing them, make a new one. Inputs on other devices go to the network itself.

    Args:
        network: from one tensor to one tensor, in evaluation mode; what it does must not depend on values.
        kept_graphs: the least recently used graph beyond this number is given up; each holds its own activations.
        record: makes the replay of a network for an example; exchanged in tests.

    Raises:
        ValueError: the network is in training mode, which a graph would repeat with its first random numbers.
    """

    def __init__(
        self,
        network: nn.Module,
        kept_graphs: int = 4,
        record: Callable[[nn.Module, torch.Tensor], Replay] | None = None,
    ) -> None:
        super().__init__()
        if network.training:
            raise ValueError("a CUDA graph is for inference: call network.eval() first")
        self.network = network
        self.kept_graphs = kept_graphs
        self._record = record or record_cuda_graph
        self._replays: OrderedDict[Key, Replay] = OrderedDict()
        self.eval()

    @torch.no_grad()
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """What `network(x)` is, without gradients; the result is the caller's."""
        if not self._takes(x):
            return self.network(x)
        autocast = torch.get_autocast_dtype("cuda") if torch.is_autocast_enabled("cuda") else None
        key = (x.shape, x.stride(), x.dtype, x.device, autocast)
        if key not in self._replays:
            self._replays[key] = self._record(self.network, x)
            while len(self._replays) > self.kept_graphs:
                self._replays.popitem(last=False)
        self._replays.move_to_end(key)
        return self._replays[key](x)

    def _takes(self, x: torch.Tensor) -> bool:
        return x.is_cuda


def record_cuda_graph(network: nn.Module, example: torch.Tensor) -> Replay:
    """Record `network(example)` on the device of `example`; what comes back runs it for tensors like the example."""
    autocast = torch.autocast(
        "cuda",
        torch.get_autocast_dtype("cuda"),
        enabled=torch.is_autocast_enabled("cuda"),
        # weights that were cast outside of the graph would be freed under it
        cache_enabled=False,
    )
    with torch.cuda.device(example.device), autocast, torch.no_grad():
        read_from = example.clone()
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(_WARMUP_CALLS):
                network(read_from)
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            written = network(read_from)

    def replay(x: torch.Tensor) -> torch.Tensor:
        with torch.cuda.device(x.device):
            read_from.copy_(x)
            graph.replay()
            # the next replay overwrites it
            return written.clone()

    return replay
