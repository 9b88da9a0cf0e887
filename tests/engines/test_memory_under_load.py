"""Memory stays bounded: of one large volume, of many small ones in one process, of many epochs."""

from __future__ import annotations

import gc
import json
import math
import os
import tracemalloc
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from monai.bundle import run
from torch.utils._python_dispatch import TorchDispatchMode

from bundle_commands import NNUNET, UNET_EM, command
from monai_ext.engines.prediction_outputs import PredictionOutputs
from monai_ext.engines.training_checkpoint import TrainingCheckpoint
from narrow_model import CLASSES, narrow_plan, write_model, write_volume
from watched_process import MIB, Watched, open_files, resident, watched

GIB = 2**30
GROWTH = 1.02  # of resident memory; the allocator and the caches of libraries take some pages later than others
EARLY, LATE = (0.2, 0.4), (0.8, 1.0)  # parts of a run that are compared


def inference_keys(folder: Path, *patch: int, **changes: Any) -> dict[str, Any]:
    """Write a model; keys of the inference of `folder/input` into `folder/out`."""
    model = write_model(folder / "model", narrow_plan((patch[0], patch[-1], patch[-1])))
    (folder / "input").mkdir()
    places = {"dataset_dir": str(folder / "input"), "ckpt_path": str(model), "output_dir": str(folder / "out")}
    return {**places, "amp": False, "sw_batch_size": 1, "overlap": 0.25, **changes}


def run_here(run_id: str, configs: Sequence[Path], **keys: Any) -> None:
    """Run a bundle in this process."""
    run(run_id, config_file=[str(config) for config in configs], **keys)


