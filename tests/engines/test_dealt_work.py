"""Work on items, each done by one of several processes, the results in the order of the items on all."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from monai_ext.engines import process_group
from monai_ext.engines.dealt_work import dealt
from rank_processes import on_ranks


def _dealt(items: Sequence[int], broken: int = -1) -> tuple[list[Any], list[int]]:
    process_group.LAST_WORDS = 0.0
    done = []

    def work(share: Sequence[int]) -> Iterator[str]:
        for item in share:
            if item == broken:
                raise ValueError(f"item {item}")
            done.append(item)
            yield f"{item} by {process_group.rank()}"

    return dealt(items, work), done


@pytest.mark.parametrize("world_size", [2, 3])
@pytest.mark.parametrize("number", [0, 1, 5])
def test_every_item_once_in_order(number: int, world_size: int) -> None:
    seen = on_ranks(_dealt, world_size, list(range(number)))
    expected = [f"{item} by {item % world_size}" for item in range(number)]
    assert [results for results, _ in seen] == [expected] * world_size
    assert sorted(item for _, done in seen for item in done) == list(range(number))


def test_alone_nothing_is_dealt() -> None:
    assert _dealt([4, 5]) == (["4 by 0", "5 by 0"], [4, 5])


def test_a_mistake_is_said_once() -> None:
    assert on_ranks(_dealt, 3, list(range(5)), 4) == ["SystemExit(1)", "ValueError('item 4')", "SystemExit(1)"]
