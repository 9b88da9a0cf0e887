"""Label maps without torch against those of the inference with it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel
import numpy as np
import pytest
import torch

from monai_ext.datasets.segmentation_dataset import Case
from monai_ext.engines.raw_volumes import CasePrediction, RawVolumes, one_case
from monai_ext.errors import InputError
from monai_ext.evaluation.postprocessing import Postprocessing
from monai_ext.export.export_command import export_model
from monai_ext.export.trained_model import open_model
from monai_ext.inferers.window_inferer import WindowInferer
from monai_ext.planning.plan import ChannelIntensity, Plan
from monai_ext.preprocessing.case_preprocessing import restore_labels, restore_stored_labels
from monai_ext.serving.volume_predictor import VolumePredictor
from small_segmenter import flat_plan, small_plan

MakeRun = Callable[..., Path]
Export = Callable[..., Path]
TEST_RUN = "MONAI_EXT_TEST_RUN"  # output folder of a training of the hippocampus fold, for the tests on real scans


def with_torch(run: Path, files: tuple[Path, ...], tta: bool = False) -> np.ndarray:
    """Label map as `inference.json` makes it, in float32."""
    model = open_model(run)
    plan: Plan = model.plan
    batch = one_case([RawVolumes([Case("case", files)], plan)[0]])
    assert "error" not in batch, batch
    inferer = WindowInferer(plan.patch_size, 2, mirror_axes=plan.mirror_axes if tta else ())
    engine = SimpleNamespace(network=model.network, inferer=inferer)
    with torch.no_grad():
        predicted = CasePrediction(plan)._predict(engine, batch["image"], batch)[0]
    if len(predicted) == 1:
        return restore_stored_labels(predicted[0].numpy(), batch["placement"], batch["geometry"], plan)
    return restore_labels(predicted, batch["placement"], batch["geometry"], plan)


def write_scan(path: Path, shape: tuple[int, ...], spacing: tuple[float, ...], seed: int = 0) -> Path:
    """A noisy ball in zeros, `(x, y, z)`, stored with two axes turned round and exchanged."""
    random = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij"))
    voxels = random.normal(100, 10, shape) + 200 * ((grid**2).sum(0) < 0.5)
    voxels[:2] = 0
    affine = np.array([[0, -spacing[1], 0, 5], [spacing[0], 0, 0, -3], [0, 0, -spacing[2], 9], [0, 0, 0, 1.0]])
    nibabel.save(nibabel.Nifti1Image(voxels.astype(np.float32), affine), path)
    return path


def agreement(a: np.ndarray, b: np.ndarray) -> float:
    assert a.shape == b.shape
    assert a.dtype == b.dtype
    return float((a == b).mean())


# untrained networks have voxels between two classes; trained ones agree on every voxel of real scans
LEAST = 0.999
CASES: list[Any] = [
    pytest.param(small_plan(), (18, 25, 14), (1.0, 1.0, 1.0), {}, id="same-spacing"),
    pytest.param(small_plan(axes=(2, 0, 1)), (22, 25, 14), (0.8, 1.1, 1.3), {}, id="resampled"),
    pytest.param(small_plan(spacing=(4.0, 1.0, 1.0)), (20, 30, 12), (0.9, 0.9, 4.2), {}, id="thick-slices"),
    pytest.param(small_plan(), (18, 25, 14), (1.2, 1.0, 1.0), {"dynamic": True}, id="free-sizes"),
    pytest.param(small_plan(), (18, 25, 14), (1.2, 1.0, 1.0), {"output": "probabilities"}, id="probabilities"),
    pytest.param(flat_plan(), (20, 26, 5), (1.0, 1.0, 3.0), {}, id="slices"),
    pytest.param(flat_plan(slice_axis=1), (20, 5, 26), (0.8, 3.0, 0.8), {}, id="resampled-slices"),
]


@pytest.mark.parametrize(("plan", "shape", "spacing", "options"), CASES)
def test_label_maps_are_those_of_torch(
    plan: Plan, shape: Any, spacing: Any, options: dict[str, Any], make_run: MakeRun, export: Export, tmp_path: Path
) -> None:
    run = make_run(plan)
    scan = write_scan(tmp_path / "scan.nii.gz", shape, spacing)
    expected = with_torch(run, (scan,))
    found = VolumePredictor(export(run, **options)).predict(scan)
    assert len(np.unique(expected)) > 1  # a constant map would agree by chance
    assert agreement(found, expected) >= LEAST


def test_mirrored_versions(make_run: MakeRun, export: Export, tmp_path: Path) -> None:
    run = make_run(small_plan())
    scan = write_scan(tmp_path / "scan.nii.gz", (18, 25, 14), (1.0, 1.0, 1.0))
    folder = export(run)
    plain, mirrored = VolumePredictor(folder).predict(scan), VolumePredictor(folder, tta=True).predict(scan)
    assert agreement(mirrored, with_torch(run, (scan,), tta=True)) >= LEAST
    assert agreement(mirrored, plain) < LEAST


def test_label_maps_of_a_file_with_label_output(make_run: MakeRun, export: Export, tmp_path: Path) -> None:
    run = make_run(small_plan())
    folder = export(run, output="labels")
    # one window: the network's own map; several: votes, which differ from blended logits near borders only
    one = write_scan(tmp_path / "one.nii.gz", (16, 16, 8), (1.0, 1.0, 1.0))
    many = write_scan(tmp_path / "many.nii.gz", (22, 30, 14), (1.0, 1.0, 1.0))
    predictor = VolumePredictor(folder)
    assert agreement(predictor.predict(one), with_torch(run, (one,))) >= LEAST
    assert 0.8 < agreement(predictor.predict(many), with_torch(run, (many,))) < 1


def test_8_bit_file_by_name(make_run: MakeRun, export: Export, tmp_path: Path) -> None:
    run = make_run(small_plan())
    scan = write_scan(tmp_path / "scan.nii.gz", (18, 25, 14), (1.0, 1.0, 1.0))
    folder = export(run, quantize="int8", images=scan)
    assert VolumePredictor(folder).model.precision == "float32"
    integer = VolumePredictor(folder, precision="int8")
    assert integer.model.file.name == "model_int8.onnx"
    assert 0.8 < agreement(integer.predict(scan), with_torch(run, (scan,))) < 1
    with pytest.raises(InputError, match=r"--precision float16: .* lists int8, float32"):
        VolumePredictor(folder, precision="float16")


def test_channels_of_several_files_and_ct(make_run: MakeRun, export: Export, tmp_path: Path) -> None:
    intensity = (ChannelIntensity(150.0, 80.0, 120.0, 0.0, 400.0, 20.0, 320.0),) * 2
    plan = small_plan(channels=("CT", "PET"), normalization=("ct", "zscore_masked"), intensity=intensity)
    run = make_run(plan)
    files = tuple(write_scan(tmp_path / f"scan_000{n}.nii.gz", (18, 25, 14), (1.1, 1.0, 1.0), seed=n) for n in range(2))
    assert agreement(VolumePredictor(export(run)).predict(files), with_torch(run, files)) >= LEAST


def test_arrays_are_canonical_volumes(exported: Path, tmp_path: Path) -> None:
    scan = write_scan(tmp_path / "scan.nii.gz", (18, 25, 14), (1.0, 1.2, 1.4))
    predictor = VolumePredictor(exported)
    case = predictor.predict_files([scan])
    stored = np.asarray(nibabel.Nifti1Image.from_filename(scan).dataobj)
    array = case.geometry.to_canonical(stored)[None]
    np.testing.assert_array_equal(predictor.predict(array, case.geometry.spacing), case.labels)
    assert set(case.seconds) == {"read", "prepare", "network", "restore"}
    empty = np.zeros((1, 4, 5, 6), np.int16)
    assert predictor.predict(empty, (1, 1, 1)).shape == (4, 5, 6)


def test_postprocessing_beside_the_model(make_run: MakeRun, export: Export, tmp_path: Path) -> None:
    run = make_run(small_plan())
    folder = export(run)
    scan = write_scan(tmp_path / "scan.nii.gz", (18, 25, 14), (1.0, 1.0, 1.0))
    plain = VolumePredictor(folder).predict(scan)
    decided = Postprocessing(keep_largest=((1,), (2,)))
    decided.save(run / "postprocessing.json")
    np.testing.assert_array_equal(VolumePredictor(folder).predict(scan), decided.apply(plain))
    assert (decided.apply(plain) != plain).any()
    np.testing.assert_array_equal(VolumePredictor(folder, postprocess=False).predict(scan), plain)
    Postprocessing(keep_largest=((7,),)).save(run / "postprocessing.json")
    with pytest.raises(InputError, match=r"names the class values \[7\]"):
        VolumePredictor(folder)


def test_postprocessing_goes_with_the_export(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run(small_plan())
    decided = Postprocessing(keep_largest=((1,), (2,)))
    decided.save(run / "postprocessing.json")
    export_model(run, "onnx", tmp_path / "moved")
    assert VolumePredictor(tmp_path / "moved").postprocessing == decided


def test_volumes_that_do_not_fit(exported: Path, tmp_path: Path) -> None:
    predictor = VolumePredictor(exported)
    for array, spacing, message in (
        (np.zeros((3, 4, 5, 6)), (1, 1, 1), r"has 3 channels, the model needs 1 \(MRI\)"),
        (np.zeros((4, 5, 6)), (1, 1, 1), r"a volume is \[C, D, H, W\]"),
        (np.zeros((1, 0, 5, 6)), (1, 1, 1), r"a volume is \[C, D, H, W\]"),
        (np.zeros((1, 4, 5, 6)), None, "spacing None: must be three positive numbers"),
        (np.zeros((1, 4, 5, 6)), (1, 0, 1), "must be three positive numbers"),
        (np.full((1, 4, 5, 6), np.nan), (1, 1, 1), "120 voxels are NaN"),
    ):
        with pytest.raises(InputError, match=message):
            predictor.predict(array, spacing)
    with pytest.raises(InputError, match="does not exist"):
        predictor.predict(tmp_path / "nowhere.nii.gz")
    with pytest.raises(InputError, match="a file brings its own"):
        predictor.predict(write_scan(tmp_path / "scan.nii.gz", (9, 9, 9), (1, 1, 1)), (1, 1, 1))


NOTHING_LOADED = """
import sys
from monai_ext.serving.volume_predictor import VolumePredictor

