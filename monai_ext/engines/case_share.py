"""Cases of a validation dealt out to the processes like cards, and their scores put back into the order of cases."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

import numpy as np
from torch.utils.data import Sampler

from monai_ext.engines import process_group

T = TypeVar("T")


class CaseShare(Sampler[int]):
    """Indices of this process's cases: `rank`, `rank + world_size`, and so on.

    A process for which no case is left gets the first one, since an evaluation of nothing is an error; `collect` leaves
    its result out, so that every case counts once. What writes files asks `has_share` first.

    Args:
        num_cases: of all processes together. Of none every process gets none.
        rank, world_size: of this process; None asks the process group.
    """

    def __init__(self, num_cases: int, rank: int | None = None, world_size: int | None = None) -> None:
        if num_cases < 0:
            raise ValueError(f"num_cases must be at least 0, got {num_cases}")
        self.num_cases = num_cases
        self.rank = process_group.rank() if rank is None else rank
        self.world_size = process_group.world_size() if world_size is None else world_size

    def __iter__(self) -> Iterator[int]:
        return iter(self._indices())

    def __len__(self) -> int:
        return len(self._indices())

    def _indices(self) -> Sequence[int]:
        return range(self.rank, self.num_cases, self.world_size) or range(min(1, self.num_cases))


def has_share(num_cases: int) -> bool:
    """Whether this process has cases of its own; else it goes through the first one, whose outcome it must drop."""
    return process_group.rank() < num_cases


def collect(results: Sequence[T], num_cases: int) -> list[T]:
    """Results of the cases of all processes, in the order of the cases, on every process.

    Args:
        results: of this process's cases, in the order in which `CaseShare` gives them.
        num_cases: as given to `CaseShare`.

    Raises:
        RuntimeError: the processes do not hold as many results as there are cases.
    """
    return dealt_back(process_group.gather(list(results)), num_cases)


def dealt_back(shares: Sequence[Sequence[T]], num_cases: int) -> list[T]:
    """Turn results by rank into results by case; see `collect`."""
    world_size = len(shares)
    _check_shares([len(share) for share in shares], num_cases)
    return [shares[case % world_size][case // world_size] for case in range(num_cases)]


def collect_rows(rows: np.ndarray, num_cases: int) -> np.ndarray:
    """As `collect`, for a row of numbers per case.

    Args:
        rows: `[n, ...]` of this process's cases, in the order in which `CaseShare` gives them.
        num_cases: as given to `CaseShare`.

    Returns:
        `[num_cases, ...]` in the order of the cases, on every process.

    Raises:
        RuntimeError: the processes do not hold as many rows as there are cases.
    """
    shares = process_group.gather(rows)
    _check_shares([len(share) for share in shares], num_cases)
    result = np.empty((num_cases, *rows.shape[1:]), rows.dtype)
    for rank, share in enumerate(shares):
        own = len(range(rank, num_cases, len(shares)))  # 0 where the only row is that of the case repeated
        result[rank :: len(shares)] = share[:own]
    return result


def collect_at_first(results: Sequence[T], num_cases: int) -> list[T]:
    """As `collect`, but on the first process alone; on the others an empty list. For what is large, such as pages.

    One result of every process travels at a time, so that none of them holds more than its own besides the first.
    """
    world_size = process_group.world_size()
    _check_shares(process_group.gather(len(results)), num_cases)
    found: list[T] = []
    for first in range(0, num_cases, world_size):
        position = first // world_size
        mine = results[position] if position < len(results) else None
        found += process_group.gather_at_first(mine)[: num_cases - first]  # type: ignore[arg-type]
    return found


def _check_shares(lengths: Sequence[int], num_cases: int) -> None:
    for rank, length in enumerate(lengths):
        expected = len(CaseShare(num_cases, rank, len(lengths)))
        if length != expected:
            raise RuntimeError(
                f"rank {rank} of {len(lengths)} has {length} results for {expected} of {num_cases} cases"
            )
