"""Predictions never replace files unasked, and never an input; post-processing is applied or decided."""

from __future__ import annotations

import io
import json
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from highdicom.seg import segread
from ignite.engine import Engine
from PIL import Image

from monai_ext.datasets.geometry import Geometry
from monai_ext.datasets.image_files import read_image
from monai_ext.datasets.segmentation_dataset import Case
from monai_ext.engines import process_group
from monai_ext.engines.case_share import CaseShare
from monai_ext.engines.prediction_outputs import (
    PredictionOutputs,
    decision_beside,
    postprocessing_beside,
)
from monai_ext.errors import InputError
from monai_ext.evaluation.postprocessing import Postprocessing
from monai_ext.evaluation.segmentation_metrics import case_metrics
from monai_ext.file_digest import file_sha256
from monai_ext.planning.msd_plans import named_plan
from monai_ext.preprocessing.case_preprocessing import Placement
from rank_processes import on_ranks
from source_series import write_series

PLAN = named_plan("04").with_changes("test", axes=(0, 1, 2))
SHAPE = (6, 8, 10)


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x")
    return path


def test_existing_predictions_are_listed_unless_overwritten(tmp_path: Path) -> None:
    cases = [Case(name, (touch(tmp_path / "in" / f"{name}.nii.gz"),)) for name in ("a", "b")]
    outputs = PredictionOutputs(named_plan("04"), tmp_path / "out")
    outputs.keep_existing(cases)
    touch(tmp_path / "out" / "b.nii.gz")
    with pytest.raises(InputError, match=r"1 predictions(.|\n)*b\.nii\.gz(.|\n)*--overwrite True"):
        outputs.keep_existing(cases)
    outputs.keep_existing(cases, overwrite=True)


def test_probabilities_count_too(tmp_path: Path) -> None:
    cases = [Case("a", (touch(tmp_path / "in" / "a.nii.gz"),))]
    touch(tmp_path / "out" / "a_probabilities.nii.gz")
    PredictionOutputs(named_plan("04"), tmp_path / "out").keep_existing(cases)
    with pytest.raises(InputError, match="a_probabilities"):
        PredictionOutputs(named_plan("04"), tmp_path / "out", probabilities=True).keep_existing(cases)


def test_an_input_is_never_replaced(tmp_path: Path) -> None:
    cases = [Case("a", (touch(tmp_path / "in" / "a.nii.gz"),))]
    (tmp_path / "link").symlink_to(tmp_path / "in")
    for folder in (tmp_path / "in", tmp_path / "link"):
        with pytest.raises(InputError, match="holds the input itself"):
            PredictionOutputs(named_plan("04"), folder).keep_existing(cases, overwrite=True)


def blob(far: bool) -> np.ndarray:
    labels = np.zeros(SHAPE, dtype=np.uint8)
    labels[1:4, 1:5, 1:5] = 1
    labels[2:3, 2:4, 2:4] = 2
    labels[5:, 7:, 8:] = far
    return labels


def logits(labels: np.ndarray) -> torch.Tensor:
    return 9.0 * torch.nn.functional.one_hot(torch.from_numpy(labels).long(), 3).permute(3, 0, 1, 2)


def run(outputs: PredictionOutputs, *cases: tuple[str, torch.Tensor | None, np.ndarray | None]) -> None:
    """Send predictions `[K or 1, d, h, w]` through the handler, as the evaluator does; None is an unreadable case."""
    placement = Placement(SHAPE, tuple((0, n) for n in SHAPE), SHAPE)
    geometry = Geometry.from_affine(np.diag([1.0, 1.0, 2.0, 1.0]), SHAPE[::-1])
    batches: list[dict[str, Any]] = [
        {
            "case": Case(name, (Path(f"{name}.nii.gz"),)),
            "geometry": geometry,
            "placement": placement,
            "reference": reference,
            **({"error": f"{name}: broken"} if predicted is None else {"pred": predicted[None]}),
        }
        for name, predicted, reference in cases
    ]
    engine = Engine(lambda _, batch: {"pred": batch.get("pred")})
    outputs.attach(engine)
    engine.run(batches)


def stored(path: Path) -> np.ndarray:
    return np.asarray(nibabel.load(path).dataobj).T


