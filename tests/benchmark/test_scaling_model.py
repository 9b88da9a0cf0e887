"""The model of the efficiency on many GPUs: limits that can be worked out by hand, and its direction."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from monai_ext.benchmark.measurement_rows import append_rows
from monai_ext.benchmark.scaling_model import (
    Interconnect,
    counted_messages,
    format_model,
    numbers_of_gpus,
    print_model,
    scaled_time,
    with_step_time,
)
from monai_ext.benchmark.step_messages import StepMessages
from monai_ext.benchmark.weak_scaling import COLUMNS
from monai_ext.errors import InputError

MIB = 2**20
STEP = StepMessages((50 * MIB, 50 * MIB), (0.5, 1.0), forward=0.04, backward=0.08, update=0.01)
FREE = Interconnect(latency_us=0, inside_latency_us=0, launch_us=0, overlap_cost=0, jitter=0, link_share=1)


def test_a_large_all_reduce_takes_twice_its_bytes_over_the_links_of_a_machine() -> None:
    network = replace(FREE, links=1)
    seconds = network.all_reduce(100e6, 1024)
    assert seconds == pytest.approx(2 * 1023 / 1024 * 100e6 * 8 / 400e9)
    assert replace(network, links=4).all_reduce(100e6, 1024) == pytest.approx(seconds / 4)


def test_within_a_machine_its_links_do_not_count() -> None:
    seconds = FREE.all_reduce(100e6, 8)
    assert seconds == pytest.approx(2 * 7 / 8 * 100e6 * 8 / 2400e9)
    assert replace(FREE, link_gbits=1).all_reduce(100e6, 8) == seconds


def test_small_messages_take_the_tree() -> None:
    network = replace(FREE, latency_us=10)
    assert network.all_reduce(0, 1024) == pytest.approx(2 * 7 * 10e-6)  # 128 machines
    assert network.all_reduce(0, 8) == 0


def test_one_gpu_sends_nothing() -> None:
    time = scaled_time(STEP, Interconnect(), 1)
    assert (time.sent, time.waited, time.efficiency) == (0, 0, 1)
    assert time.step == pytest.approx(STEP.seconds)


def test_only_what_outlasts_the_backward_pass_is_waited_for() -> None:
    one = FREE.all_reduce(50 * MIB, 2)
    time = scaled_time(STEP, FREE, 2)
    assert time.waited == pytest.approx(one)  # the first travels while the second half is computed
    assert time.sent == pytest.approx(2 * one)
    early = scaled_time(replace(STEP, ready=(0.1, 0.2)), FREE, 2)
    assert early.waited == 0
    assert early.efficiency == 1
    slow = scaled_time(STEP, replace(FREE, inside_gbits=1), 2)  # the first is not through when the second is complete
    assert slow.waited == pytest.approx(0.04 + slow.sent - 0.08)


def test_what_is_sent_beside_the_computation_slows_it() -> None:
    early = replace(STEP, ready=(0.1, 0.2))
    plain, slowed = (scaled_time(early, replace(FREE, overlap_cost=cost), 2) for cost in (0, 0.5))
    assert slowed.step - plain.step == pytest.approx(0.5 * plain.sent)


def test_messages_of_the_loss_are_waited_for() -> None:
    network = replace(FREE, launch_us=100)
    plain, with_loss = scaled_time(STEP, network, 2), scaled_time(replace(STEP, others=3, other_bytes=12), network, 2)
    assert with_loss.step - plain.step == pytest.approx(3e-4, rel=1e-3)  # their bytes take nanoseconds


def test_all_wait_for_the_slowest() -> None:
    network = replace(FREE, jitter=0.01)
    quiet, two, many = (scaled_time(replace(STEP, buckets=(), ready=()), network, n) for n in (1, 2, 1024))
    assert quiet.efficiency == 1
    # the larger of two normal deviates is 0.564 on average, that of 1024 3.25 (both tabulated); Blom errs below 5 %
    assert two.step / STEP.seconds - 1 == pytest.approx(0.00564, rel=0.05)
    assert many.step / STEP.seconds - 1 == pytest.approx(0.0325, rel=0.05)


def test_efficiency_falls_with_gpus_and_rises_with_links() -> None:
    times = [scaled_time(STEP, Interconnect(), n) for n in numbers_of_gpus(1024)]
    assert [time.gpus for time in times] == [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024]
    values = [time.efficiency for time in times]
    assert values == sorted(values, reverse=True)
    assert scaled_time(STEP, Interconnect(links=1), 1024).efficiency < values[-1]


def test_a_faster_device_scales_worse() -> None:
    fast = with_step_time(STEP, STEP.seconds / 10)
    assert fast.seconds == pytest.approx(STEP.seconds / 10)
    assert fast.buckets == STEP.buckets
    assert scaled_time(fast, Interconnect(), 64).efficiency < scaled_time(STEP, Interconnect(), 64).efficiency


def test_the_table_comes_from_the_last_counts_of_the_bundle(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = tmp_path / "scaling.csv"
    row = dict.fromkeys(COLUMNS, "")
    old = row | {"bundle": "nnunet"} | replace(STEP, buckets=(1, 1)).columns()
    new = row | {"bundle": "nnunet"} | STEP.columns()
    append_rows(results, [old, new, row | {"bundle": "nnunet", "side": "alone"}, row | {"bundle": "unet_em"}], COLUMNS)
    assert counted_messages(results, "nnunet") == STEP
    print_model(results, "nnunet", 50, 16, {"links": 1})
    out = capsys.readouterr().out
    assert "100.0 MiB of gradients in 2 messages" in out
    assert "links 1," in out
    assert "step of one GPU 50 ms" in out
    assert out.splitlines()[-1].split()[:2] == ["16", "2"]
    with pytest.raises(InputError, match="no counts of unet_em"):
        counted_messages(results, "unet_em")
    with pytest.raises(InputError, match=r"--speed(.|\n)*--step_ms -1"):
        print_model(results, "nnunet", -1, 16, {"speed": 1})
    append_rows(results, [new | {"ready": "x y"}], COLUMNS)
    with pytest.raises(InputError, match="benchmark scaling again"):
        counted_messages(results, "nnunet")


@pytest.mark.parametrize(
    "changes", [{"links": 0}, {"links": 1.5}, {"link_gbits": float("nan")}, {"latency_us": -1}, {"link_share": 2}]
)
def test_impossible_assumptions_are_refused(changes: dict[str, float]) -> None:
    with pytest.raises(InputError, match=f"--{next(iter(changes))} "):
        replace(Interconnect(), **changes).check()  # type: ignore[arg-type]


def test_format_names_every_assumption() -> None:
    text = format_model(STEP, Interconnect(), 2)
    assert all(name in text for name in Interconnect.__dataclass_fields__)
    with pytest.raises(InputError, match="--most 0"):
        format_model(STEP, Interconnect(), 0)
