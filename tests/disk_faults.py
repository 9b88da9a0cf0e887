"""Faults of disk, memory and folders during bundle runs: each must end in one clear error, and resume must work.

Every function here tries one fault in the working folder of a scene, within a process of its own (see `forked_child`),
and raises `AssertionError` where the run did not do what it should, `Lost` where finished work is gone or damaged.
"""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import signal
import threading
import time
from collections.abc import Callable
from multiprocessing import active_children
from pathlib import Path
from typing import Any

from fault_scene import (
    FULL,
    LARGE,
    Lost,
    Scene,
    check_one_error,
    check_same_end,
    check_whole,
    files_of,
    go_on,
    is_timeless,
    predicting,
    resize,
    small_disk,
)
from forked_child import make_read_only, mount_small_disk

KILOBYTE = 1024


def disk_full_preparing(scene: Scene, share: float) -> None:
    """The disk of the store fills up when a share of it is stored."""
    stored = sum(path.stat().st_size for path in (scene.folder / "store").rglob("*") if path.is_file())
    small_disk(scene, int(share * stored))
    store: dict[str, Any] = {"store_dir": str(scene.disk / "store"), "output_dir": str(scene.work / "run")}
    check_one_error(scene.run("preprocessing", **store), FULL, str(scene.disk))
    resize(scene, LARGE)
    done = scene.run("preprocessing", **store)
    assert done.status == 0, done.err
    stores = [
        sorted(p.relative_to(place) for p in files_of(place))
        for place in (scene.folder / "store", scene.disk / "store")
    ]
    if stores[0] != stores[1]:
        raise Lost(f"the store holds other files: {set(stores[0]) ^ set(stores[1])}")


def disk_full_training(scene: Scene, share: float) -> None:
    """The disk of the run fills up when a share of its files is written: a checkpoint, the log, curves, the report."""
    small_disk(scene, int(share * scene.needed()))
    check_one_error(scene.run("training"), FULL)
    check_whole(scene.run_folder)
    resize(scene, LARGE)
    go_on(scene)


def disk_full_predicting(scene: Scene, share: float, run_id: str = "inference") -> None:
    """The disk of the predictions fills up when a share of them is written."""
    keys = predicting(scene, run_id)
    whole = scene.run(run_id, **keys, output_dir=str(scene.work / "whole"))
    assert whole.status == 0, whole.err
    predicted = files_of(scene.work / "whole")
    small_disk(scene, int(share * sum(path.stat().st_size for path in predicted)))
    check_one_error(scene.run(run_id, **keys), FULL)
    check_whole(scene.run_folder)
    before = {path: path.read_bytes() for path in files_of(scene.run_folder)}
    for path, content in before.items():
        same = scene.work / "whole" / path.relative_to(scene.run_folder)
        if is_timeless(same) and same.read_bytes() != content:
            raise Lost(f"{path.name}: written, and not whole")
    resize(scene, LARGE)
    done = scene.run(run_id, **keys, overwrite=True) if run_id == "inference" else scene.run(run_id, **keys)
    assert done.status == 0, done.err
    for path in predicted:
        again = scene.run_folder / path.relative_to(scene.work / "whole")
        if not again.exists() or (is_timeless(path) and path.read_bytes() != again.read_bytes()):
            raise Lost(f"{path.name}: missing, or other than that of an undisturbed run")


def read_only_output(scene: Scene, run_id: str = "training") -> None:
    """The disk of the output became read-only before the run, with a training on it that must stay as it is."""
    scene.disk.mkdir()
    mount_small_disk(scene.disk, LARGE)
    shutil.copytree(scene.folder / "whole", scene.run_folder)
    make_read_only(scene.disk)
    keys = predicting(scene, run_id) if run_id != "training" else {"resume": True}
    check_one_error(scene.run(run_id, **keys), str(scene.run_folder), "Read-only file system")
    check_same_end(scene, scene.run_folder)


def read_only_store(scene: Scene) -> None:
    """A complete store that may not be written is used; an incomplete one gives an error."""
    scene.disk.mkdir()
    mount_small_disk(scene.disk, LARGE)
    shutil.copytree(scene.folder / "store", scene.disk / "store")
    make_read_only(scene.disk)
    keys: dict[str, Any] = {"store_dir": str(scene.disk / "store"), "output_dir": str(scene.work / "run")}
    done = scene.run("training", **keys)
    assert done.status == 0, done.err
    check_same_end(scene, scene.work / "run")
    keys["store_dir"] = str(scene.disk / "other")
    check_one_error(scene.run("preprocessing", **keys), "Read-only file system", str(scene.disk))