@pytest.mark.parametrize("overlapped", [False, True])
def test_postprocessing_is_applied_before_writing_and_measuring(tmp_path: Path, overlapped: bool) -> None:
    outputs = PredictionOutputs(PLAN, tmp_path, measure=True, postprocessing=Postprocessing(((1, 2),)))
    run(outputs, ("a", torch.from_numpy(blob(True))[None], blob(False)), ("b", logits(blob(True)), blob(False)))
    for name in "ab":
        np.testing.assert_array_equal(stored(tmp_path / f"{name}.nii.gz"), blob(False))
        assert outputs.metrics[name]["Anterior"]["dice"] == 1
    assert json.loads((tmp_path / "summary.json").read_text())["postprocessing"] == {"applied": [[1, 2]]}


def test_decision_leaves_files_and_metrics_as_they_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = tmp_path / "model.pt"
    model.write_bytes(b"weights")
    outputs = PredictionOutputs(
        PLAN,
        tmp_path / "evaluation",
        measure=True,
        decide=True,
        decision_file=decision_beside(str(model)),
        about={"model": str(model)},
    )
    run(outputs, ("a", torch.from_numpy(blob(True))[None], blob(False)))
    np.testing.assert_array_equal(stored(tmp_path / "evaluation" / "a.nii.gz"), blob(True))
    found = postprocessing_beside(str(model), True)
    assert found is not None
    assert found.keep_largest == ((1, 2),)
    assert postprocessing_beside(str(model), False) is None
    summary = json.loads((tmp_path / "evaluation" / "summary.json").read_text())
    expected = case_metrics(blob(True), blob(False), (2, 1, 1), PLAN.foreground_classes)
    assert summary["classes"]["Anterior"]["dice"]["mean"] == pytest.approx(expected["Anterior"]["dice"])
    assert summary["model_sha256"] == file_sha256(model)
    told = summary["postprocessing"]
    assert (told["applied"], told["decided"]) == ([], [[1, 2]])
    assert told["dice_before"]["Anterior"] == pytest.approx(expected["Anterior"]["dice"])
    assert told["dice_after"]["mean"] == 1
    assert "these very cases" in told["note"]
    assert "largest component of Anterior+Posterior, mean Dice 0.9" in capsys.readouterr().out


def test_no_file_beside_the_model_is_no_postprocessing(tmp_path: Path) -> None:
    assert postprocessing_beside(str(tmp_path / "model.pt"), True) is None
    (tmp_path / "postprocessing.json").write_text("{")
    with pytest.raises(InputError, match="not a post-processing"):
        postprocessing_beside(str(tmp_path / "model.pt"), True)


def test_postprocessing_of_another_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"names the class values \[7\]"):
        PredictionOutputs(PLAN, tmp_path, postprocessing=Postprocessing(((1, 7),)))
    with pytest.raises(ValueError, match="as they are"):
        PredictionOutputs(PLAN, tmp_path, postprocessing=Postprocessing(), decide=True)


@pytest.mark.parametrize("formats", ["npy", "nii+npy", "nii, npy"])
def test_arrays_hold_probabilities_in_canonical_axes(tmp_path: Path, formats: str) -> None:
    run(PredictionOutputs(PLAN, tmp_path, pred_format=formats), ("a", logits(blob(True)), None))
    written = np.load(tmp_path / "a.npy")
    assert written.dtype == np.float32
    assert written.shape == (3, *SHAPE)
    np.testing.assert_allclose(written.sum(0), 1, atol=1e-6)  # float32 softmax of three classes
    np.testing.assert_array_equal(written.argmax(0), blob(True))
    assert (tmp_path / "a.nii.gz").exists() == ("nii" in formats)
    assert not list(tmp_path.glob(".*"))


def test_arrays_count_as_existing_predictions(tmp_path: Path) -> None:
    cases = [Case("a", (touch(tmp_path / "in" / "a.nii.gz"),))]
    touch(tmp_path / "out" / "a.npy")
    PredictionOutputs(PLAN, tmp_path / "out").keep_existing(cases)
    with pytest.raises(InputError, match=r"a\.npy"):
        PredictionOutputs(PLAN, tmp_path / "out", pred_format="npy").keep_existing(cases)
    with pytest.raises(InputError, match="--pred_format nifti"):
        PredictionOutputs(PLAN, tmp_path / "out", pred_format="nifti")


