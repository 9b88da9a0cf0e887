"""nnU-Net bundle: evaluation and inference in original geometry."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import highdicom
import nibabel
import numpy as np
import pytest

from bundle_commands import Finished, bundle_run
from monai_ext.evaluation.segmentation_metrics import case_metrics

RUN = Path("runs/nnunet/phantom/0")
RAW = Path("runs/nnunet/phantom/prepared/raw")


@pytest.fixture(scope="module")
def evaluated(trained: tuple[Path, Finished]) -> Path:
    folder, _ = trained
    done = bundle_run(folder, "evaluating", "train.json", "tiny.json", "evaluate.json", tta=False)
    assert done.status == 0, done.err
    assert "surface" in done.out
    return folder


@pytest.fixture(scope="module")
def model(trained: tuple[Path, Finished], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `model.pt` and `plan.json`, nothing else."""
    folder = tmp_path_factory.mktemp("model")
    for name in ("model.pt", "plan.json"):
        shutil.copy(trained[0] / RUN / name, folder / name)
    return folder / "model.pt"


def test_every_validation_case_is_measured_in_original_geometry(evaluated: Path) -> None:
    results = evaluated / RUN / "evaluation"
    metrics = json.loads((results / "metrics.json").read_text())
    summary = json.loads((results / "summary.json").read_text())
    cases = metrics.get("cases", metrics)
    names = sorted(p.name.removesuffix(".nii.gz") for p in results.glob("*.nii.gz"))
    assert sorted(cases) == names
    assert len(names) == 4
    assert "absent" in json.dumps(summary)
    rows = list(csv.DictReader((results / "metrics.csv").open()))
    assert len(rows) == 4 * 2
    for name in names:
        raw = nibabel.load(evaluated / RAW / "labelsTr" / f"{name}.nii.gz")
        written = nibabel.load(results / f"{name}.nii.gz")
        np.testing.assert_array_equal(written.affine, raw.affine)
        spacing = tuple(float(v) for v in raw.header.get_zooms()[::-1])
        again = case_metrics(
            np.asarray(written.dataobj).T, np.asarray(raw.dataobj).T, spacing, {"ellipsoid": 1, "tube": 2}
        )
        for cls in ("ellipsoid", "tube"):
            assert cases[name][cls]["dice"] == pytest.approx(again[cls]["dice"], abs=1e-9)
            assert cases[name][cls]["hd95_mm"] == pytest.approx(again[cls]["hd95_mm"], abs=1e-6)


def test_evaluation_on_cases_of_the_training_is_refused(evaluated: Path) -> None:
    before = (evaluated / RUN / "evaluation" / "metrics.json").read_bytes()
    done = bundle_run(evaluated, "evaluating", "train.json", "tiny.json", output_dir=RUN, fold=3)
    assert done.status == 1
    assert "was trained on 4 of the 4 validation cases" in done.err
    assert "Traceback" not in done.err
    assert (evaluated / RUN / "evaluation" / "metrics.json").read_bytes() == before


def test_inference_needs_only_model_and_plan(evaluated: Path, model: Path, tmp_path: Path) -> None:
    images = evaluated / RAW / "imagesTs"
    done = bundle_run(tmp_path, "inference", "inference.json", input=images, output_dir="out", ckpt_path=model)
    assert done.status == 0, done.err
    for path in images.glob("*.nii.gz"):
        source, result = nibabel.load(path), nibabel.load(tmp_path / "out" / path.name)
        assert result.get_data_dtype() == np.uint8
        assert result.shape == source.shape
        np.testing.assert_array_equal(result.affine, source.affine)
        assert nibabel.aff2axcodes(result.affine) == ("L", "A", "S")
    assert len(list((tmp_path / "out").iterdir())) == 2
    again = bundle_run(tmp_path, "inference", "inference.json", input=images, output_dir="out", ckpt_path=model)
    assert again.status == 1
    assert "2 predictions are already in out" in again.err
    assert "Traceback" not in again.err