def folder_removed(scene: Scene, saves: int, way: str = "moved") -> None:
    """The output folder is moved away, removed, or replaced by an empty one after that many checkpoints."""
    scene.disk.mkdir()

    def change() -> None:
        os.rename(scene.run_folder, scene.disk / "away")
        if way == "replaced":
            scene.run_folder.mkdir()
        if way == "removed":
            shutil.rmtree(scene.disk / "away")

    done = scene.run("training", before=lambda: after_saves(saves, change))
    check_one_error(done, "was removed, moved or replaced", str(scene.run_folder))
    found = list(scene.run_folder.rglob("*")) if scene.run_folder.exists() else []
    assert not found, found
    if way != "removed":
        shutil.rmtree(scene.run_folder, ignore_errors=True)
        os.rename(scene.disk / "away", scene.run_folder)
    check_whole(scene.run_folder)
    go_on(scene)


def folder_removed_predicting(scene: Scene, run_id: str = "inference") -> None:
    """The output folder is removed after the first file; what comes later must not pretend to be all."""
    scene.disk.mkdir()
    keys = predicting(scene, run_id)
    replace = os.replace

    def replacing(source: Any, target: Any, **options: Any) -> None:
        replace(source, target, **options)
        if Path(target).is_relative_to(scene.run_folder):
            os.replace = replace
            shutil.rmtree(scene.run_folder)

    def patch() -> None:
        os.replace = replacing  # type: ignore[assignment]

    done = scene.run(run_id, before=patch, **keys)
    check_one_error(done, "was removed, moved or replaced|cannot be written", str(scene.run_folder))
    assert not scene.run_folder.exists()
    done = scene.run(run_id, **keys)
    assert done.status == 0, done.err
    assert files_of(scene.run_folder)


def preparing_worker_killed(scene: Scene) -> None:
    """A preprocessing worker gets SIGKILL as soon as the first case is stored."""
    store = scene.work / "store"
    shutil.copytree(scene.folder / "store" / "raw", store / "raw")
    keys: dict[str, Any] = {"store_dir": str(store), "output_dir": str(scene.work / "run")}

    def watch() -> None:
        def kill() -> None:
            while not list(store.glob("cases/*/case.json")):
                time.sleep(0.001)
            os.kill(_youngest_worker(os.getpid()), signal.SIGKILL)

        threading.Thread(target=kill, daemon=True).start()

    check_one_error(scene.run("preprocessing", before=watch, num_workers=2, **keys), "process was killed")
    done = scene.run("preprocessing", **keys)
    assert done.status == 0, done.err
    if len(list(store.glob("cases/*/case.json"))) != len(list((scene.folder / "store").glob("cases/*/case.json"))):
        raise Lost("cases are missing in the store")


def loader_killed(scene: Scene, saves: int) -> None:
    """A worker of the training's loader gets SIGKILL after that many checkpoints, as from the system without memory."""
    scene.disk.mkdir()

    def kill() -> None:
        workers = active_children()
        assert workers
        os.kill(workers[-1].pid or 0, signal.SIGKILL)

    done = scene.run("training", before=lambda: after_saves(saves, kill), num_workers=1)
    check_one_error(done, "worker", "was killed, most likely for lack of memory")
    check_whole(scene.run_folder)
    go_on(scene)


def file_too_large(scene: Scene, kilobytes: int) -> None:
    """No file may grow beyond a limit (`ulimit -f`), which checkpoints do."""
    scene.disk.mkdir()

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # as the interpreter does
        resource.setrlimit(resource.RLIMIT_FSIZE, (kilobytes * KILOBYTE,) * 2)

    check_one_error(scene.run("training", before=limit), "File too large")
    check_whole(scene.run_folder)
    go_on(scene)


def few_files_allowed(scene: Scene, spare: int) -> None:
    """Only that many more files may be opened at a time (`ulimit -n`)."""
    scene.disk.mkdir()

    def limit() -> None:
        used = {int(name) for name in os.listdir("/proc/self/fd")}
        free = [number for number in range(len(used) + spare + 1) if number not in used]
        resource.setrlimit(resource.RLIMIT_NOFILE, (free[spare],) * 2)

    check_one_error(scene.run("training", before=limit, num_workers=1), "oo many open files")
    check_whole(scene.run_folder)
    go_on(scene)


def no_memory(scene: Scene, megabytes: int) -> None:
    """Only that much more memory may be taken (`ulimit -v`)."""
    scene.disk.mkdir()

    def limit() -> None:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + megabytes * KILOBYTE**2,) * 2)

    check_one_error(scene.run("training", before=limit), "ot enough memory")
    check_whole(scene.run_folder)
    go_on(scene)


def after_saves(number: int, action: Callable[[], None]) -> None:
    """Let this process do something right after it has written a checkpoint for that time."""
    from monai_ext.engines.training_checkpoint import TrainingCheckpoint

    save, seen = TrainingCheckpoint.save, 0

    def saving(self: TrainingCheckpoint, engine: Any) -> None:
        nonlocal seen
        save(self, engine)
        seen += 1
        if seen == number:
            action()

    TrainingCheckpoint.save = saving  # type: ignore[method-assign]


def _youngest_worker(parent: int) -> int:
    """A worker of a pool: a grandchild, as the fork server is between."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parents[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
    children = {pid for pid, above in parents.items() if above == parent}
    return max(pid for pid, above in parents.items() if above in children)
