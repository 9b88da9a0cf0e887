"""Windows in numpy against `WindowInferer`."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from monai_ext.errors import InputError
from monai_ext.inferers.window_inferer import WindowInferer
from monai_ext.inferers.windows import shared_weights as expected_weights
from monai_ext.serving.window_blend import WindowBlend, shared_weights, window_positions


class Network:
    """Scores that depend on where in the window a voxel lies, so that blending and mirroring show."""

    def __init__(self) -> None:
        self.calls: list[int] = []

    def __call__(self, windows: np.ndarray) -> np.ndarray:
        self.calls.append(len(windows))
        ramp = np.zeros(windows.shape[2:], np.float32)
        for axis, size in enumerate(windows.shape[2:]):
            shape = [1] * ramp.ndim
            shape[axis] = size
            ramp = ramp + (np.linspace(0.2, 1 + axis, size, dtype=np.float32) ** 2).reshape(shape)
        total = windows.sum(1, keepdims=True)
        return np.concatenate([total * ramp, ramp[None, None] - total, total**2], 1).astype(np.float32)


def blended(volume: np.ndarray, blend: WindowBlend) -> np.ndarray:
    parts = list(blend.slabs(volume))
    firsts = [first for first, _ in parts]
    assert firsts == np.cumsum([0, *(part.shape[1] for _, part in parts[:-1])]).tolist()
    return np.concatenate([part for _, part in parts], 1)


@pytest.mark.parametrize(
    ("shape", "roi", "options"),
    [
        ((9, 20, 17), (4, 8, 8), {}),
        ((3, 20, 5), (4, 8, 8), {}),  # padded at both ends, by an odd number too
        ((9, 12, 9), (4, 8, 8), {"overlap": 0.75, "blend": "constant"}),
        ((9, 12, 9), (4, 8, 8), {"overlap": 0.0, "mirror_axes": (0, 2)}),
        ((7, 20, 6), (8, 8), {"mirror_axes": (1,)}),
        ((5, 20, 18), (8, 8), {}),
    ],
)
def test_scores_are_those_of_the_inferer(shape: Any, roi: Any, options: dict[str, Any]) -> None:
    volume = np.random.default_rng(0).normal(size=(2, *shape)).astype(np.float32)
    inferer = WindowInferer(roi, 2, **options)
    with torch.no_grad():
        expected = inferer(torch.from_numpy(volume)[None], lambda x: torch.from_numpy(Network()(x.numpy())))
    found = blended(volume, WindowBlend(Network(), roi, 2, **options))
    # up to 27 windows in float32, each with a relative error of 1e-7
    np.testing.assert_allclose(found, expected[0].numpy(), rtol=1e-5, atol=1e-5)


def test_windows_of_one_value_are_predicted_once() -> None:
    volume = np.zeros((1, 8, 24, 8), np.float32)
    volume[:, :, 20:] = 1.5  # the last windows vary
    network = Network()
    found = blended(volume, WindowBlend(network, (8, 8, 8), 1))
    windows = len(window_positions((24,), (8,), 0.5)[0])
    assert windows == 5
    assert len(network.calls) == 2
    with torch.no_grad():
        expected = WindowInferer((8, 8, 8), 1, skip_even=False)(
            torch.from_numpy(volume)[None], lambda x: torch.from_numpy(Network()(x.numpy()))
        )
    np.testing.assert_allclose(found, expected[0].numpy(), rtol=1e-5, atol=1e-5)


def test_another_value_is_another_window() -> None:
    """Neither is a window answered with the scores of another value, nor are many values remembered."""
    values = np.array([[0, 1.5, 1.5, 0], [0, 0, 0, 0]], np.float32)  # of each window, per channel
    volume = np.broadcast_to(np.repeat(values, 4, 1)[:, :, None, None], (2, 16, 8, 8))
    network = Network()
    found = blended(np.ascontiguousarray(volume), WindowBlend(network, (4, 8, 8), 1, overlap=0.0))
    assert len(network.calls) == 3
    with torch.no_grad():
        expected = WindowInferer((4, 8, 8), 1, overlap=0.0, skip_even=False)(
            torch.from_numpy(volume.copy())[None], lambda x: torch.from_numpy(Network()(x.numpy()))
        )
    np.testing.assert_allclose(found, expected[0].numpy(), rtol=1e-5, atol=1e-5)


def test_slices_share_calls() -> None:
    network = Network()
    blended(np.random.default_rng(0).normal(size=(1, 7, 8, 8)).astype(np.float32), WindowBlend(network, (8, 8), 4))
    assert network.calls == [4, 3]


@pytest.mark.parametrize("blend", ["gaussian", "constant"])
def test_weights_are_those_of_the_inferer(blend: str) -> None:
    shape, window = (21, 8), (8, 8)
    positions = window_positions(shape, window, 0.5)
    expected = expected_weights(shape, window, positions, blend, 4)
    for found, wanted in zip(shared_weights(shape, window, positions, blend, 4), expected, strict=True):
        np.testing.assert_allclose(found, wanted.numpy(), rtol=1e-6)  # one rounding of float32


def test_options_out_of_range() -> None:
    with pytest.raises(InputError, match="overlap"):
        WindowBlend(Network(), (8, 8, 8), overlap=1.0)
    with pytest.raises(InputError, match="blend: unknown value 'cubic'"):
        WindowBlend(Network(), (8, 8, 8), blend="cubic")
    with pytest.raises(InputError, match="batch_size: must be at least 1, got 0"):
        WindowBlend(Network(), (8, 8, 8), batch_size=0)
