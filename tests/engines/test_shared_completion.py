"""All processes come to the end of an evaluation, or all end, and one says why."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from ignite.engine import Engine, Events

from monai_ext.engines import process_group
from monai_ext.engines.case_share import CaseShare, collect
from monai_ext.engines.shared_completion import when_all_are_done
from monai_ext.errors import InputError
from rank_processes import on_ranks


def evaluated(num_cases: int, broken: Sequence[int] = (), report: Any = None) -> tuple[list[int], list[int]]:
    """Cases of all processes, collected at the end, and those that this one went through."""
    seen: list[int] = []

    def step(_: Engine, case: int) -> None:
        if case in broken:
            raise InputError(f"case {case} cannot be read")
        seen.append(case)

    together: list[int] = []
    engine = Engine(step)
    when_all_are_done(engine, report or (lambda: together.extend(collect(seen, num_cases))))
    engine.logger.disabled = True
    engine.run(list(CaseShare(num_cases)))
    return together, seen


@pytest.mark.parametrize("num_cases", [1, 3, 4])
def test_results_are_collected_when_all_are_there(num_cases: int) -> None:
    found = on_ranks(evaluated, 2, num_cases)
    assert [together for together, _ in found] == [list(range(num_cases))] * 2


def _failing(broken: Sequence[int]) -> str:
    try:
        evaluated(5, broken)
    except BaseException as error:
        return f"{error!r} after {process_group.gather('here')}"  # whoever waits for another would not come here
    return "no error"


@pytest.mark.parametrize(("broken", "speaker"), [([4], 1), ([0], 0), ([0, 1], 0)])
def test_a_failure_of_one_ends_all(broken: list[int], speaker: int) -> None:
    found = on_ranks(_failing, 3, broken)
    for rank, text in enumerate(found):
        assert text.endswith("['here', 'here', 'here']")
        expected = f"InputError('case {broken[-1] if rank else broken[0]} cannot be read')"
        assert text.startswith(expected if rank == speaker else "SystemExit(1)"), text


def _failing_report() -> str:
    def report() -> None:
        process_group.first_alone(lambda: 1 / 0)

    try:
        evaluated(3, report=report)
    except BaseException as error:
        return f"{error!r} {process_group.gather(1)}"
    return "no error"


def test_an_error_of_the_report_is_not_agreed_on_twice() -> None:
    assert on_ranks(_failing_report, 2) == ["ZeroDivisionError('division by zero') [1, 1]", "SystemExit(1) [1, 1]"]


def test_alone_nothing_changes() -> None:
    assert evaluated(3)[0] == [0, 1, 2]
    with pytest.raises(InputError, match="case 1 cannot be read"):
        evaluated(3, [1])


def test_a_second_run_agrees_anew() -> None:
    calls: list[int] = []
    engine = Engine(lambda *_: None)
    when_all_are_done(engine, lambda: calls.append(1))
    engine.run([0])
    engine.run([0])
    assert calls == [1, 1]
    engine.add_event_handler(Events.ITERATION_COMPLETED, lambda: 1 / 0)
    engine.logger.disabled = True
    with pytest.raises(ZeroDivisionError):
        engine.run([0])
