"""A training on a CPU keeps the memory that it frees."""

from __future__ import annotations

import platform
import resource

import pytest
import torch

from monai_ext.engines.host_memory import keep_freed, return_freed

glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs the C library of Linux")


def page_faults_of_tensors() -> int:
    """Page faults of writing and freeing 16 tensors of 48 MB one after the other."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(16):
        torch.ones(12 << 20)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


@glibc
def test_freed_memory_is_used_again() -> None:
    assert return_freed()
    returned = page_faults_of_tensors()
    try:
        assert keep_freed("cpu")
        torch.ones(12 << 20)  # the first one still comes from the system
        kept = page_faults_of_tensors()
    finally:
        return_freed()
    # the first ones may need pieces that no earlier test has left
    assert kept < returned / 2


def test_nothing_is_done_for_other_devices() -> None:
    assert not keep_freed("cuda:0")
    assert not keep_freed(torch.device("meta"))
