"""Statistics of timed steps."""

from __future__ import annotations

import time

import pytest
import torch

from monai_ext.benchmark.timing import Timing, peak_memory_mib, ran_out_of_memory, time_steps


def test_statistics_of_known_times() -> None:
    statistics = Timing((0.1, 0.2, 0.3, 0.4), batch_size=8, warmup_steps=0).statistics()
    assert statistics["throughput"] == pytest.approx(8 / 0.25)
    assert statistics["mean_rate"] == pytest.approx((80 + 40 + 80 / 3 + 20) / 4)
    assert statistics["latency_ms_mean"] == pytest.approx(250)
    assert statistics["latency_ms_50"] == pytest.approx(250)
    assert statistics["latency_ms_90"] == pytest.approx(370)  # between the third and fourth, linearly
    assert statistics["latency_ms_max"] == pytest.approx(400)
    assert "voxels_per_second" not in statistics


def test_voxels_are_counted_over_all_steps() -> None:
    timing = Timing((1.0, 3.0), batch_size=1, warmup_steps=0, voxels=400)
    assert timing.statistics()["voxels_per_second"] == pytest.approx(100)


def test_lack_of_memory_is_recognised() -> None:
    with pytest.raises(RuntimeError) as error:
        torch.empty(10**15)
    assert ran_out_of_memory(error.value)
    assert ran_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert not ran_out_of_memory(RuntimeError("shapes differ"))
    assert not ran_out_of_memory(ValueError("out of memory"))


def test_warm_up_is_not_timed() -> None:
    calls: list[int] = []

    def step() -> None:
        calls.append(1)
        time.sleep(0.2 if len(calls) <= 2 else 0.001)

    timing = time_steps(step, torch.device("cpu"), 1, warmup_steps=2, bench_batches=3)
    assert len(calls) == 5
    assert len(timing.seconds) == 3
    assert max(timing.seconds) < 0.2
    assert min(timing.seconds) >= 0.001


def test_memory_of_this_process_is_known() -> None:
    assert peak_memory_mib(torch.device("cpu")) > 10
