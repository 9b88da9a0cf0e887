"""SIGTERM and Ctrl-C at any time of a command: one message how to go on, within 20 seconds, and then it does go on."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from bundle_commands import bundle_run, command, environment

pytestmark = [pytest.mark.long, pytest.mark.skipif(os.name != "posix", reason="sends signals")]
TINY = ("train.json", "tiny.json")
LIMIT = 20.0  # seconds, which preemptible machines leave


def stopped(cwd: Path, number: signal.Signals, after: str, line: list[str]) -> str:
    """Start a command, send it a signal once it has said something; all its words."""
    words = cwd / "words.log"
    with words.open("wb") as file:
        process = subprocess.Popen(line, cwd=cwd, env=environment(), stdout=file, stderr=file)
    end = time.monotonic() + 200
    while after not in words.read_text(errors="replace") and time.monotonic() < end:
        assert process.poll() is None, words.read_text()
        time.sleep(0.01)
    process.send_signal(number)
    begun = time.monotonic()
    status = process.wait(120)
    assert time.monotonic() - begun < LIMIT
    assert status in (-number, 128 + number)
    text = words.read_text(errors="replace")
    assert "Traceback" not in text
    assert text.count("go on with the same command") == 1
    return text


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("after", ["fingerprint of", "preprocessing:"])
def test_preparing(tmp_path: Path, number: signal.Signals, workers: int, after: str) -> None:
    keys: dict[str, Any] = {"output_dir": "run", "store_dir": "store", "num_workers": workers}
    stopped(tmp_path, number, after, command("preprocessing", *TINY, **keys))
    done = bundle_run(tmp_path, "preprocessing", *TINY, **keys)
    assert done.status == 0, done.err
    assert not [path for path in tmp_path.rglob(".*") if not path.name.endswith("lock")]


def test_validation_and_inference(tmp_path: Path) -> None:
    # windows a few voxels apart: a validation takes longer than the test waits
    slow: dict[str, Any] = {"output_dir": "run", "store_dir": "store", "epoch_length": 1, "overlap": 0.9}
    text = stopped(tmp_path, signal.SIGTERM, "preprocessing: 20 of 20", command("training", *TINY, **slow))
    assert "saved in" in text or "what was finished is kept" in text
    fast = {"output_dir": "run", "store_dir": "store", "epoch_length": 1, "resume": True}
    done = bundle_run(tmp_path, "training", *TINY, **fast)
    assert done.status == 0, done.err
    assert (tmp_path / "run" / "model_final.pt").is_file()
    keys = {"input": "store/raw/imagesTs", "ckpt_path": "run/model.pt", "output_dir": "predictions"}
    stopped(tmp_path, signal.SIGINT, "output: ", command("inference", "inference.json", overlap=0.9, **keys))
    done = bundle_run(tmp_path, "inference", "inference.json", overwrite=True, **keys)
    assert done.status == 0, done.err
    assert len(list((tmp_path / "predictions").glob("*.nii.gz"))) == 2
