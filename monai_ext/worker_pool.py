"""Worker processes for reading and preprocessing, which never outlive the process that started them."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.connection import wait


def worker_pool(num_workers: int, initializer: Callable[[], None] | None = None) -> ProcessPoolExecutor:
    """Executor of `num_workers` fresh processes.

    They are started by a fork server (spawned where there is none): a forked child would inherit locks that the
    parent's threads hold. If the parent is killed, they end at once.

    Args:
        num_workers: at least 1.
        initializer: run in every worker before its first job.
    """
    methods = multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")
    return ProcessPoolExecutor(num_workers, context, initializer=_begin, initargs=(initializer,))


def _begin(initializer: Callable[[], None] | None) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if initializer is not None:
        initializer()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
