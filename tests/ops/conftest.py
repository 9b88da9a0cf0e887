"""Kernels are tested with uninitialised memory full of NaN."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture(autouse=True)
def _nan_filled_memory():
    """`torch.empty` hands out NaN, so that an output nobody wrote is seen."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    before = torch.utils.deterministic.fill_uninitialized_memory
    torch.utils.deterministic.fill_uninitialized_memory = True
    yield
    torch.utils.deterministic.fill_uninitialized_memory = before
    torch.use_deterministic_algorithms(False)
