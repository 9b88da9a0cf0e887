"""The order of training cases: balanced, resumable, and the same for any number of ranks."""

from __future__ import annotations

from itertools import islice

from monai_ext.engines.sample_stream import SampleStream


def first(stream: SampleStream, steps: int) -> list[tuple[int, int, int]]:
    return list(islice(stream, steps * stream.batch_size))


def test_every_pass_shows_every_case_once_in_another_order() -> None:
    shown = [case for _, case, _ in first(SampleStream(7, batch_size=7, seed=3), 4)]
    passes = [shown[i : i + 7] for i in range(0, 28, 7)]
    assert all(sorted(p) == list(range(7)) for p in passes)
    assert len({tuple(p) for p in passes}) == 4


def test_resumed_stream_continues_in_the_middle_of_a_pass() -> None:
    whole = first(SampleStream(10, batch_size=3, seed=1), 9)
    resumed = SampleStream(10, batch_size=3, seed=1)
    resumed.start_at(4)
    assert first(resumed, 5) == whole[12:]


def test_ranks_share_the_steps_of_one_process() -> None:
    alone = first(SampleStream(10, batch_size=4, seed=1), 6)
    ranks = [first(SampleStream(10, batch_size=2, seed=1, rank=r, world_size=2), 6) for r in (0, 1)]
    together = [item for step in range(6) for rank in ranks for item in rank[2 * step : 2 * step + 2]]
    assert together == alone


def test_seed_changes_the_order() -> None:
    assert first(SampleStream(10, 5, seed=1), 2) != first(SampleStream(10, 5, seed=2), 2)


def test_case_index_agrees_with_iteration() -> None:
    stream = SampleStream(6, batch_size=4, seed=5)
    assert all(stream.case_index(sample) == case for sample, case, _ in first(stream, 5))