def test_inference_equals_evaluation_of_the_same_case(evaluated: Path, model: Path, tmp_path: Path) -> None:
    written = sorted((evaluated / RUN / "evaluation").glob("*.nii.gz"))[0]
    image = evaluated / RAW / "imagesTr" / written.name
    done = bundle_run(
        tmp_path, "inference", "inference.json", input=image, output_dir="out", ckpt_path=model, probabilities=True
    )
    assert done.status == 0, done.err
    labels = np.asarray(nibabel.load(tmp_path / "out" / written.name).dataobj)
    np.testing.assert_array_equal(labels, np.asarray(nibabel.load(written).dataobj))
    stem = written.name.removesuffix(".nii.gz")
    probabilities = nibabel.load(tmp_path / "out" / f"{stem}_probabilities.nii.gz").get_fdata()
    assert probabilities.shape == (*labels.shape, 3)
    np.testing.assert_allclose(probabilities.sum(-1), 1, atol=1e-5)  # float32 softmax
    # ties and resampling order aside, the label is the most probable class
    assert (probabilities.argmax(-1) == labels).mean() > 0.999


@pytest.mark.parametrize("ending", [".nrrd", ".mha"])
def test_other_formats_give_the_same_labels(evaluated: Path, model: Path, tmp_path: Path, ending: str) -> None:
    import itk

    source = sorted((evaluated / RAW / "imagesTs").glob("*.nii.gz"))[0]
    itk.imwrite(itk.imread(str(source)), str(tmp_path / f"scan{ending}"))
    for name, image in (("a", source), ("b", tmp_path / f"scan{ending}")):
        done = bundle_run(tmp_path, "inference", "inference.json", input=image, output_dir=name, ckpt_path=model)
        assert done.status == 0, done.err
    expected = nibabel.load(tmp_path / "a" / source.name)
    found = nibabel.load(tmp_path / "b" / "scan.nii.gz")
    np.testing.assert_allclose(found.affine, expected.affine, atol=1e-4)  # NIfTI keeps float32
    np.testing.assert_array_equal(np.asarray(found.dataobj), np.asarray(expected.dataobj))


def test_dicom_series_gives_the_same_labels(
    evaluated: Path, model: Path, tmp_path: Path, dicom_series: Callable[..., Path]
) -> None:
    import itk

    source = sorted((evaluated / RAW / "imagesTs").glob("*.nii.gz"))[0]
    image = itk.imread(str(source))
    voxels, direction = itk.array_from_image(image).astype(np.int16), itk.array_from_matrix(image.GetDirection())
    series = dicom_series("series", voxels, tuple(image.GetSpacing()), tuple(image.GetOrigin()), direction)
    for name, given, pred_format in (("a", source, "nii"), ("b", series, "nii+dicom")):
        done = bundle_run(
            tmp_path,
            "inference",
            "inference.json",
            input=given,
            output_dir=name,
            ckpt_path=model,
            pred_format=pred_format,
        )
        assert done.status == 0, done.err
    expected, found = nibabel.load(tmp_path / "a" / source.name), nibabel.load(tmp_path / "b" / "series.nii.gz")
    turned = nibabel.as_closest_canonical(found)
    wanted = nibabel.as_closest_canonical(expected)
    np.testing.assert_allclose(turned.affine, wanted.affine, atol=1e-3)  # DICOM stores decimal strings
    np.testing.assert_array_equal(np.asarray(turned.dataobj), np.asarray(wanted.dataobj))
    segmentation = highdicom.seg.segread(tmp_path / "b" / "series.dcm")
    assert [d.SegmentLabel for d in segmentation.SegmentSequence] == ["ellipsoid", "tube"]
    volume = segmentation.get_volume(combine_segments=True)  # values of the classes are 1 and 2, as the segments'
    lps = nibabel.Nifti1Image(np.asarray(volume.array), np.diag([-1.0, -1.0, 1.0, 1.0]) @ np.array(volume.affine))
    placed = nibabel.as_closest_canonical(lps)
    seen = np.zeros(wanted.shape, np.uint8)  # slices without a class are not stored
    offset = np.rint((np.linalg.inv(wanted.affine) @ placed.affine)[:3, 3]).astype(int)
    seen[tuple(slice(o, o + n) for o, n in zip(offset, placed.shape, strict=True))] = np.asarray(placed.dataobj)
    np.testing.assert_array_equal(seen, np.asarray(wanted.dataobj))
    corner = wanted.affine.copy()
    corner[:3, 3] = (wanted.affine @ [*offset, 1])[:3]
    np.testing.assert_allclose(placed.affine, corner, atol=1e-3)


