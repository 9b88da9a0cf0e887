"""Runs that share one store: started at once, killed in the middle, and files damaged behind their back."""

from __future__ import annotations

import json
import os
import pickle
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from torch.utils.data import DataLoader

from monai_ext.datasets.msd import read_msd
from monai_ext.datasets.phantom import make_phantom
from monai_ext.datasets.segmentation_dataset import SegmentationDataset
from monai_ext.engines.stored_patches import StoredVolumes
from monai_ext.errors import InputError
from monai_ext.file_lock import LockedError
from monai_ext.planning.plan import Plan
from monai_ext.preprocessing import case_store, prepare
from monai_ext.preprocessing.case_store import CaseStore, DamagedCaseError, store_lock
from monai_ext.preprocessing.prepare import prepare_cases

MakePlan = Callable[..., Plan]
ROOT = Path(case_store.__file__).parents[2]
# a process that prepares a dataset, each case taking `pause` seconds more than it needs, and tells which it prepared
PREPARING = """
import logging, sys, time
from pathlib import Path
from monai_ext.datasets.msd import read_msd
from monai_ext.planning.plan import Plan
from monai_ext.preprocessing import prepare
raw, plan, store, pause = sys.argv[1:]
logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
real = prepare.write_case
def slow(folder, name, *rest):
    time.sleep(float(pause))
    real(folder, name, *rest)
    print("wrote", name, flush=True)
prepare.write_case = slow
dataset = read_msd(Path(raw))
print("ready", flush=True)
sys.stdin.readline()
store = prepare.prepare_cases(dataset, Plan.load(plan), Path(store), progress=False)
for name in store.names:
    store.load(name)
print("all", *store.names, flush=True)
"""


@pytest.fixture(scope="module")
def phantom(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_phantom(tmp_path_factory.mktemp("data") / "phantom", num_cases=6)


@pytest.fixture
def plan(make_plan: MakePlan) -> Plan:
    labels = {"background": 0, "ellipsoid": 1, "tube": 2}
    return make_plan(dataset="phantom", labels=labels, channels=("phantom",), spacing=(1.6, 1.1, 0.9))


def start(raw: Path, plan: Plan, folder: Path, pause: float = 0) -> subprocess.Popen[str]:
    """A process that waits for a line before it prepares."""
    (folder.parent / "plan.json").write_text(plan.to_json())
    arguments = [str(raw), str(folder.parent / "plan.json"), str(folder), str(pause)]
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", PREPARING, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )
    return process


def begin(*processes: subprocess.Popen[str]) -> None:
    """Let them start at the same time."""
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        print(file=process.stdin, flush=True)


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.glob("*/*")) if p.name != "case.json"}


def damage(path: Path, seed: int = 0) -> None:
    """Flip one bit and leave size and time as they are, as a failing disk does."""
    before = path.stat()
    content = bytearray(path.read_bytes())
    at = int(np.random.default_rng(seed).integers(len(content)))
    content[at] ^= 16
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_two_runs_at_once_prepare_every_case_once(phantom: Path, plan: Plan, tmp_path: Path) -> None:
    names = [case.name for case in read_msd(phantom).training]
    alone = prepare_cases(read_msd(phantom), plan, tmp_path / "alone", progress=False)
    runs = [start(phantom, plan, tmp_path / "store", pause=0.1) for _ in range(2)]
    begin(*runs)
    texts = [run.communicate(timeout=120) for run in runs]
    assert [run.returncode for run in runs] == [0, 0], texts
    wrote = [name for out, _ in texts for name in re.findall(r"^wrote (\S+)$", out, re.MULTILINE)]
    assert sorted(wrote) == names  # each by one of them, none twice
    waited = [number for number, (out, _) in enumerate(texts) if "waiting for it" in out]
    assert len(waited) == 1
    assert f"in use by process {runs[1 - waited[0]].pid} " in texts[waited[0]][0]
    assert "wrote" not in texts[waited[0]][0]
    assert all(f"all {' '.join(names)}\n" in out for out, _ in texts)
    assert bytes_of(tmp_path / "store") == bytes_of(alone.folder)
    assert not list((tmp_path / "store").rglob(".unfinished-*"))


