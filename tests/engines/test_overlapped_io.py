"""Reading ahead and writing behind: order, overlap, errors, and how much may wait."""

from __future__ import annotations

import threading

import pytest

from monai_ext.engines.overlapped_io import ReadAhead, WriteBehind


@pytest.mark.parametrize("enabled", [True, False])
def test_items_keep_their_order(enabled: bool) -> None:
    ahead = ReadAhead([1, 2, 3], enabled)
    assert len(ahead) == 3
    assert list(ahead) == [1, 2, 3]
    assert list(ahead) == [1, 2, 3]  # a second pass begins anew


def test_next_item_is_made_while_this_one_is_used() -> None:
    made = [threading.Event() for _ in range(4)]

    class Loader:
        def __len__(self) -> int:
            return 4

        def __iter__(self):
            for number, event in enumerate(made):
                event.set()
                yield number

    items = iter(ReadAhead(Loader()))
    assert next(items) == 0
    assert made[1].wait(10)  # without being asked for
    assert not made[2].wait(0.05)  # but no more than one


def test_error_of_the_loader_comes_in_its_place() -> None:
    class Loader:
        def __len__(self) -> int:
            return 2

        def __iter__(self):
            yield "good"
            raise OSError("disk gone")

    items = iter(ReadAhead(Loader()))
    assert next(items) == "good"
    with pytest.raises(OSError, match="disk gone"):
        next(items)


def test_loader_without_length_is_refused() -> None:
    with pytest.raises(ValueError, match="length"):
        ReadAhead(iter([1]))


@pytest.mark.parametrize("enabled", [True, False])
def test_work_is_done_in_order(enabled: bool) -> None:
    done: list[int] = []
    behind = WriteBehind(enabled)
    for number in range(5):
        behind.do(lambda number=number: done.append(number))
    behind.wait()
    assert done == [0, 1, 2, 3, 4]


def test_caller_goes_on_while_work_is_done() -> None:
    release, started = threading.Event(), threading.Event()
    behind = WriteBehind()

    def work() -> None:
        started.set()
        assert release.wait(10)

    behind.do(work)
    assert started.wait(10)  # the caller is here although the work is not done
    release.set()
    behind.wait()


def test_error_of_work_is_raised_at_the_next_call() -> None:
    behind = WriteBehind()
    behind.do(lambda: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        behind.do(lambda: None)
    behind.wait()  # told once
