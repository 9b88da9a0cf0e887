"""Inference by ONNX Runtime (`inference_ort.json`): what torch gives, from the command line."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import itk
import nibabel
import numpy as np
import pytest

from bundle_commands import NNUNET, SE_RESNEXT, UNET_EM, Finished, bundle_run
from monai_ext.export.classifier import export_classifier
from monai_ext.export.export_command import export_model
from monai_ext.export.trained_model import open_model

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
ORT = ("inference.json", "inference_ort.json")


def infer(cwd: Path, bundle: Path, *overlays: str, **options: object) -> Finished:
    return bundle_run(cwd, "inference", *(overlays or ("inference.json",)), bundle=bundle, **options)


def model_alone(run: Path, folder: Path) -> Path:
    """A folder with model, plan and what was decided for it."""
    folder.mkdir()
    for name in ("model.pt", "plan.json", "calibration.json", "postprocessing.json"):
        if (run / name).is_file():
            shutil.copy(run / name, folder / name)
    return folder


def label_map(path: Path) -> np.ndarray:
    return np.asarray(nibabel.load(path).dataobj)


def test_volumes(trained: tuple[Path, Finished], tmp_path: Path) -> None:
    run = trained[0] / "runs/nnunet/phantom/0"
    images = trained[0] / "runs/nnunet/phantom/prepared/raw/imagesTs"
    model = model_alone(run, tmp_path / "model")
    options = {"input": images, "ckpt_path": model}
    missing = infer(tmp_path, NNUNET, *ORT, **options)
    assert missing.status == 1
    assert f"python -m monai_ext export {model} --format onnx" in missing.err
    assert "Traceback" not in missing.err
    export_model(model, "onnx")
    for name, files in (("torch", ("inference.json",)), ("ort", ORT)):
        done = infer(tmp_path, NNUNET, *files, **options, output_dir=name, amp=False)
        assert done.status == 0, done.err
    assert f"{model / 'export' / 'model.onnx'} by ONNX Runtime, cpu" in done.err + done.out
    names = sorted(path.name for path in (tmp_path / "torch").iterdir())
    assert names == sorted(path.name for path in images.glob("*.nii.gz"))
    for name in names:
        expected, found = label_map(tmp_path / "torch" / name), label_map(tmp_path / "ort" / name)
        assert len(np.unique(expected)) > 1
        # a network of a few steps has many voxels between two classes
        assert (found == expected).mean() >= 0.999
    refused = infer(tmp_path, NNUNET, *ORT, **options, output_dir="gpu", providers="tensorrt", device="cpu")
    assert refused.status == 1
    assert "--providers tensorrt: onnxruntime has" in refused.err
    assert "Traceback" not in refused.err


def test_stacks_of_slices(trained_em: tuple[Path, Finished], tmp_path: Path) -> None:
    model = model_alone(trained_em[0] / "runs/unet_em/phantom/0", tmp_path / "model")
    raw = trained_em[0] / "runs/unet_em/phantom/prepared/raw"
    export_model(model, "onnx", output="probabilities")
    size = list(open_model(model).plan.input_size)
    for name, files, options in (("torch", ("inference.json",), {"roi_size": size}), ("ort", ORT, {})):
        done = infer(tmp_path, UNET_EM, *files, input=raw, ckpt_path=model, output_dir=name, amp=False, **options)
        assert done.status == 0, done.err
    expected, found = (
        itk.array_from_image(itk.imread(str(tmp_path / name / "test-masks.tif"))) for name in ("torch", "ort")
    )
    assert expected.std() > 0
    np.testing.assert_allclose(found, expected, atol=1e-4)  # float32 sums in another order


@pytest.mark.parametrize("tta", [False, True])
def test_pictures(trained_class: tuple[Path, Finished], tmp_path: Path, tta: bool) -> None:
    """The file normalises and divides by the fitted temperature; neither happens twice."""
    model = model_alone(trained_class[0] / "runs/se_resnext101/phantom/0", tmp_path / "model")
    fitted = json.loads((model / "calibration.json").read_text())
    fitted["temperature"] = 0.1  # apart from 1, and it spreads the probabilities of a network of a few steps
    (model / "calibration.json").write_text(json.dumps(fitted))
    trained = open_model(model)
    export_classifier(trained.network, trained.plan, model / "export", ("onnx",), temperature=0.1)
    pictures = trained_class[0] / "runs/se_resnext101/phantom/prepared/raw/val/discs"
    options = {"input": pictures, "ckpt_path": model, "num_workers": 0, "amp": False, "tta": tta}
    for name, files in (("torch", ("inference.json",)), ("ort", ORT)):
        done = infer(tmp_path, SE_RESNEXT, *files, **options, output_dir=name)
        assert done.status == 0, done.err
    tables = [list(csv.DictReader((tmp_path / name / "predictions.csv").open())) for name in ("torch", "ort")]
    expected, found = ({(row["file"], row["class"]): float(row["probability"]) for row in rows} for rows in tables)
    assert expected.keys() == found.keys()
    assert np.std(list(expected.values())) > 0.01
    assert max(abs(found[key] - expected[key]) for key in expected) < 1e-4
    if tta:
        refused = infer(tmp_path, SE_RESNEXT, *ORT, **options, output_dir="maps", cam=True)
        assert refused.status == 1
        assert "--cam True: needs gradients" in refused.err
        assert "Traceback" not in refused.err


def test_keys_of_the_overlay_are_described(tmp_path: Path) -> None:
    done = bundle_run(tmp_path, "describe", *ORT, bundle=NNUNET)
    assert done.status == 0, done.err
    for key in ("onnx_path", "providers", "onnx_threads"):
        assert f"--{key} " in done.out
    done = bundle_run(tmp_path, "inference", *ORT, bundle=NNUNET, provider="cpu", onnx_threads=-1)
    assert done.status == 1
    assert "did you mean providers" in done.err
    assert "--onnx_threads: is -1, must be at least 0" in done.err


@pytest.mark.real_data
@pytest.mark.long
@pytest.mark.timeout(3600)
def test_hippocampus_fold(tmp_path: Path, data_folder: Path) -> None:
    """A network trained for two minutes: all validation cases, file by file, and the Dice of its 8-bit form."""
    from monai_ext.benchmark.deployed_prediction import INT8, run_deployed_benchmark

    dataset = data_folder / "Task04_Hippocampus"
    done = bundle_run(tmp_path, "training", dataset_dir=dataset, output_dir="run", max_minutes=2)
    assert done.status == 0, done.err
    rows = {row["side"]: row for row in run_deployed_benchmark(tmp_path / "run", dataset, rounds=0)}
    assert float(rows[INT8]["mean_dice"]) > 0.5
    assert float(rows[INT8]["dice_loss_points"]) < 0.5
    names = json.loads((tmp_path / "run" / "fold.json").read_text())["val"]
    (tmp_path / "images").mkdir()
    for name in names:
        (tmp_path / "images" / f"{name}.nii.gz").symlink_to(dataset / "imagesTr" / f"{name}.nii.gz")
    for name, files in (("torch", ("inference.json",)), ("ort", ORT)):
        options = {"input": tmp_path / "images", "ckpt_path": "run", "output_dir": name, "amp": False}
        done = bundle_run(tmp_path, "inference", *files, **options)
        assert done.status == 0, done.err
    assert len(names) >= 40
    for name in names:
        expected, found = (label_map(tmp_path / side / f"{name}.nii.gz") for side in ("torch", "ort"))
        assert expected.any()
        assert (found == expected).mean() >= 0.9999, name
