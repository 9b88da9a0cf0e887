"""Processes that have joined each other as ranks, without torchrun: what they return comes back in their order."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from multiprocessing import get_context
from typing import Any

from monai_ext.engines import process_group

_WAIT_SECONDS = 60


def free_port() -> int:
    """A port of this machine that nobody listened on a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def on_ranks(function: Callable[..., Any], world_size: int, *args: Any) -> list[Any]:
    """Call `function(*args)` on every rank; an exception comes back as its `repr`, as a return value would."""
    context = get_context("fork")  # torch is loaded already, which takes spawned processes seconds each
    port = free_port()
    pipes = [context.Pipe(duplex=False) for _ in range(world_size)]
    processes = [
        context.Process(target=_rank, args=(rank, world_size, port, pipes[rank][1], function, args))
        for rank in range(world_size)
    ]
    for process in processes:
        process.start()
    try:
        results = []
        for receiver, _ in pipes:
            assert receiver.poll(_WAIT_SECONDS), "a rank gave no answer"
            results.append(receiver.recv())
        for process in processes:
            process.join(_WAIT_SECONDS)
        return results
    finally:
        for process in processes:
            process.kill()


def _rank(rank: int, world_size: int, port: int, sender: Any, function: Callable[..., Any], args: Any) -> None:
    import torch

    torch.set_num_threads(1)  # threads of the parent do not exist here
    names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world_size, "LOCAL_WORLD_SIZE": world_size}
    os.environ |= {name: str(value) for name, value in names.items()}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    process_group.start()
    try:
        result = function(*args)
    except BaseException as error:
        result = repr(error)
    sender.send(result)
    process_group.finish()
