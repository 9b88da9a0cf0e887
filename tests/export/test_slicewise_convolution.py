"""3D convolutions of an ONNX file as 2D ones of slices: the same results from fewer or cheaper operations."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from monai_ext.export.onnx_model import export_onnx, onnx_runner
from monai_ext.export.slicewise_convolution import FORMS, KERNELS, results_at_once, write_slicewise

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")


def operators(path: Path) -> Counter[str]:
    return Counter(node.op_type for node in onnx.load(str(path)).graph.node)


def kernels(path: Path) -> list[tuple[int, ...]]:
    """Shapes of the weights of all convolutions."""
    graph = onnx.load(str(path)).graph
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    return [shapes[node.input[1]] for node in graph.node if node.op_type == "Conv"]


def difference(module: nn.Module, shape: tuple[int, ...], folder: Path, form: str) -> tuple[float, int]:
    """Largest difference from torch relative to the largest value, over two batch sizes, and the count rewritten."""
    generator = torch.Generator().manual_seed(1)
    export_onnx(module.eval(), folder / "m.onnx", torch.zeros(2, *shape))
    count = write_slicewise(folder / "m.onnx", folder / "s.onnx", form)
    run = onnx_runner(folder / "s.onnx", threads=1)
    worst = 0.0
    for batch in (1, 3):
        x = torch.randn(batch, *shape, generator=generator)
        with torch.no_grad():
            expected = module(x)
        found = run(x)
        assert found.shape == expected.shape
        worst = max(worst, float((found - expected).abs().max() / expected.abs().max()))
    return worst, count


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("depth", [1, 2, 3, 4, 5, 6, 7, 8, 9, 13])
def test_every_depth(form: str, depth: int, tmp_path: Path) -> None:
    torch.manual_seed(depth)
    worst, count = difference(nn.Conv3d(3, 5, 3, padding=1), (3, depth, 7, 6), tmp_path, form)
    assert count == 1
    assert all(len(shape) == 4 for shape in kernels(tmp_path / "s.onnx"))
    assert worst < 1e-5  # float32; Winograd's factors up to 8 cost some of its seven digits


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "options",
    [
        {"kernel_size": 3, "stride": 2, "padding": 1},
        {"kernel_size": 3, "stride": (1, 2, 2), "padding": 1},
        {"kernel_size": 3, "stride": (2, 1, 1), "padding": 1, "bias": False},
        {"kernel_size": 3, "padding": (1, 0, 2), "bias": False},
        {"kernel_size": (1, 3, 3), "padding": (0, 1, 1)},
        {"kernel_size": (1, 3, 3), "stride": (2, 2, 2), "padding": (0, 1, 1)},
        {"kernel_size": (3, 5, 1), "padding": (1, 2, 0)},
    ],
)
@pytest.mark.parametrize("depth", [7, 8])
def test_strides_and_kernels(form: str, options: dict, depth: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    worst, count = difference(nn.Conv3d(2, 4, **options), (2, depth, 9, 10), tmp_path, form)
    assert count == 1
    assert worst < 1e-5


@pytest.mark.parametrize(
    ("module", "shape"),
    [
        (nn.Conv3d(4, 4, 1), (4, 6, 5, 5)),
        (nn.Conv3d(4, 4, 3, padding=1, groups=2), (4, 6, 5, 5)),
        (nn.Conv3d(4, 4, 3, padding=2, dilation=2), (4, 6, 5, 5)),
        (nn.Conv3d(4, 4, 3), (4, 6, 5, 5)),
        (nn.Conv2d(4, 4, 3, padding=1), (4, 6, 5)),
    ],
)
def test_what_does_not_fit_stays(module: nn.Module, shape: tuple[int, ...], tmp_path: Path) -> None:
    worst, count = difference(module, shape, tmp_path, "winograd")
    assert count == 0
    assert worst < 1e-5
    assert operators(tmp_path / "s.onnx") == operators(tmp_path / "m.onnx")


def test_convolutions_behind_one_another(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv3d(1, 4, 3, padding=1),
        nn.InstanceNorm3d(4, affine=True),
        nn.LeakyReLU(0.01),
        nn.Conv3d(4, 8, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.ConvTranspose3d(8, 4, 2, 2),
        nn.Conv3d(4, 2, 3, padding=1),
    )
    worst, count = difference(module, (1, 8, 8, 8), tmp_path, "winograd")
    assert count == 3
    assert worst < 1e-5
    # two rewritten by six products for four slices each, one stacked
    assert operators(tmp_path / "s.onnx")["Conv"] == 6 + 1 + 6


def test_free_sizes_are_left_alone(tmp_path: Path) -> None:
    export_onnx(
        nn.Conv3d(2, 2, 3, padding=1), tmp_path / "m.onnx", torch.zeros(1, 2, 8, 8, 8), dynamic_axes=(0, 2, 3, 4)
    )
    assert write_slicewise(tmp_path / "m.onnx", tmp_path / "m.onnx") == 0


def test_multiplications_are_saved() -> None:
    """Products of slices for the depths of usual patches: at most 55 % of the direct form's."""
    for depth in (8, 16, 20, 40, 64, 128):
        at_once = results_at_once(depth)
        assert (at_once + 2) * -(-depth // at_once) <= 0.55 * 3 * depth
    assert [results_at_once(depth) for depth in (1, 2, 5)] == [1, 2, 2]


def test_kernels_sum_to_the_kernel() -> None:
    """At the point 0 and at infinity a polynomial's values are its first and last coefficients."""
    for m, rows in KERNELS.items():
        assert rows.shape == (m + 2, 3)
        np.testing.assert_array_equal(rows[-1], [0, 0, 1])
        assert rows[0, 1:].tolist() == [0, 0]


def test_unknown_form(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="winograd, stacked"):
        write_slicewise(tmp_path / "m.onnx", tmp_path / "s.onnx", "fft")
