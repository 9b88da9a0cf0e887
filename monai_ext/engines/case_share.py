"""Cases of a validation dealt out to the processes like cards, and their scores put back into the order of cases."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

from torch.utils.data import Sampler

from monai_ext.engines import process_group

T = TypeVar("T")


class CaseShare(Sampler[int]):
    """Indices of this process's cases: `rank`, `rank + world_size`, and so on.

    A process for which no case is left gets the first one, since an evaluation of nothing is an error; `collect` leaves
    its result out, so that every case counts once.

    Args:
        num_cases: of all processes together, at least 1.
        rank, world_size: of this process; None asks the process group.
    """

    def __init__(self, num_cases: int, rank: int | None = None, world_size: int | None = None) -> None:
        if num_cases < 1:
            raise ValueError(f"num_cases must be at least 1, got {num_cases}")
        self.num_cases = num_cases
        self.rank = process_group.rank() if rank is None else rank
        self.world_size = process_group.world_size() if world_size is None else world_size

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.rank, self.num_cases, self.world_size) or [0])

    def __len__(self) -> int:
        return len(range(self.rank, self.num_cases, self.world_size)) or 1


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
    for rank, share in enumerate(shares):
        expected = len(CaseShare(num_cases, rank, world_size))
        if len(share) != expected:
            raise RuntimeError(
                f"rank {rank} of {world_size} has {len(share)} results for {expected} of {num_cases} cases"
            )
    return [shares[case % world_size][case // world_size] for case in range(num_cases)]
