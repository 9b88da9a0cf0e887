"""Devices without enough memory: smaller batches, then sums on the host; results stay what they were."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch

from monai_ext.inferers import memory_fallback
from monai_ext.inferers.logit_blend import LogitBlend
from monai_ext.inferers.slab_argmax import SlabArgmax
from monai_ext.inferers.window_inferer import WindowInferer


def volume(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def network(windows: torch.Tensor) -> torch.Tensor:
    ramp = torch.linspace(0, 1, windows.shape[-1])
    return torch.cat([windows.sin() * ramp, windows.cos(), windows * 0.3], 1)


class Small:
    """A network that fits batches up to a size, changes its input before it fails, and counts what it gives."""

    def __init__(self, largest: int, give: Callable[[torch.Tensor], torch.Tensor] = network) -> None:
        self.largest = largest
        self.give = give
        self.sizes: list[int] = []

    def __call__(self, windows: torch.Tensor) -> torch.Tensor:
        if len(windows) > self.largest:
            windows.fill_(torch.nan)
            raise torch.OutOfMemoryError("out of memory")
        self.sizes.append(len(windows))
        return self.give(windows)


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


@pytest.mark.parametrize("largest", [1, 2, 3])
@pytest.mark.parametrize("mirror_axes", [(), (0, 2)])
@pytest.mark.parametrize("gradients", [False, True])
def test_batches_are_halved_until_they_fit(
    largest: int, mirror_axes: tuple[int, ...], gradients: bool, caplog: pytest.LogCaptureFixture
) -> None:
    inputs, roi = volume(2, 1, 12, 9, 10), (8, 8, 8)
    small = Small(largest)
    inferer = WindowInferer(roi, 8, mirror_axes=mirror_axes)
    with torch.set_grad_enabled(gradients):
        logits, labels = inferer(inputs, small), inferer.segment(inputs, small)
        assert torch.equal(logits, WindowInferer(roi, 8, mirror_axes=mirror_axes)(inputs, network))
        assert torch.equal(labels, WindowInferer(roi, 8, mirror_axes=mirror_axes).segment(inputs, network))
    assert sum(small.sizes) == 2 * 2 * 8 * 2 ** len(mirror_axes)  # two predictions, two items, eight windows
    assert max(small.sizes) == (2 if largest == 3 else largest)  # 8, 4, 2
    found = warnings_of(caplog)
    assert [message.split("per call: ")[1] for message in found] == [
        f"going on with {size}" for size in (4, 2, 1) if size >= min(largest, 2)
    ]  # once per size, although there are two predictions


def test_a_network_that_returns_its_input_and_runs_out_of_memory() -> None:
    inputs = volume(1, 2, 20, 20)
    with torch.inference_mode():
        logits = WindowInferer((8, 8), 8)(inputs, Small(3, lambda windows: windows))
    torch.testing.assert_close(logits, inputs, rtol=1e-5, atol=1e-5)


def test_a_window_that_never_fits_is_an_error_of_the_device() -> None:
    with pytest.raises(torch.OutOfMemoryError, match="out of memory"):
        WindowInferer((8, 8), 4)(volume(1, 1, 16, 16), Small(0))


@pytest.mark.parametrize("labels", [False, True])
def test_sums_that_do_not_fit_are_kept_on_the_host(
    labels: bool, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A device of which nothing is left, not even for the sums."""
    empty, asked = torch.empty, []

    def full(size: Sequence[int], **options: Any) -> torch.Tensor:
        if options.get("device") == torch.device("cuda"):
            asked.append(tuple(size))
            raise torch.OutOfMemoryError("out of memory")
        return empty(size, **options)

    inputs = volume(1, 1, 16, 16)
    expected = WindowInferer((8, 8))
    inferer = WindowInferer((8, 8), device="cuda")
    with monkeypatch.context() as patched:
        patched.setattr(memory_fallback.torch, "empty", full)
        found = [(inferer.segment if labels else inferer)(inputs, network) for _ in range(2)]
    for result in found:
        assert result.device.type == "cpu"
        assert torch.equal(result, (expected.segment if labels else expected)(inputs, network))
    assert len(asked) == 2
    (message,) = warnings_of(caplog)
    assert "out of memory on cuda" in message
    assert "CPU" in message


@pytest.mark.parametrize("target", [LogitBlend, SlabArgmax])
def test_sums_leave_the_device_when_a_window_does_not_fit(
    target: type, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the middle of a volume; what has been summed goes with them."""
    state = {"calls": 0, "moved": 0}

    def move(self: Any) -> bool:
        state["moved"] += 1
        # the real move, as from a device: everything is copied
        for name, value in vars(self).items():
            if isinstance(value, torch.Tensor):
                setattr(self, name, value.clone())
        return state["moved"] == 1

    def crowded(windows: torch.Tensor) -> torch.Tensor:
        state["calls"] += 1
        if state["calls"] > 4 and not state["moved"]:
            raise torch.OutOfMemoryError("out of memory")
        return network(windows)

    monkeypatch.setattr(target, "move_to_host", move)
    inputs = volume(1, 1, 16, 24)
    inferer = WindowInferer((8, 8), 2)
    run = inferer if target is LogitBlend else inferer.segment
    found = run(inputs, crowded)
    assert state["moved"] == 1
    expected = WindowInferer((8, 8), 2)
    assert torch.equal(found, (expected if target is LogitBlend else expected.segment)(inputs, network))
    assert [("going on with 1" in m, "sums move to the CPU" in m) for m in warnings_of(caplog)] == [
        (True, False),
        (False, True),
    ]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("labels", [False, True])
def test_sums_leave_a_real_device(labels: bool) -> None:
    inputs, calls = volume(1, 1, 24, 16, 16).cuda(), []

    def crowded(windows: torch.Tensor) -> torch.Tensor:
        calls.append(len(windows))
        if len(calls) == 7:
            raise torch.OutOfMemoryError("out of memory")
        return network(windows.cpu()).to(windows.device)

    inferer = WindowInferer((8, 8, 8), 1)
    found = (inferer.segment if labels else inferer)(inputs, crowded)
    assert found.device.type == "cpu"
    expected = (inferer.segment if labels else inferer)(inputs.cpu(), network)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
