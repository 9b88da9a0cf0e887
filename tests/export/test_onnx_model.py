"""ONNX files and what is said where the packages are missing."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from monai_ext.errors import InputError
from monai_ext.export.onnx_model import export_onnx, onnx_runner


def test_missing_package_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, call in (
        ("onnx", lambda: export_onnx(nn.Linear(2, 1), tmp_path / "a.onnx", torch.zeros(1, 2))),
        ("onnxruntime", lambda: onnx_runner(tmp_path / "a.onnx")),
    ):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, name, None)
            with pytest.raises(InputError, match=rf"needs {name}, .*Cure: pip install 'monai-ext\[onnx\]'"):
                call()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_sizes_that_are_free(dims: int, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    torch.manual_seed(0)
    convolution = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[dims]
    module = nn.Sequential(convolution(2, 4, 3, padding=1), nn.Dropout(0.9), nn.ReLU()).train()
    path = export_onnx(module, tmp_path / "a.onnx", torch.zeros(1, 2, *(6,) * dims), dynamic_axes=range(dims + 2)[::2])
    assert module.training
    run = onnx_runner(path, threads=1)
    sizes = [8 if axis % 2 == 0 else 6 for axis in range(2, dims + 2)]
    x = torch.randn(3, 2, *sizes)
    with torch.no_grad():
        torch.testing.assert_close(run(x), module.eval()(x), rtol=1e-4, atol=1e-5)
    assert [file.name for file in tmp_path.iterdir()] == ["a.onnx"]


def test_failed_export_leaves_no_file(tmp_path: Path) -> None:
    pytest.importorskip("onnx")

    class Odd(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.linalg.eigvals(x)

    with pytest.raises(Exception, match="eigvals"):
        export_onnx(Odd(), tmp_path / "a.onnx", torch.eye(3)[None])
    assert not list(tmp_path.iterdir())
