"""Bundle runs in forked children that are killed at drawn moments, and whether what they leave is that of a whole run.

A child tells its phase (preparing, training, checkpoint writing, validation, evaluation, inference) through a pipe; the
parent sends SIGKILL at a moment drawn within a phase. Nothing in the child knows about it.
"""

from __future__ import annotations

import functools
import gzip
import importlib
import json
import os
import select
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.bundle import ConfigWorkflow

from bundle_commands import MASK_RCNN, NNUNET, SE_RESNEXT, UNET_EM
from monai_ext.archive_checksum import DamagedArchive
from monai_ext.engines.checkpoint_files import damage, load_newest

BUNDLES = {"nnunet": NNUNET, "unet_em": UNET_EM, "se_resnext101": SE_RESNEXT, "mask_rcnn": MASK_RCNN}
# what a person would give `inference`, under the folder of the phantom
INPUTS = {
    "nnunet": "imagesTs",
    "unet_em": "test-volume.tif",
    "se_resnext101": "val",
    "mask_rcnn": "images/val",
}
PHASES = ("preparing", "training", "checkpoint writing", "validation", "evaluation", "inference")
TRAINING: dict[str, Any] = {"max_epochs": 4, "epoch_length": 3, "val_interval": 2}
# cases that are validated and evaluated: two are as good as four
FEWER: dict[str, dict[str, Any]] = {"nnunet": {"test_batches": 2}}
CLOCKS = ("minutes", "training_minutes", "seconds", "seconds_per_iteration", "date", "host")
MODULES = "modules.txt"
PATIENCE = 300.0  # seconds after which a child counts as hung


@dataclass(frozen=True)
class Kill:
    """SIGKILL that long (seconds) after a phase was entered, or was gone on with, for that time (from 1)."""

    phase: str
    entry: int
    delay: float


@dataclass
class Outcome:
    """How a child ended: its status, the phase it was in, and the phases it entered with their durations (seconds)."""

    status: int
    phase: str
    durations: dict[str, list[float]] = field(default_factory=dict)

    @property
    def killed(self) -> bool:
        return self.status == -signal.SIGKILL


def run_bundle(bundle: str, run_id: str, **keys: Any) -> None:
    """Run one of a bundle's commands in this process and the working directory; tiny, by one thread."""
    torch.set_num_threads(1)
    configs = BUNDLES[bundle]
    files = ("inference.json",) if run_id == "inference" else ("train.json", "tiny.json")
    if run_id != "inference":
        keys = {"affinity": "disabled", "num_workers": 0, **keys}
    workflow = ConfigWorkflow(
        config_file=[str(configs / name) for name in files],
        workflow_type="train",
        run_id=run_id,
        logging_file=False,
        bundle_root=str(configs.parent),
        **keys,
    )
    workflow.initialize()
    workflow.run()
    workflow.finalize()


def in_killed_child(
    body: Callable[[], None], folder: Path, kill: Kill | None, last_phase: str = "evaluation"
) -> Outcome:
    """Call `body` in a forked child whose working directory is `folder`, and send `kill` to it.

    Args:
        body: the run.
        folder: gets the child's words too, in `words.txt`.
        kill: None lets it end by itself.
        last_phase: what an evaluator does when no training is running.
    """
    receiver, sender = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(receiver)
        _child(body, folder, sender, last_phase)
    os.close(sender)
    return _watch(child, receiver, kill)