@pytest.mark.parametrize(
    ("formats", "endings"),
    [
        ("dicom", [".dcm"]),
        ("nii+dicom", [".dcm", ".nii.gz"]),
        ("dicom_per_class", ["_class1.dcm", "_class2.dcm"]),
    ],
)
def test_series_give_dicom_segmentations(tmp_path: Path, formats: str, endings: list[str]) -> None:
    write_series(tmp_path / "s", blob(True).astype(np.int16), np.diag([1.0, 1.0, 2.0, 1.0]))
    image, geometry = read_image([tmp_path / "s"])
    labels = torch.from_numpy(image.astype(np.uint8))[None]
    case, shape = Case("s", (tmp_path / "s",)), image.shape[1:]
    outputs = PredictionOutputs(PLAN, tmp_path / "out", pred_format=formats)
    outputs.keep_existing([case])
    engine = Engine(lambda _, batch: {"pred": labels})
    outputs.attach(engine)
    placement = Placement(shape, tuple((0, n) for n in shape), shape)
    engine.run([{"case": case, "geometry": geometry, "placement": placement, "reference": None}])
    written = sorted((tmp_path / "out").iterdir())
    assert [path.name for path in written] == [f"s{ending}" for ending in endings]
    assert sorted(outputs.written) == written
    read = [segread(path) for path in written if path.suffix == ".dcm"]
    for value, name in ((1, "Anterior"), (2, "Posterior")):
        counts = [
            int(file.get_volume(segment_numbers=[description.SegmentNumber]).array.sum())
            for file in read
            for description in file.SegmentSequence
            if description.SegmentLabel == name
        ]
        assert counts == [int((labels == value).sum())]
    with pytest.raises(InputError, match=rf"already in(.|\n)*s{written[0].name[1:]}"):
        outputs.keep_existing([case])


def test_classes_are_coded_as_the_file_says(tmp_path: Path) -> None:
    codes = {"Anterior": {"type": ["5366008", "SCT", "Hippocampus"], "colour": [255, 255, 255]}}
    (tmp_path / "codes.json").write_text(json.dumps(codes))
    write_series(tmp_path / "s", blob(True).astype(np.int16), np.eye(4))
    _, geometry = read_image([tmp_path / "s"])
    outputs = PredictionOutputs(PLAN, tmp_path, pred_format="dicom", segment_codes_file=tmp_path / "codes.json")
    engine = Engine(lambda _, batch: {"pred": torch.ones(1, 1, *geometry.shape, dtype=torch.uint8)})
    outputs.attach(engine)
    placement = Placement(geometry.shape, tuple((0, n) for n in geometry.shape), geometry.shape)
    engine.run(
        [{"case": Case("s", (tmp_path / "s",)), "geometry": geometry, "placement": placement, "reference": None}]
    )
    anterior, posterior = segread(tmp_path / "s.dcm").SegmentSequence
    found = anterior.SegmentedPropertyTypeCodeSequence[0]
    assert (found.CodeValue, found.CodingSchemeDesignator, found.CodeMeaning) == ("5366008", "SCT", "Hippocampus")
    assert list(anterior.RecommendedDisplayCIELabValue) == [65535, 32896, 32896]  # white: L 100, a and b 0
    assert posterior.SegmentedPropertyTypeCodeSequence[0].CodeMeaning == "Tissue"
    with pytest.raises(InputError, match=r"--segment_codes .*none\.json: cannot be read"):
        PredictionOutputs(PLAN, tmp_path, segment_codes_file=tmp_path / "none.json")


def test_files_cannot_give_dicom_segmentations(tmp_path: Path) -> None:
    cases = [Case("a", (touch(tmp_path / "in" / "a.nii.gz"),))]
    with pytest.raises(InputError, match="is no folder with a DICOM series"):
        PredictionOutputs(PLAN, tmp_path / "out", pred_format="nii+dicom").keep_existing(cases)
    write_series(tmp_path / "s", blob(True).astype(np.int16), np.eye(4))
    outputs = PredictionOutputs(PLAN, tmp_path / "s", pred_format="dicom")
    with pytest.raises(InputError, match="is the folder of the series"):
        outputs.keep_existing([Case("s", (tmp_path / "s",))])


