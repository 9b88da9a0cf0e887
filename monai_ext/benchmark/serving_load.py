"""Load on a model of an inference server: throughput and latency, offline and online.

Offline one client sends batches of a fixed size, one after another: what a server does for stored data. Online several
clients send single images at the same time: what it does for users, whose requests it puts together.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from monai_ext.errors import InputError, Problems
from monai_ext.serving.triton_client import TritonClient
from monai_ext.serving.triton_server import LocalTritonServer

PERCENTILES = (50, 90, 95, 99)
COLUMNS = (
    "model",
    "mode",
    "batch_size",
    "clients",
    "requests",
    "images_per_s",
    *(f"latency_ms_{p}" for p in PERCENTILES),
    "queue_ms",
    "compute_ms",
    "images_per_execution",
    "input",
    "device",
    "commit",
    "date",
)
SHOWN = COLUMNS[1:13]
_TYPES = {"FP32": np.float32, "UINT8": np.uint8}
WARM_UP = 2


@dataclass(frozen=True)
class Load:
    """What is sent.

    Attributes:
        batch_sizes: of the offline part.
        clients: of the online part, numbers of them.
        requests: of every client.
        size: sizes of an input where the model leaves them free, without batch and channels.
    """

    batch_sizes: tuple[int, ...] = (1, 2, 4)
    clients: tuple[int, ...] = (1, 2, 4, 8)
    requests: int = 30
    size: tuple[int, ...] = ()


def measure_load(address: str, model: str, load: Load) -> list[dict[str, Any]]:
    """Send requests with seeded random values and measure.

    Args:
        address: `host:port` of the server's HTTP service.
        model: name in the server's repository.
        load: what to send.

    Returns:
        A row for every batch size and number of clients. `images_per_s` is by the wall clock, `latency_ms_*` of
        requests as a client sees them, `queue_ms` and `compute_ms` are the server's means of a request, and
        `images_per_execution` tells how many images it computed at a time.

    Raises:
        InputError: no answer, a size is unknown, or the model takes other batches.
    """
    with TritonClient(address) as client:
        known, most = client.metadata(model), int(client.config(model).get("max_batch_size", 0))
        _check(load, model, known, most)
        rows = []
        runs = [("offline", size, 1) for size in load.batch_sizes] + [("online", 1, n) for n in load.clients]
        for mode, batch_size, clients in runs:
            inputs = drawn_inputs(known["inputs"], batch_size if most else 0, load.size)
            before = client.statistics(model)
            seconds, wall = send_requests(address, model, inputs, clients, load.requests)
            after = client.statistics(model)
            images = batch_size * len(seconds)
            shape = next(iter(inputs.values())).shape[1 if most else 0 :]
            rows.append(
                {
                    "model": model,
                    "mode": mode,
                    "batch_size": batch_size,
                    "clients": clients,
                    "requests": len(seconds),
                    "images_per_s": f"{images / wall:.4g}",
                    **{f"latency_ms_{p}": f"{1e3 * np.percentile(seconds, p):.4g}" for p in PERCENTILES},
                    **_of_server(before, after),
                    "input": "x".join(map(str, shape)),
                }
            )
    return rows


def send_requests(
    address: str, model: str, inputs: dict[str, np.ndarray], clients: int, requests: int
) -> tuple[list[float], float]:
    """Seconds of every request, of clients that start together, and of all by the wall clock; warmed up before."""
    seconds: list[list[float]] = [[] for _ in range(clients)]
    errors: list[BaseException] = []
    start = threading.Barrier(clients + 1)

    def work(mine: list[float]) -> None:
        try:
            with TritonClient(address) as client:
                for _ in range(WARM_UP):
                    client.infer(model, inputs)
                start.wait()
                for _ in range(requests):
                    begin = time.perf_counter()
                    client.infer(model, inputs)
                    mine.append(time.perf_counter() - begin)
        except threading.BrokenBarrierError:
            return  # another client has failed and says why
        except BaseException as error:
            errors.append(error)
            start.abort()

    threads = [threading.Thread(target=work, args=(mine,), daemon=True) for mine in seconds]
    for thread in threads:
        thread.start()
    begin = time.perf_counter()
    try:
        start.wait()
        begin = time.perf_counter()
    except threading.BrokenBarrierError:
        pass
    for thread in threads:
        thread.join()
    wall = time.perf_counter() - begin
    if errors:
        raise errors[0]
    return [value for mine in seconds for value in mine], wall


def drawn_inputs(described: Sequence[dict[str, Any]], batch_size: int, size: Sequence[int]) -> dict[str, np.ndarray]:
    """Seeded values for the inputs that a server describes; `spacing` is 1 mm.

    Args:
        described: `inputs` of the model's metadata.
        batch_size: 0 for models that are not batched.
        size: for the last axes, where they are free.
    """
    random = np.random.default_rng(0)
    inputs = {}
    for entry in described:
        shape = [int(n) for n in entry["shape"]]
        shape = [batch_size, *shape[1:]] if batch_size else shape
        for axis, want in zip(range(len(shape) - 1, -1, -1), reversed(size), strict=False):
            if shape[axis] < 0:
                shape[axis] = want
        kind = _TYPES[entry["datatype"]]
        if entry["name"] == "spacing":
            inputs[entry["name"]] = np.ones(shape, kind)
        elif kind is np.uint8:
            inputs[entry["name"]] = random.integers(0, 256, shape, np.uint8)
        else:
            inputs[entry["name"]] = random.normal(size=shape).astype(kind)
    return inputs


@contextmanager
def server_of(address: str, repository: str | Path, model: str) -> Iterator[str]:
    """Address of a running server; of one that is started with a single model of a repository, where that is given."""
    if not str(repository):
        yield address
        return
    with LocalTritonServer(repository, arguments=("--model-control-mode=explicit", f"--load-model={model}")) as server:
        yield server.address


def _check(load: Load, model: str, known: dict[str, Any], most: int) -> None:
    problems = Problems(f"benchmark serving {model}")
    for key, values in (("batch_sizes", load.batch_sizes), ("clients", load.clients), ("requests", (load.requests,))):
        if wrong := [n for n in values if isinstance(n, bool) or not isinstance(n, int) or n < 1]:
            problems.add(f"--{key} {','.join(map(str, wrong))}", "must be whole numbers from 1", f"--{key} 1")
    if unknown := [entry["datatype"] for entry in known["inputs"] if entry["datatype"] not in _TYPES]:
        problems.add(f"inputs of type {', '.join(unknown)}", "cannot be drawn", f"a model of {', '.join(_TYPES)}")
    largest = max((n for n in load.batch_sizes if isinstance(n, int)), default=1)
    if largest > max(1, most):
        problems.add(f"--batch_sizes {largest}", f"the model takes at most {max(1, most)}", f"up to {max(1, most)}")
    for entry in known["inputs"]:
        free = [int(n) for n in entry["shape"][1 if most else 0 :]].count(-1)
        if free > len(load.size):
            problems.add(
                f"--size {','.join(map(str, load.size))}",
                f"{free} sizes of {entry['name']} are free",
                "--size 40,56,40",
            )
    problems.raise_if_any()


def _of_server(before: dict[str, Any], after: dict[str, Any]) -> dict[str, str]:
    """What the server counted between two looks, per request, and per execution."""

    def grown(*path: str) -> int:
        values = []
        for content in (before, after):
            found: Any = content
            for name in path:
                found = found.get(name, {})
            values.append(int(found or 0))  # absent where nothing was counted yet
        return values[1] - values[0]

    requests, executions = grown("inference_stats", "success", "count"), grown("execution_count")
    if not requests or not executions:
        raise InputError("the server counts no requests. Cure: a server with the extension `statistics`")
    means = {
        name: f"{grown('inference_stats', part, 'ns') / requests / 1e6:.4g}"
        for name, part in (("queue_ms", "queue"), ("compute_ms", "compute_infer"))
    }
    return {**means, "images_per_execution": f"{grown('inference_count') / executions:.3g}"}


def run_serving_load(model: str, address: str, repository: str, load: Load, results: str = "") -> None:
    """Measure, print the table, and append the rows to a CSV file where one is named.

    Args:
        model: name in the repository.
        address: of a running server.
        repository: starts a server of this machine with it; empty takes the running one.
        load: see the class.
        results: CSV file.
    """
    from monai_ext.benchmark.measurement_rows import append_rows, circumstances, format_table, measured_device

    with server_of(address, repository, model) as found:
        rows = measure_load(found, model, load)
    about = {"device": measured_device("cpu"), **circumstances()}
    rows = [{**row, **about} for row in rows]
    print(f"{model}, input {rows[0]['input']}" if rows else f"{model}: nothing was asked for")
    print(format_table(rows, SHOWN))
    if results:
        append_rows(Path(results), rows, COLUMNS)
