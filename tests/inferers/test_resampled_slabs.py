"""Labels on another grid, slab by slab, against those of all logits at once."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from monai_ext.inferers import window_inferer
from monai_ext.inferers.memory_fallback import MemoryFallback
from monai_ext.inferers.resampled_slabs import ResampledSlabs
from monai_ext.inferers.window_grid import WindowCopy, WindowGrid
from monai_ext.inferers.window_inferer import WindowInferer
from monai_ext.ops.spline_resample import resample_logits, resample_logits_argmax

CLASSES = 5
TIE = 1e-4  # logits are of size one, float32 rounds some hundred times on the way


@pytest.fixture(autouse=True)
def without_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


def network(dims: int = 3, classes: int = CLASSES) -> torch.nn.Module:
    torch.manual_seed(0)
    kind = torch.nn.Conv3d if dims == 3 else torch.nn.Conv2d
    return torch.nn.Sequential(kind(2, 8, 3, padding=1), torch.nn.Tanh(), kind(8, classes, 3, padding=1))


def volume(shape: tuple[int, ...]) -> torch.Tensor:
    return 3 * torch.randn(1, 2, *shape, generator=torch.Generator().manual_seed(1))


def assert_same_labels(labels: torch.Tensor, logits: torch.Tensor, shape: tuple[int, ...], axis: int | None) -> None:
    expected = resample_logits_argmax(logits, shape, axis, as_tensor=True)
    assert labels.shape == expected.shape
    assert len(expected.unique()) == len(logits)
    other = labels != expected
    best = resample_logits(logits, shape, axis).topk(2, 0).values
    assert (best[0] - best[1])[other].max().item() < TIE if other.any() else True
    assert other.float().mean() < 1e-3


@pytest.mark.parametrize("axis", [None, 0, 1, 2])
@pytest.mark.parametrize(
    ("stored", "raw"),
    [
        ((29, 17, 14), (41, 20, 14)),
        ((29, 17, 14), (11, 9, 30)),
        ((6, 17, 20), (15, 17, 20)),  # thinner than a window
        ((29, 12, 12), (29, 20, 9)),
        ((25, 10, 10), (1, 10, 10)),
        ((1, 12, 12), (7, 14, 14)),
    ],
)
def test_slabs_agree_with_all_logits(stored: tuple[int, int, int], raw: tuple[int, int, int], axis: int | None) -> None:
    net, image = network(), volume(stored)
    inferer = WindowInferer((8, 10, 12), 3, 0.5)
    labels = inferer.segment_resampled(image, net, raw, axis)
    assert labels.dtype == torch.uint8
    assert_same_labels(labels[0, 0], inferer(image, net)[0], raw, axis)


@pytest.mark.parametrize(("overlap", "blend", "mirror"), [(0.0, "constant", ()), (0.7, "gaussian", (0, 2))])
def test_slabs_agree_for_every_way_of_blending(overlap: float, blend: str, mirror: tuple[int, ...]) -> None:
    net, image, raw = network(), volume((31, 15, 13)), (40, 12, 20)
    inferer = WindowInferer((8, 10, 12), 4, overlap, blend, mirror)
    labels = inferer.segment_resampled(image, net, raw)
    assert_same_labels(labels[0, 0], inferer(image, net)[0], raw, None)


@pytest.mark.parametrize("axis", [None, 0])
def test_a_stack_of_slices(axis: int | None) -> None:
    net, image, raw = network(2), volume((7, 20, 15)), (7, 26, 11)
    inferer = WindowInferer((12, 12), 3)
    labels = inferer.segment_resampled(image, net, raw, axis)
    assert_same_labels(labels[0, 0], inferer(image, net)[0], raw, axis)


def test_more_classes_than_a_byte_holds() -> None:
    net, image = network(classes=300), volume((9, 8, 8))
    labels = WindowInferer((8, 8, 8)).segment_resampled(image, net, (12, 8, 8))
    assert labels.dtype == torch.int16
    assert labels.max() > 255


def test_only_the_rows_of_a_window_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[ResampledSlabs] = []

    class Spy(ResampledSlabs):
        def __init__(self, *args: object) -> None:
            super().__init__(*args)  # type: ignore[arg-type]
            kept.append(self)

    monkeypatch.setattr(window_inferer, "ResampledSlabs", Spy)
    WindowInferer((8, 10, 10)).segment_resampled(volume((200, 10, 10)), network(), (300, 10, 10))
    assert kept[0].logits is not None
    assert kept[0].logits.shape == (CLASSES, 9, 10, 10)


def test_windows_out_of_order_and_other_inputs_are_refused() -> None:
    grid = WindowGrid((30, 8, 8), (8, 8, 8), 0.5, "gaussian")
    slabs = ResampledSlabs(grid, (30, 8, 8), None, torch.device("cpu"), MemoryFallback())
    windows = [WindowCopy(0, (n, 0, 0), (), True) for n in (2, 1)]
    outputs = [torch.zeros(2, 8, 8, 8)] * 2
    with pytest.raises(ValueError, match="ascending"):
        slabs.add(windows, outputs)
    with pytest.raises(ValueError, match="three axes"):
        ResampledSlabs(grid, (30, 8), None, torch.device("cpu"), MemoryFallback())
    with pytest.raises(ValueError, match="one volume"):
        WindowInferer((8, 8, 8)).segment_resampled(volume((8, 8, 8)).repeat(2, 1, 1, 1, 1), network(), (8, 8, 8))
