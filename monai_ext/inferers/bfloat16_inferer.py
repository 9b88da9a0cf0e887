"""Mixed precision on processors, entered where the network is called: MONAI's engines know it for CUDA only."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from monai.inferers import SimpleInferer

BFLOAT16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}  # x86, x86 with matrix tiles, Arm


def has_native_bfloat16() -> bool:
    """Whether the processor multiplies bfloat16 in hardware. Emulated, it would be slower than float32."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
        flags = next((line for line in lines if line.lower().startswith(("flags", "features"))), "")
        return bool(BFLOAT16_FLAGS & set(flags.split()))
    supported = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return bool(supported and supported())


class BFloat16Inferer(SimpleInferer):
    """Calls the network on whole patches; on a CPU in bfloat16 where the operation allows, weights staying float32.

    Args:
        enabled: False calls the network as it is.
    """

    def __init__(self, enabled: bool = True) -> None:
        super().__init__()
        self.enabled = enabled

    def __call__(self, inputs: torch.Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Map `[B, C, *S]` to what the network returns; logits are bfloat16 if enabled (the losses convert them)."""
        if not self.enabled:
            return network(inputs, *args, **kwargs)
        with torch.autocast("cpu", torch.bfloat16):
            return network(inputs, *args, **kwargs)
