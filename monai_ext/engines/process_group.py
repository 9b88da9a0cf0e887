"""The processes of one training, started by torchrun: who this one is, and how they agree; alone it is all a no-op.

Tensors of the training travel by NCCL between GPUs and by gloo between processors, whichever they lie on. What the
processes agree on beside that (a signal, a clock, scores) are small Python values; these go through a gloo group of its
own, so that they neither stop a GPU nor run into NCCL's time limit while one process prepares a dataset.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import logging
import os
import signal
import socket
import threading
import time
import warnings
from collections.abc import Callable
from datetime import timedelta
from typing import Any, ParamSpec, TypeVar

import torch
from torch import distributed

from monai_ext.engines.local_sockets import keep_local
from monai_ext.engines.workflow import from_command_line
from monai_ext.errors import InputError
from monai_ext.file_lock import process_birth

logger = logging.getLogger(__name__)
T = TypeVar("T")
P = ParamSpec("P")
# The first process may prepare a large dataset while the others wait. Should it die, torchrun ends the others.
PATIENCE = timedelta(days=2)
# Seconds. torchrun ends all processes as soon as one has ended; the one that says why must not be cut off.
LAST_WORDS = 1.0

_END = "end of what processes do together"  # marks what they tell each other then
_control: Any = None  # gloo group for small values; None is the default group
_launchers: frozenset[str] = frozenset()
_at_finish: list[Callable[[], object]] = []


def start() -> None:
    """Join the processes that torchrun started; without torchrun do nothing.

    All but the first process then log errors only.

    Raises:
        InputError: torchrun's variables are incomplete.
    """
    global _control, _launchers
    if running():
        return
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        _launchers = _own_launcher()
        return
    missing = [name for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if missing:
        raise InputError(f"WORLD_SIZE is set, {', '.join(missing)} are not. Cure: start with torchrun")
    keep_local()
    if torch.cuda.is_available():
        torch.cuda.set_device(_local_rank() % torch.cuda.device_count())
        distributed.init_process_group("cpu:gloo,cuda:nccl")
        _control = distributed.new_group(backend="gloo", timeout=PATIENCE)
    else:
        distributed.init_process_group("gloo", timeout=PATIENCE)
    _launchers = frozenset().union(*gather(_own_launcher()))
    if is_first():
        logger.info("%d processes train together", world_size())
    else:
        logging.disable(logging.WARNING)
        warnings.simplefilter("ignore")


def finish() -> None:
    """Wait for the other processes and leave them."""
    global _control, _launchers
    barrier()
    for function in _at_finish:
        function()
    _at_finish.clear()
    _launchers = frozenset()
    if running():
        if from_command_line() and threading.current_thread() is threading.main_thread():
            # all is done; should a connection hang when it is closed, a handler in Python would never be called
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, signal.SIG_DFL)
        _never_destruct(distributed.group.WORLD)
        _never_destruct(_control)
        distributed.destroy_process_group()
        _control = None
        logging.disable(logging.NOTSET)


def _never_destruct(group: Any) -> None:
    """Keep a group's object until the process ends, when the system takes its threads away.

    Whoever drops the last reference, such as DDP's reducer at the end of the program, joins gloo's threads while it
    holds Python's lock. A thread that is about to drop the tensors of the last message needs that lock: both would
    wait for ever.
    """
    if group is not None:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(group))


def launchers() -> frozenset[str]:
    """The torchrun processes, one a machine, that started these processes and start them again if one fails."""
    return _launchers


def at_finish(function: Callable[[], object]) -> None:
    """Have this process call a function when all have ended well."""
    _at_finish.append(function)


def running() -> bool:
    """Whether this process has joined others."""
    return distributed.is_available() and distributed.is_initialized()


def check_joined() -> None:
    """Refuse to train in each of torchrun's processes as if it were alone.

    Raises:
        InputError: torchrun started several processes, and none has called `start`.
    """
    if not running() and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        if int(os.environ.get("RANK", "0")) > 0:  # the first one says so
            time.sleep(LAST_WORDS)
            raise SystemExit(1)
        raise InputError(
            "torchrun started several processes, but no config lets them join. "
            "Cure: --config_file with multi_gpu_train.json as its last file"
        )


def rank() -> int:
    """Number of this process, 0 if it is alone."""
    return distributed.get_rank() if running() else 0


def world_size() -> int:
    """Number of processes, on all machines together."""
    return distributed.get_world_size() if running() else 1


def is_first() -> bool:
    """Whether this is the process that writes files and talks to the person."""
    return rank() == 0


def local_device() -> torch.device:
    """The GPU of this process, the CPU where there is none.

    Raises:
        InputError: more processes on this machine than GPUs.
    """
    if not torch.cuda.is_available():
        return torch.device("cpu")
    number, count = _local_rank(), torch.cuda.device_count()
    if number >= count:
        raise InputError(
            f"process {number + 1} of this machine has no GPU: there are {count}. "
            f"Cure: torchrun --nproc_per_node {count}, or --device cpu"
        )
    return torch.device("cuda", number)


def barrier() -> None:
    """Wait until every process is here."""
    if running():
        distributed.barrier(group=_control)


def gather(value: T) -> list[T]:
    """What every process gave, in the order of their ranks, on every process."""
    if not running():
        return [value]
    values = _gathered(value)
    if any(map(_is_end, values)):  # another process failed before it came here
        time.sleep(LAST_WORDS)
        raise SystemExit(1)
    return values


def gather_at_first(value: T) -> list[T]:
    """What every process gave, in the order of their ranks, on the first process; on the others an empty list."""
    if not running():
        return [value]
    values: list[Any] | None = [None] * world_size() if is_first() else None
    distributed.gather_object(value, values, dst=0, group=_control)
    return values or []


def largest(number: float) -> float:
    """The largest of the numbers that the processes gave; on every process, in double precision."""
    if not running():
        return number
    # a device of its own choice would stop the GPU at every step
    value = torch.tensor(number, dtype=torch.float64)
    distributed.all_reduce(value, distributed.ReduceOp.MAX, group=_control)
    return float(value)


def of_first(number: float) -> float:
    """The number that the first process gave, in double precision; the others' do not count."""
    if not running():
        return number
    value = torch.tensor(number, dtype=torch.float64)
    distributed.broadcast(value, 0, group=_control)
    return float(value)


