"""Timing in turns, and memory in a process of its own."""

from __future__ import annotations

import sys
import time

import pytest

from monai_ext.benchmark.interleaved import Interleaved, Task, time_interleaved
from monai_ext.benchmark.peak_memory import measure_in_process


def test_tasks_run_in_turns_and_every_other_round_backwards():
    calls: list[str] = []
    tasks = {name: Task(lambda name=name: calls.append(name)) for name in "abc"}
    timing = time_interleaved(tasks, rounds=2, least_seconds=0)
    assert calls[:6] == list("aabbcc")  # warm-up, and one call that tells how often to repeat
    assert calls[6:] == list("abccba")
    assert [len(timing.seconds[name]) for name in "abc"] == [2, 2, 2]


def test_short_calls_are_repeated_within_a_timing():
    count = [0]
    time_interleaved({"a": Task(lambda: count.__setitem__(0, count[0] + 1))}, rounds=1, least_seconds=1e-3)
    assert count[0] > 20


def test_preparation_is_outside_of_the_clock():
    given: list[int] = []

    def prepare() -> tuple[int]:
        time.sleep(0.05)
        return (7,)

    timing = time_interleaved({"a": Task(given.append, prepare, calls=2)}, rounds=1, least_seconds=0)
    assert timing.spread("a")[2] < 0.04
    assert given == [7] * 3


def test_slow_task_has_its_first_call_as_only_round():
    slow_calls: list[int] = []
    tasks = {"slow": Task(lambda: (time.sleep(0.02), slow_calls.append(1))), "fast": Task(lambda: None)}
    timing = time_interleaved(tasks, rounds=3, least_seconds=0, slow_seconds=0.01)
    assert len(slow_calls) == len(timing.seconds["slow"]) == 1
    assert len(timing.seconds["fast"]) == 3
    assert timing.ratio("slow", "fast") > 1


def test_ratio_is_the_median_of_the_rounds():
    timing = Interleaved({"a": (2.0, 6.0, 100.0), "b": (1.0, 2.0, 100.0)})
    assert timing.ratio("a", "b") == 2.0
    assert timing.spread("a") == (2.0, 6.0, 100.0)


def test_no_rounds_are_refused():
    with pytest.raises(ValueError, match="rounds must be at least 1"):
        time_interleaved({}, rounds=0)


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")
def test_peak_memory_is_that_of_the_work_alone():
    sizes = {"classes": 8, "edge": 64, "window": 32}
    tiny = {"classes": 8, "edge": 24, "window": 16}
    peak, seconds = measure_in_process("monai_ext.benchmark.peers.sliding_window:make", "MONAI", sizes, tiny, 1)
    logits = 8 * 64**3 * 4 / 2**20
    assert logits <= peak < 6 * logits
    assert seconds > 0


def test_failed_process_tells_why():
    with pytest.raises(RuntimeError, match="no_such_module"):
        measure_in_process("no_such_module:make", "ours", {}, {})
