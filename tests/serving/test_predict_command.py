"""`python -m monai_ext predict` as it is typed."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest

from monai_ext.errors import InputError
from monai_ext.serving.predict_command import predict, predict_volumes, seconds_since_start
from monai_ext.serving.volume_predictor import VolumePredictor
from small_segmenter import flat_plan

MakeRun = Callable[..., Path]
Export = Callable[..., Path]


def write_scan(path: Path, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    voxels = np.random.default_rng(seed).normal(100, 10, (18, 20, 12)).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(voxels, np.diag([-1.0, 1.2, 1.5, 1])), path)
    return path


def typed(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "monai_ext", "predict", *words], capture_output=True, text=True, timeout=300
    )


def test_command_writes_label_maps(exported: Path, tmp_path: Path) -> None:
    scan = write_scan(tmp_path / "in" / "scan.nii.gz")
    write_scan(tmp_path / "in" / "other.nii.gz", seed=1)
    done = typed(str(exported), str(tmp_path / "in"), str(tmp_path / "out"), "--timing", "True")
    assert done.returncode == 0, done.stderr
    assert "scan (2 of 2): read " in done.stdout
    (seconds,) = re.findall(r"first result (\d+\.\d\d) s after the start", done.stdout)
    assert 0 < float(seconds) < 100
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["other.nii.gz", "scan.nii.gz"]
    written = nibabel.Nifti1Image.from_filename(tmp_path / "out" / "scan.nii.gz")
    source = nibabel.Nifti1Image.from_filename(scan)
    np.testing.assert_array_equal(written.affine, source.affine)
    case = VolumePredictor(exported).predict_files([scan])
    np.testing.assert_array_equal(np.asarray(written.dataobj), case.geometry.to_file(case.labels))
    again = typed(str(exported), str(scan), str(tmp_path / "out"))
    assert again.returncode == 1
    assert "error: 1 label maps are already in" in again.stderr
    assert "Traceback" not in again.stderr


def test_pictures_become_png(make_run: MakeRun, export: Export, tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    folder = export(make_run(flat_plan(resample=False)))
    pixels = np.random.default_rng(0).integers(0, 255, (24, 20), np.uint8)
    (tmp_path / "in").mkdir()
    image.fromarray(pixels).save(tmp_path / "in" / "cell.png")
    (path,) = predict_volumes(folder, tmp_path / "in", tmp_path / "out")
    assert path.name == "cell.png"
    assert image.open(path).size == (20, 24)


def test_unreadable_cases_do_not_cost_the_others(exported: Path, tmp_path: Path) -> None:
    write_scan(tmp_path / "in" / "good.nii.gz")
    (tmp_path / "in" / "bad.nii.gz").write_bytes(b"\x1f\x8bnothing")
    holes = np.full((18, 20, 12), np.nan, np.float32)
    nibabel.save(nibabel.Nifti1Image(holes, np.eye(4)), tmp_path / "in" / "holes.nii.gz")
    with pytest.raises(InputError, match=r"2 of 3 cases could not be predicted, all others are done:") as told:
        predict_volumes(exported, tmp_path / "in", tmp_path / "out")
    assert re.search(r"\n  - .*bad\.nii\.gz", str(told.value))
    assert "holes.nii.gz, channel 0: 4320 voxels are NaN or infinite" in str(told.value)
    assert (tmp_path / "out" / "good.nii.gz").is_file()


def test_refusals(exported: Path, tmp_path: Path) -> None:
    scan = write_scan(tmp_path / "in" / "scan.nii.gz")
    with pytest.raises(InputError, match="holds the input itself"):
        predict_volumes(exported, scan, scan.parent, overwrite=True)
    with pytest.raises(InputError, match=r"--colour: unknown. Cure: some of --precision"):
        predict_volumes(exported, scan, tmp_path / "out", colour="red")
    with pytest.raises(InputError, match="--tta 2: is neither True nor False"):
        predict_volumes(exported, scan, tmp_path / "out", tta=2)
    for threads in ("many", 2.5):
        with pytest.raises(InputError, match=f"--threads {threads}: is no whole number"):
            predict_volumes(exported, scan, tmp_path / "out", threads=threads)
    # "$SCAN" of a shell that does not know it; as a path it is the folder of the shell
    for places, name in (
        (("", scan, "out"), "model"),
        ((exported, "", "out"), "input"),
        ((exported, scan, ""), "output"),
    ):
        with pytest.raises(InputError, match=f"--{name}: is empty. Cure: name a folder"):
            predict(*places)
    with pytest.raises(InputError, match="nowhere: does not exist"):
        predict_volumes(exported, tmp_path / "nowhere", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_seconds_since_start_go_on() -> None:
    first = seconds_since_start()
    assert 0 < first < 24 * 3600
    assert seconds_since_start() >= first


@pytest.mark.long
def test_first_result_within_2_5_seconds(exported: Path, tmp_path: Path) -> None:
    """Processor time from the start of the program on one thread: what it takes on a machine that does nothing else.

    The network of this test is small; that of the hippocampus adds 0.2 s.
    """
    resource = pytest.importorskip("resource")
    scan = write_scan(tmp_path / "scan.nii.gz")
    seconds = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = typed(str(exported), str(scan), str(tmp_path / "out"), "--threads", "1", "--overwrite", "True")
        assert done.returncode == 0, done.stderr
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime)
    assert min(seconds) < 2.5 - 0.2, seconds