def is_first_to_say(text: str) -> bool:
    """Whether no other process has asked this about the same text: for a mistake that all of them find by themselves.

    Nobody waits for the others here, since they may have found none.
    """
    if not running():
        return True
    digest = hashlib.sha256(text.encode()).hexdigest()
    try:
        return bool(distributed.distributed_c10d._get_default_store().add(f"said {digest}", 1) == 1)
    except RuntimeError:  # whoever kept the store has ended
        return True


def say(*words: object) -> None:
    """Print on the first process only."""
    if is_first():
        print(*words, flush=True)


def together(function: Callable[[], T]) -> T:
    """Call a function on all processes; where it fails on some, one of them says so and all end. May be nested.

    Raises:
        Exception: whatever the function raised, on the lowest rank where it raised something.
        SystemExit: status 1, on all others.
    """
    result, error = _attempt(function)
    _end_if_any_failed(error)
    return result  # type: ignore[return-value]


def one_error(function: Callable[P, T]) -> Callable[P, T]:
    """Decorator for what all processes do alike and a person's mistake ends: `together`, so that it is said once."""

    @functools.wraps(function)
    def called(*args: P.args, **kwargs: P.kwargs) -> T:
        return together(lambda: function(*args, **kwargs))

    return called


def first_alone(function: Callable[[], Any]) -> None:
    """Call a function on the first process while the others wait, as for what writes files; nothing is returned.

    Raises:
        Exception: whatever the function raised, on the first process.
        SystemExit: status 1, on all others.
    """
    _end_if_any_failed(_attempt(function)[1] if is_first() else None)


def _attempt(function: Callable[[], T]) -> tuple[T | None, BaseException | None]:
    try:
        return function(), None
    except (Exception, SystemExit) as error:  # the second is what a nested call leaves on the silent processes
        return None, error


def _end_if_any_failed(error: BaseException | None) -> None:
    if not running():
        if error is not None:
            raise error
        return
    failures = _gathered((_END, error is not None, isinstance(error, Exception)))
    if not all(_is_end(given) for given in failures):  # one failed, the others are on their way through the function
        raise error or RuntimeError("processes do not take the same way through a function they call together")
    if not any(failed for _, failed, _ in failures):
        return
    speakers = [number for number, (_, _, speaks) in enumerate(failures) if speaks]
    if error is not None and speakers[:1] in ([], [rank()]):
        raise error
    time.sleep(LAST_WORDS)
    raise SystemExit(1)


def _own_launcher() -> frozenset[str]:
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return frozenset()
    launcher = os.getppid()
    return frozenset({f"process {launcher} on {socket.gethostname()}, begun at {process_birth(launcher)}"})


def _gathered(value: Any) -> list[Any]:
    values: list[Any] = [None] * world_size()
    distributed.all_gather_object(values, value, group=_control)
    return values


def _is_end(value: Any) -> bool:
    return isinstance(value, tuple) and value[:1] == (_END,)


def _local_rank() -> int:
    return int(os.environ.get("LOCAL_RANK", "0"))