def test_pictures_give_pictures(tmp_path: Path) -> None:
    pixels = np.zeros((8, 10), np.uint8)
    pixels[1:3, 2:7] = 200
    Image.fromarray(pixels).save(tmp_path / "a.png")
    image, geometry = read_image([tmp_path / "a.png"])
    case = Case("a", (tmp_path / "a.png",))
    shape = image.shape[1:]
    labels = torch.from_numpy((image[0] > 100).astype(np.uint8))[None, None]
    engine = Engine(lambda _, batch: {"pred": labels})
    outputs = PredictionOutputs(PLAN, tmp_path / "out")
    outputs.attach(engine)
    placement = Placement(shape, tuple((0, n) for n in shape), shape)
    engine.run([{"case": case, "geometry": geometry, "placement": placement, "reference": None}])
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "out" / "a.png")), pixels > 100)
    with pytest.raises(InputError, match=r"out/a\.png"):
        outputs.keep_existing([case])
    with pytest.raises(InputError, match="holds the input itself"):
        PredictionOutputs(PLAN, tmp_path).keep_existing([case], overwrite=True)


def _evaluate(folder: Path, names: str, dealt: bool, full: str = "") -> tuple[str, str, list[str]]:
    """Evaluate cases of which each differs, `x` cannot be read; what is printed, what is raised, cases measured."""
    process_group.LAST_WORDS = 0.0
    cases = []
    for number, name in enumerate(names):
        predicted = torch.from_numpy(blob(number % 2 == 0))[None]
        predicted[0, 1, 1, 1 : 1 + number] = 0
        cases.append((name, None if name == "x" else predicted, blob(False)))
    model = folder.parent / "model.pt"
    outputs = PredictionOutputs(
        PLAN,
        folder,
        measure=True,
        decide=True,
        decision_file=decision_beside(str(folder / "model.pt")),
        about={"model": str(model)},
        num_cases=len(cases) if dealt else 0,
    )
    write = outputs._write_labels

    def write_until_full(case: Case, *rest: Any) -> Path:
        if case.name == full:
            raise InputError("disk full")
        return write(case, *rest)

    outputs._write_labels = write_until_full  # type: ignore[method-assign]
    raised = ""
    with redirect_stdout(io.StringIO()) as screen:
        try:
            run(outputs, *[cases[number] for number in (CaseShare(len(cases)) if dealt else range(len(cases)))])
        except (InputError, SystemExit) as error:
            raised = str(error)
    return screen.getvalue(), raised, list(outputs.metrics)


@pytest.mark.parametrize(("names", "ranks"), [("abxde", 2), ("ab", 3), ("x", 2)])
def test_processes_report_together_what_one_would(tmp_path: Path, names: str, ranks: int) -> None:
    (tmp_path / "model.pt").write_bytes(b"weights")
    screen, raised, measured = _evaluate(tmp_path / "one", names, dealt=False)
    first, *others = on_ranks(_evaluate, ranks, tmp_path / "two", names, True)
    assert first == (screen.replace(str(tmp_path / "one"), str(tmp_path / "two")), raised, measured)
    assert measured == [name for name in names if name != "x"]
    assert ("x: broken" in raised) == ("x" in names)
    assert all(other == ("", "1" if raised else "", measured) for other in others)
    found, expected = [
        {path.name: path.read_bytes() for path in folder.iterdir()} if folder.exists() else {}
        for folder in (tmp_path / "two", tmp_path / "one")
    ]
    assert set(found) == set(expected)
    for name in expected:
        if name.endswith(".nii.gz"):
            np.testing.assert_array_equal(stored(tmp_path / "two" / name), stored(tmp_path / "one" / name))
        else:
            assert found[name] == expected[name], name


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_full_disk_is_told_once_after_the_others_are_done(tmp_path: Path, ranks: int) -> None:
    results = on_ranks(_evaluate, ranks, tmp_path, "abcde", True, "d")
    raised = [raised for _, raised, _ in results]
    assert raised == (["disk full"] if ranks == 1 else ["1", "disk full"])
    done = "abc" if ranks == 1 else "abce"
    assert sorted(path.name for path in tmp_path.glob("*.nii.gz")) == [f"{name}.nii.gz" for name in done]
    assert not (tmp_path / "metrics.json").exists()
