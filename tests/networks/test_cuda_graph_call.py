"""Which inputs share a recorded graph; the recording itself needs a GPU."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from monai_ext.networks.cuda_graph_call import CudaGraphCall, Replay
from small_classifier import small


class _Recorded:
    """Stands for the recording: notes its examples."""

    def __init__(self) -> None:
        self.examples: list[torch.Tensor] = []

    def __call__(self, network: nn.Module, example: torch.Tensor) -> Replay:
        self.examples.append(example)
        return lambda x: network(x) + len(self.examples)


@pytest.fixture
def everything_replays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CudaGraphCall, "_takes", lambda *_: True)


@pytest.mark.usefixtures("everything_replays")
def test_graph_per_shape_layout_and_type() -> None:
    record = _Recorded()
    call = CudaGraphCall(nn.Identity().eval(), record=record)
    x = torch.zeros(2, 3, 4, 4)
    assert float(call(x).max()) == float(call(x + 0).max()) == 1
    assert len(record.examples) == 1
    for other in (x[:1], x.contiguous(memory_format=torch.channels_last), x.double()):
        call(other)
        call(other)
    assert len(record.examples) == 4


@pytest.mark.usefixtures("everything_replays")
def test_least_recently_used_graph_is_given_up() -> None:
    record = _Recorded()
    call = CudaGraphCall(nn.Identity().eval(), kept_graphs=2, record=record)
    for size in (1, 2, 1, 3, 1):
        call(torch.zeros(size))
    assert [len(e) for e in record.examples] == [1, 2, 3]
    call(torch.zeros(2))
    assert [len(e) for e in record.examples] == [1, 2, 3, 2]


def test_inputs_on_other_devices_go_to_the_network() -> None:
    network = small().eval()
    record = _Recorded()
    image = torch.randn(1, 1, 32, 32)
    y = CudaGraphCall(network, record=record)(image)
    torch.testing.assert_close(y, network(image), rtol=0, atol=0)
    assert not y.requires_grad
    assert record.examples == []


def test_training_mode_is_refused() -> None:
    with pytest.raises(ValueError, match="eval"):
        CudaGraphCall(nn.Identity())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("autocast", [False, True])
def test_replay_is_the_network(autocast: bool) -> None:
    network = small().cuda().eval()
    call = CudaGraphCall(network)
    with torch.no_grad(), torch.autocast("cuda", torch.bfloat16, enabled=autocast):
        kept = []
        for _ in range(3):
            image = torch.randn(1, 1, 64, 64, device="cuda")
            kept.append((call(image), network(image)))
        for found, expected in kept:  # after all replays: results must not share memory
            torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