def check_labels(path: Path, shape: tuple[int, int, int]) -> None:
    written: Any = nibabel.load(path)
    assert written.shape == shape
    labels = np.asarray(written.dataobj)
    assert labels.dtype == np.uint8
    assert labels.max() < CLASSES
    assert len(np.unique(labels[:, :, shape[2] // 2])) > 1  # the network sees the volume


def assert_no_growth(series: Sequence[tuple[float, int, int]]) -> None:
    """Compare an early and a late part of (progress from 0 to 1, resident bytes, open files)."""

    def part(bounds: tuple[float, float]) -> tuple[list[int], list[int]]:
        chosen = [(memory, files) for at, memory, files in series if bounds[0] <= at <= bounds[1]]
        assert len(chosen) >= 3, "too few observations"
        return [memory for memory, _ in chosen], [files for _, files in chosen]

    (early, files), (late, files_late) = part(EARLY), part(LATE)
    told = (
        f"resident {median(early) / MIB:.1f} MiB, later {median(late) / MIB:.1f} MiB "
        f"({median(late) / median(early) - 1:+.2%}); open files at most {max(files)}, later {max(files_late)}"
    )
    print(f"\n{told}")
    assert median(late) < GROWTH * median(early), told
    assert max(files_late) <= max(files), told


class _LargestTensor(TorchDispatchMode):
    """Notes the bytes of the largest tensor that any operation gives."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for given in result if isinstance(result, tuple | list) else [result]:
            if isinstance(given, torch.Tensor):
                self.bytes = max(self.bytes, given.numel() * given.element_size())
        return result


def tensor_bytes() -> int:
    """Bytes of all tensors that something in this process holds."""
    gc.collect()
    held = [thing for thing in gc.get_objects() if isinstance(thing, torch.Tensor)]
    return sum(tensor.numel() * tensor.element_size() for tensor in held)


@pytest.mark.parametrize("spacing", [1.0, 1.3], ids=["own_grid", "resampled"])
def test_logits_of_a_whole_volume_never_exist(tmp_path: Path, spacing: float) -> None:
    shape = (32, 32, 96)
    keys = inference_keys(tmp_path, 8, 32)  # flat windows, so that few cover the volume
    write_volume(tmp_path / "input" / "volume.nii.gz", shape, spacing)
    stored = math.prod(round(n * spacing) for n in shape)
    kept = stored * CLASSES * 4
    keys["evaluator#iteration_update#most_logits"] = kept - 1
    with _LargestTensor() as largest:
        run_here("inference", [NNUNET / "inference.json"], **keys)
    # a window is an eighth of the resampled volume's height at most, and needs one row more
    assert stored < largest.bytes < 0.2 * kept
    check_labels(tmp_path / "out" / "volume.nii.gz", shape)
    if spacing != 1:
        keys |= {"evaluator#iteration_update#most_logits": kept, "output_dir": str(tmp_path / "at_once")}
        with _LargestTensor() as largest:
            run_here("inference", [NNUNET / "inference.json"], **keys)
        assert largest.bytes >= kept  # small enough to be kept, and so the first test is no accident
        written: list[Any] = [nibabel.load(tmp_path / f / "volume.nii.gz") for f in ("out", "at_once")]
        both = [np.asarray(one.dataobj) for one in written]
        assert np.mean(both[0] != both[1]) < 1e-3  # ties are rounded otherwise


def test_many_small_volumes_leave_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cases = 24
    keys = inference_keys(tmp_path, 16)
    for number in range(cases):
        write_volume(tmp_path / "input" / f"{number:03}.nii", (16, 16, 16), seed=number)
    done = 0
    series: dict[int, tuple[int, int, int]] = {}
    plain: Callable[..., Any] = PredictionOutputs._put_out

    def observed(self: Any, *args: Any) -> None:
        nonlocal done
        plain(self, *args)
        done += 1
        if done == 1:
            tracemalloc.start()  # of Python and NumPy
        if done in (cases // 2, cases):  # looking at every object takes long
            tensors = tensor_bytes()
            series[done] = tracemalloc.get_traced_memory()[0], tensors, open_files()

    monkeypatch.setattr(PredictionOutputs, "_put_out", observed)
    try:
        run_here("inference", [NNUNET / "inference.json"], **keys)
    finally:
        tracemalloc.stop()
    assert len(list((tmp_path / "out").glob("*.nii.gz"))) == done == cases
    early, late = series[cases // 2], series[cases]
    # names and paths of what was written; one image that stayed would be 16 KiB
    assert late[0] - early[0] < 4096 * (cases - cases // 2)
    assert late[1:] == early[1:]


def test_epochs_leave_no_file_open_and_no_tensor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    epochs = 6
    files: list[int] = []
    tensors: dict[int, int] = {}
    plain: Callable[..., Any] = TrainingCheckpoint.save

    def observed(self: Any, engine: Any) -> None:
        plain(self, engine)
        files.append(open_files())
        if engine.state.epoch in (epochs // 2, epochs):
            tensors[engine.state.epoch] = tensor_bytes()

    monkeypatch.setattr(TrainingCheckpoint, "save", observed)
    monkeypatch.chdir(tmp_path)
    configs = [UNET_EM / "train.json", UNET_EM / "tiny.json"]
    run_here("training", configs, max_epochs=epochs, epoch_length=1, val_interval=3, affinity="disabled")
    half = len(files) // 2
    assert half >= epochs // 2
    assert max(files[half:]) <= max(files[:half])
    assert tensors[epochs] == tensors[epochs // 2]


@pytest.mark.long
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("spacing", [1.0, 0.9], ids=["own_grid", "resampled"])
def test_a_large_volume_with_twenty_classes_stays_below_6_gib(tmp_path: Path, spacing: float) -> None:
    shape = (512, 512, 1000)
    keys = inference_keys(tmp_path, 128)
    write_volume(tmp_path / "input" / "volume.nii.gz", shape, spacing)
    done = watched(
        command("inference", "inference.json", **keys), tmp_path / "log", tmp_path, 7000, OMP_NUM_THREADS="2"
    )
    told = f"{shape}, voxels of {spacing} mm: peak {done.peak / GIB:.2f} GiB, {done.seconds:.0f} s"
    print(f"\n{told}")
    assert done.status == 0, done.output[-2000:]
    check_labels(tmp_path / "out" / "volume.nii.gz", shape)
    assert done.peak < 6 * GIB, told


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_four_thousand_volumes_in_one_process(tmp_path: Path) -> None:
    cases = 4000
    keys = inference_keys(tmp_path, 32)
    for number in range(100):
        write_volume(tmp_path / "input" / f"{number:04}.nii", (32, 32, 32), seed=number)
    for number in range(100, cases):  # another name of the same file
        os.link(tmp_path / "input" / f"{number % 100:04}.nii", tmp_path / "input" / f"{number:04}.nii")
    out = tmp_path / "out"
    line = command("inference", "inference.json", **keys)
    done = _observed(line, tmp_path, lambda: (len(os.listdir(out)) if out.is_dir() else 0) / cases, 3500)
    assert len(list(out.glob("*.nii.gz"))) == cases
    assert_no_growth(done)


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_three_hundred_epochs(tmp_path: Path) -> None:
    epochs = 300
    log = tmp_path / "out" / "log.jsonl"
    line = command(
        "training",
        "train.json",
        "tiny.json",
        output_dir=tmp_path / "out",
        max_epochs=epochs,
        epoch_length=2,
        val_interval=10,
        log_interval=1,
        patience=0,
    )
    series = _observed(line, tmp_path, lambda: _last_epoch(log) / epochs, 3500)
    assert _last_epoch(log) == epochs
    assert_no_growth(series)


def _last_epoch(log: Path) -> int:
    lines = log.read_text().splitlines() if log.exists() else []
    return max((int(json.loads(line).get("epoch", 0)) for line in lines[-3:]), default=0)


def _observed(
    line: Sequence[str], folder: Path, progress: Callable[[], float], limit: float
) -> list[tuple[float, int, int]]:
    series: list[tuple[float, int, int]] = []

    def observe(pid: int) -> None:
        series.append((progress(), resident(pid), open_files(pid)))

    done: Watched = watched(line, folder / "log", folder, limit, observe, OMP_NUM_THREADS="1")
    assert done.status == 0, done.output[-2000:]
    return series
