"""Two trainings into one folder, by the command line: the second is refused; one that was killed is gone on with."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import pytest

from bundle_commands import UNET_EM, bundle_run, command, environment
from monai_ext.engines.run_protection import LOCK_FILE

pytestmark = [pytest.mark.slow, pytest.mark.skipif(os.name != "posix", reason="kills a process")]


@pytest.mark.long
def test_one_training_a_folder(tmp_path: Path) -> None:
    configs = ("train.json", "tiny.json")
    options = {"output_dir": "run", "store_dir": "store"}
    line = command("training", *configs, bundle=UNET_EM, **options, max_epochs=100000)
    with (tmp_path / "first.log").open("wb") as log:
        first = subprocess.Popen(line, cwd=tmp_path, env=environment(), stdout=log, stderr=log)
    try:
        end = time.monotonic() + 120
        while not (tmp_path / "run" / "last.pt").exists() and time.monotonic() < end:
            assert first.poll() is None, (tmp_path / "first.log").read_text()
            time.sleep(0.1)
        second = bundle_run(tmp_path, "training", *configs, bundle=UNET_EM, **options, overwrite=True)
        assert second.status == 1
        assert f"error: run, the folder of this run, is in use by process {first.pid} " in second.err
        assert "Cure: another --output_dir" in second.err
        assert "Traceback" not in second.err
        assert first.poll() is None
        assert not list((tmp_path / "run").glob("previous-*"))  # nothing was set aside under its feet
    finally:
        first.kill()
        first.wait()
    assert (tmp_path / "run" / LOCK_FILE).read_bytes()  # it still names the dead
    third = bundle_run(tmp_path, "training", *configs, bundle=UNET_EM, **options, overwrite=True)
    assert third.status == 0, third.err
    assert (tmp_path / "run" / "metrics.json").is_file()
    assert (tmp_path / "run" / LOCK_FILE).read_bytes() == b""
