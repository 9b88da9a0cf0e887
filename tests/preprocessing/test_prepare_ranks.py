"""Preparing by the processes of a training: each case once, whoever sees which disk, and mistakes said once."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from monai_ext.datasets.msd import read_msd
from monai_ext.datasets.phantom import make_phantom
from monai_ext.engines import process_group
from monai_ext.planning.plan import Plan
from monai_ext.preprocessing import prepare
from monai_ext.preprocessing.case_store import LOCK_FILE, CaseStore
from monai_ext.preprocessing.prepare import prepare_cases
from rank_processes import on_ranks

CASES = 5


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_phantom(tmp_path_factory.mktemp("data") / "phantom", num_cases=CASES)


@pytest.fixture
def plan(make_plan: Callable[..., Plan]) -> Plan:
    labels = {"background": 0, "ellipsoid": 1, "tube": 2}
    return make_plan(dataset="phantom", labels=labels, channels=("phantom",), spacing=(3.2, 2.2, 1.8))


def _prepare(raw: Path, plan: Plan, folder: Path, machines: str) -> tuple[list[str], list[str]]:
    """Cases that this rank wrote, and those of its store; `machines`: a letter per rank for where its disk is."""
    process_group.LAST_WORDS = 0.0
    written = []
    real = prepare.write_case

    def noted(folder: Path, name: str, *rest: Any) -> None:
        written.append(name)
        real(folder, name, *rest)

    prepare.write_case = noted  # type: ignore[assignment]
    store = prepare_cases(read_msd(raw), plan, folder / machines[process_group.rank()], progress=False)
    for name in store.names:
        store.load(name)
    return written, store.names


def checksums(folder: Path) -> dict[str, Any]:
    return {name: CaseStore(folder).describe(name)["files"] for name in CaseStore(folder).names}


def leftovers(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.name.startswith(".")} - {LOCK_FILE}


@pytest.mark.parametrize("machines", ["aa", "aaa"])
def test_each_case_once_as_one_process_stores_it(raw: Path, plan: Plan, tmp_path: Path, machines: str) -> None:
    prepare_cases(read_msd(raw), plan, tmp_path / "alone", progress=False)
    seen = on_ranks(_prepare, len(machines), raw, plan, tmp_path, machines)
    names = CaseStore(tmp_path / "alone").names
    assert len(names) == CASES
    assert sorted(name for written, _ in seen for name in written) == names
    assert all(written for written, _ in seen)  # nobody was idle
    assert all(stored == names for _, stored in seen)
    assert checksums(tmp_path / "a") == checksums(tmp_path / "alone")
    assert leftovers(tmp_path / "a") == set()
    again = on_ranks(_prepare, len(machines), raw, plan, tmp_path, machines)
    assert [written for written, _ in again] == [[]] * len(machines)


def test_machines_without_a_common_disk_store_all(raw: Path, plan: Plan, tmp_path: Path) -> None:
    seen = on_ranks(_prepare, 3, raw, plan, tmp_path, "aba")
    names = CaseStore(tmp_path / "a").names
    assert sorted(seen[0][0] + seen[2][0]) == names
    assert seen[1][0] == names
    assert checksums(tmp_path / "a") == checksums(tmp_path / "b")
    (tmp_path / "b" / names[3] / "image.npy").unlink()  # the disk of one machine is damaged
    again = on_ranks(_prepare, 3, raw, plan, tmp_path, "aba")
    assert [written for written, _ in again] == [[], [names[3]], []]


def test_fewer_cases_than_processes(raw: Path, plan: Plan, tmp_path: Path) -> None:
    on_ranks(_prepare, 2, raw, plan, tmp_path, "aa")
    name = CaseStore(tmp_path / "a").names[2]
    (tmp_path / "a" / name / "case.json").unlink()
    again = on_ranks(_prepare, 2, raw, plan, tmp_path, "aa")
    assert [written for written, _ in again] == [[name], []]


def test_all_damaged_cases_are_said_once(plan: Plan, tmp_path: Path) -> None:
    raw = make_phantom(tmp_path / "raw", num_cases=CASES)
    dataset = read_msd(raw)
    broken = [dataset.training[1], dataset.training[2]]  # of both ranks
    for case in broken:
        case.images[0].write_bytes(b"no image")
    speaks, silent = on_ranks(_prepare, 2, raw, plan, tmp_path, "aa")
    assert silent == "SystemExit(1)"
    assert "2 problems" in speaks
    assert re.findall(r"case (\w+):", speaks) == [case.name for case in broken]
    assert CaseStore(tmp_path / "a").names == [c.name for c in dataset.training if c not in broken]
    assert leftovers(tmp_path / "a") == set()