def _child(body: Callable[[], None], folder: Path, sender: int, last_phase: str) -> None:
    status = 1
    try:
        words = os.open(folder / "words.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(words, 1)
        os.dup2(words, 2)
        os.chdir(folder)
        with _phases_told(sender, last_phase):
            body()
        (folder / MODULES).write_text("\n".join(sys.modules))
        status = 0
    except BaseException:
        os.write(2, traceback.format_exc().encode())
    finally:
        os._exit(status)


def import_what_was_imported(folder: Path) -> None:
    """Import the modules that a child with this working directory ended with, which saves the next ones seconds."""
    for name in (folder / MODULES).read_text().splitlines():
        if name.partition(".")[0] in ("monai_ext", "monai", "torch", "tensorboard", "scipy", "nibabel", "PIL", "tqdm"):
            with suppress(Exception):
                importlib.import_module(name)


def _watch(child: int, receiver: int, kill: Kill | None) -> Outcome:
    """Read the phases that a child tells, kill it when it is time, wait for its end."""
    text, entered, due = b"", Counter[str](), None
    told: list[tuple[str, float]] = []
    hung = time.monotonic() + PATIENCE
    while True:
        limit = hung if due is None else min(due, hung)
        ready, _, _ = select.select([receiver], [], [], max(0.0, limit - time.monotonic()))
        if not ready:
            os.kill(child, signal.SIGKILL)
            if due is None:
                os.waitpid(child, 0)
                raise AssertionError(f"a run hung in the phase {told[-1][0] if told else '?'}")
            due, hung = None, time.monotonic() + PATIENCE
            continue
        if not (part := os.read(receiver, 65536)):
            break
        text += part
        *lines, text = text.split(b"\n")
        for line in lines:
            phase, stamp = line.decode().rsplit(" ", 1)
            told.append((phase, float(stamp)))
            entered[phase] += 1
            if kill and due is None and phase == kill.phase and entered[phase] == kill.entry:
                due = time.monotonic() + kill.delay
    os.close(receiver)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    durations: dict[str, list[float]] = {}
    for (phase, begin), (_, end) in pairwise(told):
        durations.setdefault(phase, []).append(end - begin)
    return Outcome(status, told[-1][0] if told else "preparing", durations)


@contextmanager
def _phases_told(sender: int, last_phase: str) -> Iterator[None]:
    """Write a line to a pipe whenever this process enters a phase or is back in one; for forked children only."""
    from monai.engines import SupervisedTrainer
    from monai.engines.evaluator import Evaluator

    from monai_ext.engines import scheduled_validation, training_checkpoint

    stack = ["preparing"]

    def tell() -> None:
        os.write(sender, f"{stack[-1]} {time.monotonic()}\n".encode())

    def within(function: Callable[..., Any], phase: Callable[[], str]) -> Callable[..., Any]:
        @functools.wraps(function)
        def wrapped(*args: Any, **options: Any) -> Any:
            stack.append(phase())
            tell()
            result = function(*args, **options)  # after an error there is nothing to tell
            stack.pop()
            tell()
            return result

        return wrapped

    SupervisedTrainer.run = within(SupervisedTrainer.run, lambda: "training")
    Evaluator.run = within(Evaluator.run, lambda: "validation" if "training" in stack else last_phase)
    for module in (scheduled_validation, training_checkpoint):
        module.save_tensors = within(module.save_tensors, lambda: "checkpoint writing")
    tell()
    yield


def whole_so_far(run: Path, seen: set[str]) -> list[str]:
    """What is lost or damaged in the folder of a run just killed; empty if nothing is.

    Args:
        run: the folder.
        seen: names of model files that were there after earlier kills; those found now are added.
    """
    faults = []
    for name in ("model.pt", "model_final.pt"):
        path = run / name
        if path.exists():
            seen.add(name)
            faults += [f"{name}: {what}" for what in [damage(path)] if what]
        elif name in seen:
            faults.append(f"{name} is lost")
    try:
        found = load_newest((run / "last.pt", run / "last_previous.pt"), "")
    except (ValueError, DamagedArchive) as error:
        faults.append(str(error))
    else:
        if found is not None:
            seen.add("last.pt")
        elif "last.pt" in seen:
            faults.append("last.pt is lost")
    for path in run.rglob("[!.]*.json"):  # a hidden one was never given its name
        try:
            json.loads(path.read_text())
        except ValueError:
            faults.append(f"{path.name} is cut")
    return faults


def contents(folder: Path) -> dict[str, Any]:
    """Everything below a folder by name, without what clocks write and without the words of the terminal."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if not path.is_file() or path.suffix == ".txt" or path.name.endswith("lock") or "tfevents" in name:
            continue
        found[name] = _content(path)
    return found


def _content(path: Path) -> Any:
    if path.parent.name == "docs" and path.suffix != ".png":
        return None  # the model card, with times and the command; what it tells is compared
    if path.suffix in (".pt", ".pth"):
        return _plain(torch.load(path, weights_only=True))
    if path.suffix == ".json" and "store" in path.parts:
        return None  # holds times of files; what is made from it is compared
    if path.suffix == ".json":
        return _plain(json.loads(path.read_text()))
    if path.suffix == ".jsonl":
        return [_plain(json.loads(line)) for line in path.read_text().splitlines()]
    if path.suffix == ".gz":
        return gzip.decompress(path.read_bytes())
    return path.read_bytes()


def _plain(value: Any) -> Any:
    """Values that `==` compares bit by bit, without readings of clocks."""
    if isinstance(value, torch.Tensor):
        array = value.detach().contiguous().cpu()
        return (str(array.dtype), tuple(array.shape), bytes(array.reshape(-1).view(torch.uint8).numpy()))
    if isinstance(value, np.ndarray):
        return (str(value.dtype), value.shape, value.tobytes())
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items() if key not in CLOCKS}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    return repr(value) if isinstance(value, float) else value  # NaN differs from itself


def differences(found: dict[str, Any], expected: dict[str, Any]) -> list[str]:
    """Names of files that are missing, too many (an unfinished one, say) or of other content."""
    lines = [f"{name} is missing" for name in expected if name not in found]
    lines += [f"{name} is left over" for name in found if name not in expected]
    return lines + [f"{name} differs" for name in expected if name in found and found[name] != expected[name]]