def test_dicom_is_for_series_and_for_inference(evaluated: Path, model: Path, tmp_path: Path) -> None:
    source = sorted((evaluated / RAW / "imagesTs").glob("*.nii.gz"))[0]
    done = bundle_run(
        tmp_path, "inference", "inference.json", input=source, output_dir="a", ckpt_path=model, pred_format="dicom"
    )
    assert done.status == 1
    assert f"{source.name} is no folder with a DICOM series" in done.err
    done = bundle_run(tmp_path, "training", "train.json", "tiny.json", pred_format="nii+dicom")
    assert done.status == 1
    assert "--pred_format nii+dicom: cases of a dataset are files" in done.err
    assert "Traceback" not in done.err


def test_one_bad_file_does_not_cost_the_others(evaluated: Path, model: Path, tmp_path: Path) -> None:
    for path in (evaluated / RAW / "imagesTs").glob("*.nii.gz"):
        shutil.copy(path, tmp_path / path.name)
    whole = sorted(tmp_path.glob("*.nii.gz"))[0]
    (tmp_path / "broken.nii.gz").write_bytes(whole.read_bytes()[:500])
    done = bundle_run(tmp_path, "inference", "inference.json", input=tmp_path, output_dir="out", ckpt_path=model)
    assert done.status == 1
    assert "broken.nii.gz" in done.err
    assert "Traceback" not in done.err
    assert len(list((tmp_path / "out").glob("*.nii.gz"))) == 2


def test_network_options_travel_with_the_plan(tmp_path: Path) -> None:
    """Weights trained with another norm or slope load and predict without naming these again."""
    done = bundle_run(
        tmp_path, "training", "train.json", "tiny.json", output_dir="run", norm="group", negative_slope=0.2
    )
    assert done.status == 0, done.err
    plan = json.loads((tmp_path / "run" / "plan.json").read_text())
    assert (plan["norm"], plan["negative_slope"]) == ("group", 0.2)
    done = bundle_run(
        tmp_path, "evaluating", "train.json", "tiny.json", output_dir="run", save_preds=True, store_dir=RAW.parent
    )
    assert done.status == 0, done.err
    assert json.loads((tmp_path / "run" / "plan.json").read_text()) == plan
    image = sorted((tmp_path / "run" / "evaluation").glob("*.nii.gz"))[0]
    raw = tmp_path / RAW / "imagesTr" / image.name
    done = bundle_run(tmp_path, "inference", "inference.json", input=raw, output_dir="out", ckpt_path="run/model.pt")
    assert done.status == 0, done.err
    np.testing.assert_array_equal(
        np.asarray(nibabel.load(tmp_path / "out" / image.name).dataobj), np.asarray(nibabel.load(image).dataobj)
    )


def test_mistakes_are_named(model: Path, tmp_path: Path) -> None:
    done = bundle_run(tmp_path, "inference", "inference.json", input="nowhere", ckpt_path=model)
    assert done.status == 1
    assert "--input nowhere: does not exist" in done.err
    shutil.copy(model, tmp_path / "scan.nii.gz")
    done = bundle_run(tmp_path, "inference", "inference.json", input=tmp_path)
    assert done.status == 1
    assert "--ckpt_path" in done.err
    done = bundle_run(tmp_path, "inference", "inference.json")
    assert done.status == 1
    assert "--input is empty" in done.err
    assert "Traceback" not in done.err


def test_weights_of_another_plan_are_refused(model: Path, evaluated: Path, tmp_path: Path) -> None:
    plan = json.loads((model.parent / "plan.json").read_text())
    plan["features"] = [2 * f for f in plan["features"]]
    shutil.copy(model, tmp_path / "model.pt")
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    images = evaluated / RAW / "imagesTs"
    done = bundle_run(tmp_path, "inference", "inference.json", input=images, ckpt_path=tmp_path / "model.pt")
    assert done.status == 1
    assert "do not fit the network of the plan" in done.err
    assert not (tmp_path / "predictions").exists() or not list((tmp_path / "predictions").iterdir())
