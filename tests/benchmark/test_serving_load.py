"""The load script counts what it sends, keeps all clients busy at a time, and says what it cannot do."""

from __future__ import annotations

import csv
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from monai_ext.__main__ import Commands
from monai_ext.benchmark.serving_load import COLUMNS, Load, drawn_inputs, measure_load
from monai_ext.errors import InputError
from stand_in_server import served

METADATA = {
    "name": "model",
    "inputs": [{"name": "image", "datatype": "FP32", "shape": [-1, 1, 4, 4]}],
    "outputs": [{"name": "labels", "datatype": "UINT8", "shape": [-1, 1, 4, 4]}],
}
WORK_S = 0.02


class Counting:
    """Answers after a while, and knows how many did so at the same time."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.now = self.most = self.calls = 0
        self.sizes: set[int] = set()

    def __call__(self, inputs: dict[str, np.ndarray]) -> dict[str, tuple[str, np.ndarray]]:
        with self.lock:
            self.now += 1
            self.calls += 1
            self.most = max(self.most, self.now)
            self.sizes.add(len(inputs["image"]))
        time.sleep(WORK_S)
        with self.lock:
            self.now -= 1
        return {"labels": ("UINT8", np.zeros(inputs["image"].shape, np.uint8))}


def test_rows_of_both_parts() -> None:
    model = Counting()
    with served(model, METADATA) as (address, _):
        rows = measure_load(address, "model", Load((1, 2), (3,), requests=4))
    assert [(r["mode"], r["batch_size"], r["clients"], r["requests"]) for r in rows] == [
        ("offline", 1, 1, 4),
        ("offline", 2, 1, 4),
        ("online", 1, 3, 12),
    ]
    assert model.sizes == {1, 2}
    assert model.most == 3
    assert model.calls == 4 + 4 + 12 + 2 * (1 + 1 + 3)  # two of each client are not timed
    for row in rows:
        assert float(row["latency_ms_50"]) >= 1e3 * WORK_S
        assert float(row["latency_ms_50"]) <= float(row["latency_ms_90"]) <= float(row["latency_ms_99"])
        # a client cannot be faster than one batch in WORK_S
        assert 0 < float(row["images_per_s"]) <= row["batch_size"] * row["clients"] / WORK_S
        assert (row["queue_ms"], row["compute_ms"], row["input"]) == ("2", "2", "1x4x4")
    assert [row["images_per_execution"] for row in rows] == ["1", "2", "1"]


def test_command_writes_a_result_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with served(Counting(), METADATA) as (address, _):
        Commands.benchmark.serving(
            "model", address=address, batch_sizes=1, clients=2, requests=2, results=str(tmp_path / "rows.csv")
        )
    rows = list(csv.DictReader((tmp_path / "rows.csv").open()))
    assert tuple(rows[0]) == COLUMNS
    assert [row["mode"] for row in rows] == ["offline", "online"]
    assert "images per s" in capsys.readouterr().out


def test_free_sizes_and_spacings_are_filled() -> None:
    described = [
        {"name": "image", "datatype": "UINT8", "shape": [1, -1, -1, -1]},
        {"name": "spacing", "datatype": "FP32", "shape": [3]},
    ]
    inputs = drawn_inputs(described, 0, (4, 5, 6))
    assert inputs["image"].shape == (1, 4, 5, 6)
    assert inputs["image"].dtype == np.uint8
    np.testing.assert_array_equal(inputs["spacing"], np.ones(3, np.float32))


def test_what_cannot_be_asked() -> None:
    free = {**METADATA, "inputs": [{"name": "image", "datatype": "FP32", "shape": [-1, 1, -1, -1]}]}
    with served(Counting(), free, max_batch_size=2) as (address, seen):
        with pytest.raises(InputError) as caught:
            measure_load(address, "model", Load((1, 4), (0,), requests=2))
        assert not any(line.startswith("POST") for line in seen)
    for part in ("--clients 0", "--batch_sizes 4: the model takes at most 2", "--size : 2 sizes of image are free"):
        assert part in str(caught.value)


def test_an_error_of_one_client_ends_the_measurement() -> None:
    def refuse(inputs: dict[str, np.ndarray]) -> dict[str, tuple[str, np.ndarray]]:
        raise ValueError("no memory")

    with served(refuse, METADATA) as (address, _), pytest.raises(InputError, match="answers 400: no memory"):
        measure_load(address, "model", Load((), (3,), requests=2))
