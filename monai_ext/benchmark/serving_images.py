"""Many small images through a server that loaded the model once, against as many runs of the command line."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from statistics import mean
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from monai_ext.datasets.image_files import read_image, read_label, write_label_map
from monai_ext.datasets.input_files import find_inputs
from monai_ext.errors import InputError
from monai_ext.serving.serving_options import ServingOptions
from monai_ext.serving.triton_client import TritonClient
from monai_ext.serving.triton_pipeline import IMAGE, LABELS, SPACING
from monai_ext.serving.triton_repository import write_repository
from monai_ext.serving.triton_server import LocalTritonServer

COLUMNS = (
    "images",
    "input",
    "served_s",
    "start_s",
    "commands_run",
    "command_s",
    "commands_s",
    "times_faster",
    "times_faster_with_start",
    "agreement",
    "device",
    "versions",
    "commit",
    "date",
)
TARGET = 10.0


def compare_with_commands(
    run: str | Path, images: str | Path, config_file: str | Path, count: int = 250, command_runs: int = 3
) -> dict[str, Any]:
    """Segment slices of scans, each a file of its own, both ways.

    Served: one client reads a file, sends it, writes the label map, and takes the next. By commands: a process for each
    file; a few are run and the time of all is `count` times their mean.

    Args:
        run: output folder of a 2D training of the bundle nnunet.
        images: folder of scans.
        config_file: `inference.json` of the bundle.
        count: slices, evenly spread over all of the scans.
        command_runs: files that are also segmented by a command.

    Returns:
        The row: seconds of all served images (`served_s`), of starting the server (`start_s`), of a command and of all
        commands (extrapolated), how many times longer the commands take, and the least share of equal voxels.

    Raises:
        InputError: the model is no 2D one, an option is impossible, or a command fails.
    """
    from monai_ext.export.trained_model import open_model

    model = open_model(run)
    if model.bundle != "nnunet" or model.plan.spatial_dims != 2:
        raise InputError(f"{run}: is no 2D model of the bundle nnunet. Cure: train one with --spatial_dims 2")
    if min(count, command_runs) < 1 or command_runs > count:
        raise InputError(
            f"--count {count} --command_runs {command_runs}: Cure: at least 1, no more commands than images"
        )
    with TemporaryDirectory() as scratch:
        folder = Path(scratch)
        files = write_slices(images, folder / "slices", count, model.plan.num_channels)
        (place,) = write_repository(model, folder / "repository", ServingOptions(name="images", backends=()))
        served = folder / "served"
        served.mkdir()
        begin = time.perf_counter()
        with LocalTritonServer(folder / "repository") as server, TritonClient(server.address) as client:
            start_s = time.perf_counter() - begin
            begin = time.perf_counter()
            for file in files:
                image, geometry = read_image([file])
                spacing = np.array(geometry.spacing, np.float32)
                labels = client.infer(place.name, {IMAGE: image.astype(np.float32), SPACING: spacing})[LABELS]
                write_label_map(served / file.name, labels, geometry)
            served_s = time.perf_counter() - begin
        seconds, agreement = [], []
        for number in np.linspace(0, len(files) - 1, command_runs).astype(int):
            file = files[number]
            begin = time.perf_counter()
            _command(config_file, model.ckpt_path, file, folder / "commands")
            seconds.append(time.perf_counter() - begin)
            expected, found = read_label(folder / "commands" / file.name)[0], read_label(served / file.name)[0]
            agreement.append(float((expected == found).mean()))
    commands_s = mean(seconds) * count
    return {
        "images": count,
        "input": "x".join(map(str, image.shape)),
        "served_s": f"{served_s:.4g}",
        "start_s": f"{start_s:.4g}",
        "commands_run": command_runs,
        "command_s": f"{mean(seconds):.4g}",
        "commands_s": f"{commands_s:.4g}",
        "times_faster": f"{commands_s / served_s:.4g}",
        "times_faster_with_start": f"{commands_s / (served_s + start_s):.4g}",
        "agreement": f"{min(agreement):.6f}",
    }


def write_slices(images: str | Path, folder: Path, count: int, channels: int = 1) -> list[Path]:
    """Write `count` slices of scans, evenly spread, as NIfTI files `[x, y, 1]` with their geometry."""
    import nibabel

    cases = find_inputs(Path(images), channels)
    folder.mkdir(parents=True)
    each = -(-count // len(cases))
    written: list[Path] = []
    for case in cases[:: max(1, len(cases) * each // count)] if each == 1 else cases:
        scan: Any = nibabel.load(case.images[0])
        for k in np.linspace(0, scan.shape[2] - 1, each + 2)[1:-1].astype(int):
            file = folder / f"{case.name}_{k:03d}.nii.gz"
            nibabel.save(scan.slicer[:, :, k : k + 1], file)
            written.append(file)
    if len(written) < count:
        raise InputError(f"{images}: gives {len(written)} slices, --count {count}. Cure: fewer, or more scans")
    return written[:count]


def run_serving_images(run: str, images: str, config_file: str, count: int, command_runs: int, results: str) -> None:
    """Compare, print the table, and append the row to a CSV file where one is named."""
    from monai_ext.benchmark.measurement_rows import (
        append_rows,
        circumstances,
        format_table,
        installed_versions,
        measured_device,
    )

    if not Path(config_file).is_file():
        raise InputError(f"{config_file}: not found. Cure: start at the root of the project, or --config_file")
    row = compare_with_commands(run, images, config_file, count, command_runs)
    row |= {
        "device": measured_device("cpu"),
        "versions": installed_versions(("torch", "monai", "onnxruntime", "numpy")),
        **circumstances(),
    }
    print(format_table([row], COLUMNS[:10]))
    print(f"{count} commands are extrapolated from {command_runs}; target {TARGET:g} times")
    if results:
        append_rows(Path(results), [row], COLUMNS)


def _command(config_file: str | Path, model: Path, file: Path, output: Path) -> None:
    line = [sys.executable, "-W", "ignore", "-m", "monai.bundle", "run", "inference", "--config_file"]
    line += [
        str(config_file),
        "--ckpt_path",
        str(model),
        "--input",
        str(file),
        "--output_dir",
        str(output),
        "--amp",
        "False",
    ]
    done = subprocess.run(line, capture_output=True, text=True)
    if done.returncode:
        raise InputError(f"{' '.join(line[3:])}: ended with {done.returncode}: {done.stderr[-500:]}")
