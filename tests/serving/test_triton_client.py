"""Requests as an inference server reads them, and what it says when it refuses."""

from __future__ import annotations

import socket

import numpy as np
import pytest

from monai_ext.errors import InputError
from monai_ext.serving.triton_client import TritonClient
from stand_in_server import served

METADATA = {"name": "model", "versions": ["1"], "inputs": [], "outputs": []}


def sums(inputs: dict[str, np.ndarray]) -> dict[str, tuple[str, np.ndarray]]:
    if inputs["image"].ndim != 3:
        raise ValueError(f"unexpected shape {inputs['image'].shape}")
    labels = (inputs["image"] > inputs["limit"]).astype(np.uint8)
    return {"sum": ("FP32", inputs["image"].sum((1, 2), dtype=np.float32)), "labels": ("UINT8", labels)}


def test_arrays_there_and_back() -> None:
    image = np.random.default_rng(0).normal(size=(2, 4, 3)).astype(np.float32)
    with served(sums, METADATA) as (address, seen), TritonClient(f"http://{address}/") as client:
        assert client.ready()
        assert client.metadata("model")["versions"] == ["1"]
        assert client.config("model")["max_batch_size"] == 4
        # an array whose memory is in another order must arrive in the order of its axes
        turned = np.asfortranarray(image)
        found = client.infer("model", {"image": turned, "limit": np.float32([0.5])}, version=3)
        assert seen[-1] == "POST /v2/models/model/versions/3/infer"
    np.testing.assert_array_equal(found["labels"], (image > 0.5).astype(np.uint8))
    np.testing.assert_allclose(found["sum"], image.sum((1, 2)), rtol=1e-5)  # sums in another order
    assert found["labels"].dtype == np.uint8


def test_refusals_say_why() -> None:
    with served(sums, METADATA) as (address, _), TritonClient(address) as client:
        with pytest.raises(InputError, match=r"answers 400: unexpected shape \(2, 2\)"):
            client.infer("model", {"image": np.zeros((2, 2), np.float32), "limit": np.float32([0])})
        with pytest.raises(InputError, match=r"answers 404: unknown: /v2/models/a%2Fb"):
            client.metadata("a/b")
        # the connection is still good
        assert client.infer("model", {"image": np.zeros((1, 2, 2), np.float32), "limit": np.float32([0])})["sum"] == 0


def test_nobody_listens() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, but not listening: a port on which nobody can answer
        with TritonClient(f"127.0.0.1:{taken.getsockname()[1]}") as client:
            assert not client.ready()
            with pytest.raises(InputError, match=r"no answer .*Cure: start tritonserver"):
                client.metadata("model")
    with pytest.raises(InputError, match="Cure: host:port"):
        TritonClient("localhost:port")
