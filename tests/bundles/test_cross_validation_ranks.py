"""Cross-validation of every bundle under torchrun: each fold once, by one of the processes, and one summary."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bundle_commands import MASK_RCNN, NNUNET, SE_RESNEXT, UNET_EM, Finished, command, environment

pytestmark = [pytest.mark.long, pytest.mark.timeout(3600)]
BUNDLES: dict[str, tuple[Path, tuple[str, ...], dict[str, Any]]] = {
    "unet_em": (UNET_EM, ("train.json", "tiny.json"), {"epoch_length": 1, "nfolds": 3}),
    "nnunet": (NNUNET, ("train.json", "tiny.json"), {"nfolds": 3}),
    "se_resnext101": (SE_RESNEXT, ("train.json", "tiny.json"), {"fold_rule": "drawn", "nfolds": 3}),
    "mask_rcnn": (
        MASK_RCNN,
        ("train.json", "tiny.json"),
        {"fold_rule": "drawn", "nfolds": 3, "eval_samples": 0},
    ),
}


def run(cwd: Path, bundle: str, ranks: int) -> Finished:
    folder, files, options = BUNDLES[bundle]
    overlay = ("multi_gpu_train.json",) if ranks > 1 else ()
    line = command("cross_validation", *files, *overlay, bundle=folder, output_dir=f"ranks{ranks}", **options)
    if ranks > 1:
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(ranks)]
        line = launcher + line[line.index("-m") :]
    done = subprocess.run(
        line, cwd=cwd, env={**environment(), "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=1500
    )
    return Finished(done.returncode, done.stdout, done.stderr)


def result(folder: Path) -> Any:
    """What does not name folders and files."""
    content = json.loads((folder / "cross_validation.json").read_text())
    content.pop("models", None)
    return json.loads(re.sub(r"ranks\d", "ranks", json.dumps(content)))


@pytest.mark.parametrize("bundle", sorted(BUNDLES))
def test_each_fold_once_and_one_summary(bundle: str, tmp_path: Path) -> None:
    done = run(tmp_path, bundle, 2)
    assert done.status == 0, done.err + done.out
    for fold, rank in ((0, 0), (1, 1), (2, 0)):
        assert done.out.count(f"rank {rank}: training fold {fold}") == 1, done.out
        assert done.out.count(f"rank {rank}: fold {fold} is done") == 1
        assert (tmp_path / "ranks2" / str(fold) / "evaluation" / "summary.json").is_file()
    assert done.out.count("result: ") == 1
    assert done.out.count("output: ") == 1
    assert "Traceback" not in done.err
    alone = run(tmp_path, bundle, 1)
    assert alone.status == 0, alone.err
    assert result(tmp_path / "ranks2") == result(tmp_path / "ranks1")
    again = run(tmp_path, bundle, 2)
    assert again.status == 0, again.err
    assert again.out.count("finished before") == 3
