"""Work on many items, dealt out to the processes of a training, its results on all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from monai_ext.engines import process_group

T = TypeVar("T")
R = TypeVar("R")


def dealt(items: Sequence[T], work: Callable[[Sequence[T]], Iterable[R]]) -> list[R]:
    """One result for every item, in the order of the items, each made by one process; alone, `list(work(items))`.

    Args:
        items: the same on all processes, which all call this.
        work: gives one result (which can be pickled) per item, in their order; not called where no item is left.

    Raises:
        Exception: whatever `work` raised, on one process; `SystemExit` on all others.
    """
    number, count = process_group.rank(), process_group.world_size()
    share = items[number::count]
    results = process_group.together(lambda: list(work(share)) if share else [])
    shares = process_group.gather(results)
    return [shares[index % count][index // count] for index in range(len(items))]