predictor = VolumePredictor(sys.argv[1])
for path in sys.argv[2:]:
    print(predictor.predict(path).shape, [name for name in ("torch", "monai", "ignite") if name in sys.modules])
"""


def test_nothing_loads_torch(exported: Path, tmp_path: Path, dicom_series: Callable[..., Path]) -> None:
    """Also not ITK, which would where torch is installed."""
    scan = write_scan(tmp_path / "scan.nii.gz", (18, 25, 14), (1.2, 1.0, 1.0))  # resampled both ways
    series = dicom_series("series", np.arange(6 * 9 * 11, dtype=np.int16).reshape(6, 9, 11))
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", NOTHING_LOADED, str(exported), str(scan), str(series)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "(14, 18, 25) []\n(6, 9, 11) []\n"


@pytest.mark.real_data
@pytest.mark.long
def test_hippocampus_fold(export: Export, data_folder: Path, tmp_path: Path) -> None:
    """Every case of the validation fold of a trained model: the same label maps as torch's."""
    place = os.environ.get(TEST_RUN)
    if not place:
        pytest.skip(f"needs a trained model: set {TEST_RUN} to the output folder of a hippocampus training")
    run = tmp_path / "run"
    run.mkdir()
    for name in ("model.pt", "plan.json"):
        (run / name).write_bytes((Path(place) / name).read_bytes())
    names = list(json.loads((Path(place) / "evaluation" / "metrics.json").read_text()))
    predictor = VolumePredictor(export(run))
    same = total = 0
    for name in names:
        scan = data_folder / "Task04_Hippocampus" / "imagesTr" / f"{name}.nii.gz"
        found, expected = predictor.predict(scan), with_torch(run, (scan,))
        assert agreement(found, expected) >= 0.9999, name
        same, total = same + int((found == expected).sum()), total + found.size
    print(f"{len(names)} cases, {total - same} of {total} voxels differ")