@pytest.mark.skipif(os.name != "posix", reason="sends a POSIX signal")
def test_a_waiting_run_takes_over_from_a_killed_one(phantom: Path, plan: Plan, tmp_path: Path) -> None:
    first, second = (start(phantom, plan, tmp_path / "store", pause) for pause in (0.5, 0))
    begin(first)
    end = time.monotonic() + 60
    while not list((tmp_path / "store").glob("*/case.json")) and time.monotonic() < end:
        time.sleep(0.01)  # until one case is there and others are not
    begin(second)
    assert second.stdout is not None
    assert f"in use by process {first.pid} " in second.stdout.readline()
    first.send_signal(signal.SIGKILL)
    first.communicate()
    out, err = second.communicate(timeout=120)
    assert second.returncode == 0, err
    assert "taken over" in out
    names = [case.name for case in read_msd(phantom).training]
    wrote = re.findall(r"^wrote (\S+)$", out, re.MULTILINE)
    assert 0 < len(wrote) < len(names)  # what was finished is kept
    store = CaseStore(tmp_path / "store")
    assert store.names == names
    for name in names:
        store.verify(name)
    prepare_cases(read_msd(phantom), plan, tmp_path / "store", progress=False)
    assert not list((tmp_path / "store").rglob(".unfinished-*"))


def test_a_store_that_needs_nothing_is_not_locked(
    balls: SegmentationDataset, make_plan: MakePlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, folder = make_plan(), tmp_path / "store"
    prepare_cases(balls, plan, folder, progress=False)
    monkeypatch.setattr(prepare, "LOCK_PATIENCE", 0)
    with store_lock(folder):
        assert len(prepare_cases(balls, plan, folder, progress=False).names) == 3
        with pytest.raises(LockedError, match=rf"preparing {folder} is in use by process {os.getpid()} .*--store_dir"):
            prepare_cases(balls, make_plan(spacing=(1.0, 1.5, 1.0)), folder, progress=False)
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o555)
    try:
        assert len(prepare_cases(balls, plan, folder, progress=False).names) == 3
    finally:
        for path in (folder, *folder.rglob("*")):
            path.chmod(0o755)


