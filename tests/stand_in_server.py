"""An inference server of one model in this process, which speaks the Open Inference Protocol with binary tensors."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np

NUMPY = {"FP32": "<f4", "UINT8": "u1", "UINT16": "<u2"}
LENGTH = "Inference-Header-Content-Length"


@contextmanager
def served(
    answer: Callable[[dict[str, np.ndarray]], dict[str, tuple[str, np.ndarray]]],
    metadata: dict[str, Any],
    max_batch_size: int = 4,
) -> Iterator[tuple[str, list[str]]]:
    """Yield `host:port` and the list of requests so far, as `METHOD path`.

    Args:
        answer: inputs by name to outputs by name, each a datatype and an array; an exception is an answer 400.
        metadata: of the model; its `name` is the only one that is known.
        max_batch_size: in its configuration.
    """
    seen: list[str] = []
    counts = {"requests": 0, "images": 0}
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1  # one packet an answer: headers alone would wait for their acknowledgement

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

        def do_GET(self) -> None:
            seen.append(f"GET {self.path}")
            place = f"/v2/models/{metadata['name']}"
            if self.path == "/v2/health/ready":
                self._send(200, b"")
            elif self.path == place:
                self._send(200, json.dumps(metadata).encode())
            elif self.path == f"{place}/config":
                self._send(200, json.dumps({"max_batch_size": max_batch_size}).encode())
            elif self.path == f"{place}/stats":
                n = counts["requests"]
                times = {part: {"count": n, "ns": 2_000_000 * n} for part in ("success", "queue", "compute_infer")}
                content = {"inference_count": counts["images"], "execution_count": n, "inference_stats": times}
                self._send(200, json.dumps({"model_stats": [content]}).encode())
            else:
                self._send(404, json.dumps({"error": f"unknown: {self.path}"}).encode())

        def do_POST(self) -> None:
            seen.append(f"POST {self.path}")
            body = self.rfile.read(int(self.headers["Content-Length"]))
            at = int(self.headers[LENGTH])
            inputs = {}
            for entry in json.loads(body[:at])["inputs"]:
                size = entry["parameters"]["binary_data_size"]
                inputs[entry["name"]] = np.frombuffer(body, NUMPY[entry["datatype"]], offset=at)[
                    : int(np.prod(entry["shape"]))
                ].reshape(entry["shape"])
                at += size
            assert at == len(body)
            try:
                outputs = answer(inputs)
            except ValueError as error:
                self._send(400, json.dumps({"error": str(error)}).encode())
                return
            with lock:
                counts["requests"] += 1
                counts["images"] += len(next(iter(inputs.values())))
            entries = [
                {"name": k, "datatype": t, "shape": list(a.shape), "parameters": {"binary_data_size": a.nbytes}}
                for k, (t, a) in outputs.items()
            ]
            head = json.dumps({"outputs": entries}).encode()
            self._send(200, head + b"".join(a.tobytes() for _, a in outputs.values()), {LENGTH: str(len(head))})

        def _send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
            self.send_response(status)
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
            self.wfile.flush()

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_address[1]}", seen
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
