"""Mixed precision on a CPU: entered only when asked for, with logits close to those of float32."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from monai_ext.inferers import bfloat16_inferer
from monai_ext.inferers.bfloat16_inferer import BFloat16Inferer, has_native_bfloat16
from monai_ext.inferers.window_inferer import WindowInferer


@pytest.fixture
def network() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Conv3d(1, 8, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv3d(8, 3, 1)).eval()


def test_network_works_in_bfloat16_with_float32_weights(network: torch.nn.Module) -> None:
    x = torch.randn(2, 1, 8, 8, 8)
    logits = BFloat16Inferer()(x, network)
    assert logits.dtype == torch.bfloat16
    logits.float().sum().backward()
    for weight in network.parameters():
        assert weight.grad is not None
        assert weight.dtype == weight.grad.dtype == torch.float32
    # bfloat16 keeps 8 bits: a relative error of 2^-8 per operation on values near 1
    torch.testing.assert_close(logits.float(), network(x), rtol=0.05, atol=0.02)
    assert BFloat16Inferer(enabled=False)(x, network).dtype == torch.float32


def test_windows_are_summed_in_float32(network: torch.nn.Module) -> None:
    x = torch.randn(1, 1, 12, 12, 12)
    with torch.no_grad():
        mixed = WindowInferer((8, 8, 8), cpu_bfloat16=True)(x, network)
        plain = WindowInferer((8, 8, 8))(x, network)
    assert mixed.dtype == torch.float32
    assert not torch.equal(mixed, plain)
    torch.testing.assert_close(mixed, plain, rtol=0.05, atol=0.02)


@pytest.mark.parametrize(
    ("line", "native"),
    [
        ("flags\t\t: fpu avx2 avx512f", False),
        ("flags\t\t: fpu avx512f avx512_bf16", True),
        ("Features\t: fp asimd bf16", True),
        ("flags\t\t: fpu not_avx512_bf16_really", False),
    ],
)
def test_processor_flags_decide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, native: bool) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(f"processor\t: 0\n{line}\n")
    monkeypatch.setattr(bfloat16_inferer, "Path", lambda _: cpuinfo)
    assert has_native_bfloat16() == native