@pytest.mark.parametrize("name", ["image.npy", "label.npy", "locations.npz", "case.json"])
@pytest.mark.parametrize("how", ["flipped", "truncated", "removed", "emptied"])
def test_a_damaged_file_is_noticed_at_open_and_made_anew(
    balls: SegmentationDataset,
    make_plan: MakePlan,
    tmp_path: Path,
    name: str,
    how: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    store = prepare_cases(balls, make_plan(), tmp_path / "store", progress=False)
    whole = bytes_of(store.folder)
    path = store.folder / "case_1" / name
    if how == "removed":
        path.unlink()
    elif how == "emptied":
        path.write_bytes(b"")
    elif how == "truncated":
        path.write_bytes(path.read_bytes()[:-7])
    elif name == "case.json":
        path.write_text(path.read_text().replace('"crc32": ', '"crc32": 1'))  # still readable, and wrong
    else:
        damage(path)
    case = store.load("case_1")
    assert bytes_of(store.folder) == whole
    np.testing.assert_array_equal(case.image, np.load(store.folder / "case_1" / "image.npy"))
    assert "case case_1 is made anew" in caplog.text
    caplog.clear()
    store.load("case_1")
    store.load("case_0")
    assert not caplog.records


@pytest.mark.parametrize("seed", range(8))
def test_any_flipped_bit_is_noticed(
    balls: SegmentationDataset, make_plan: MakePlan, tmp_path: Path, seed: int, caplog: pytest.LogCaptureFixture
) -> None:
    store = prepare_cases(balls, make_plan(), tmp_path / "store", progress=False)
    damage(store.folder / "case_0" / "image.npy", seed)
    with pytest.raises(DamagedCaseError, match=r"image.npy: damaged"):
        CaseStore(store.folder).load("case_0")  # knows no raw files
    store.load("case_0")
    assert "case case_0 is made anew" in caplog.text


def test_damage_after_the_first_open_is_noticed_at_the_next(
    balls: SegmentationDataset, make_plan: MakePlan, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = prepare_cases(balls, make_plan(), tmp_path / "store", progress=False)
    before = np.array(store.load("case_0").image)
    path = store.folder / "case_0" / "image.npy"
    path.write_bytes(bytes(path.stat().st_size))
    np.testing.assert_array_equal(store.load("case_0").image, before)
    assert "case case_0 is made anew" in caplog.text


def test_checksums_are_read_once(
    balls: SegmentationDataset, make_plan: MakePlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = prepare_cases(balls, make_plan(), tmp_path / "store", progress=False)
    read: list[Path] = []
    real = case_store._crc32
    monkeypatch.setattr(case_store, "_crc32", lambda path: (read.append(path), real(path))[1])
    for _ in range(3):
        store.load("case_0")
    assert sorted(path.name for path in read) == ["image.npy", "label.npy", "locations.npz"]


def test_workers_of_a_loader_mend_a_case_once(
    balls: SegmentationDataset, make_plan: MakePlan, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    store = prepare_cases(balls, make_plan(), tmp_path / "store", progress=False)
    whole = bytes_of(store.folder)
    damage(store.folder / "case_1" / "image.npy")
    loader = DataLoader(StoredVolumes(store, ["case_1"] * 4), batch_size=1, num_workers=2)
    images = [batch["image"][0].numpy() for batch in loader]
    assert bytes_of(store.folder) == whole
    expected = np.load(store.folder / "case_1" / "image.npy")
    for image in images:
        np.testing.assert_array_equal(image, expected)
    assert len(pickle.loads(pickle.dumps(store)).names) == 3  # workers that are spawned get it so


def test_damage_without_raw_files_is_one_error(balls: SegmentationDataset, make_plan: MakePlan, tmp_path: Path) -> None:
    store = prepare_cases(balls, make_plan(), tmp_path / "store", progress=False)
    damage(store.folder / "case_1" / "image.npy")
    balls.training[1].images[0].unlink()
    with pytest.raises(InputError, match=r"case case_1: is damaged in the store and cannot be made anew: .*case_1.nii"):
        store.load("case_1")
    with pytest.raises(InputError, match="holds no case 'x'"):
        store.load("x")


def test_another_plan_does_not_slip_under_a_running_training(
    balls: SegmentationDataset, make_plan: MakePlan, tmp_path: Path
) -> None:
    folder = tmp_path / "store"
    store = prepare_cases(balls, make_plan(), folder, progress=False)
    opened = store.load("case_0").image
    before = np.array(opened)
    other = prepare_cases(balls, make_plan(spacing=(1.0, 1.5, 1.0)), folder, progress=False)
    with pytest.raises(InputError, match=r"another run has prepared this case for another plan.*Cure: .*--store_dir"):
        store.load("case_1")
    with pytest.raises(InputError, match="another plan"):
        store.part(["case_0"]).load("case_0")
    np.testing.assert_array_equal(opened, before)  # what is open stays as it was
    other.load("case_1")


@pytest.mark.parametrize("files", [{}, {"image.npy": {}}, {"../../raw/case_0.nii": {}}, ["image.npy"], None])
def test_a_description_cannot_name_other_files(
    balls: SegmentationDataset, make_plan: MakePlan, tmp_path: Path, files: object
) -> None:
    store = prepare_cases(balls, make_plan(), tmp_path / "store", progress=False)
    path = store.folder / "case_0" / "case.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "files": files}))
    with pytest.raises(DamagedCaseError, match="does not list the files"):
        CaseStore(store.folder).verify("case_0")
    store.load("case_0")
    CaseStore(store.folder).verify("case_0")
