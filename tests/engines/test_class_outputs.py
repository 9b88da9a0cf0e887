"""What becomes of a classifier's logits, behind MONAI's evaluator."""

from __future__ import annotations

import csv
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.engines import SupervisedEvaluator
from torch import nn

from monai_ext.engines.calibration_file import calibration_beside
from monai_ext.engines.class_outputs import ClassEvaluation, TopKPrediction, checked_thresholds
from monai_ext.errors import InputError
from monai_ext.evaluation.calibration import Temperature

CLASSES = ("a", "b", "c")


class Echo(nn.Module):
    """Logits written into the first pixels of the image."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1.0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.scale * x[:, 0, 0, :3]


def samples(count: int = 30, multi_label: bool = False, sharp: float = 3.0) -> list[dict[str, Any]]:
    """Images that state logits `sharp` times too large for what they know of their labels."""
    rng = np.random.default_rng(0)
    honest = 2 * rng.normal(size=(count, 3))
    powers = np.exp(honest)
    if multi_label:
        labels = (rng.random((count, 3)) < powers / (1 + powers)).astype(np.int64)
    else:
        labels = (rng.random((count, 1)) > (powers / powers.sum(1, keepdims=True)).cumsum(1)).sum(1)
    images = torch.zeros(count, 1, 8, 8)
    images[:, 0, 0, :3] = torch.tensor(sharp * honest).float()
    return [{"image": images[i], "label": torch.tensor(labels[i]), "case": f"val/{i:02d}.jpg"} for i in range(count)]


def evaluate(handler: Any, data: list[dict[str, Any]], network: nn.Module | None = None, batch_size: int = 7) -> None:
    loader = torch.utils.data.DataLoader(data, batch_size=batch_size)  # type: ignore[arg-type]
    evaluator = SupervisedEvaluator(
        device=torch.device("cpu"), val_data_loader=loader, network=network or Echo(), decollate=False
    )
    handler.attach(evaluator)
    evaluator.run()


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "run" / "model.pt"
    path.parent.mkdir()
    path.write_bytes(b"weights")
    return path


def summary(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "summary.json").read_text())


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("multi_label", [False, True])
def test_evaluation_writes_report_and_temperature(
    model: Path, multi_label: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    data, folder = samples(400, multi_label), model.parent / "evaluation"
    evaluate(ClassEvaluation(folder, {"fold": 3}, CLASSES, model, multi_label, bootstrap=50), data)
    found = summary(folder)
    assert found["num_cases"] == 400
    assert found["fold"] == 3
    assert len(found["model_sha256"]) == 64
    assert [row["name"] for row in rows(folder / "predictions.csv")] == [sample["case"] for sample in data]
    logits, labels = (torch.stack([sample[key] for sample in data]) for key in ("image", "label"))
    logits = logits[:, 0, 0, :3]
    right = ((logits > 0) == (labels > 0)).all(1) if multi_label else logits.argmax(1) == labels
    assert found["accuracy"] == pytest.approx(float(right.double().mean()))
    fitted = calibration_beside(model)
    assert fitted is not None
    assert fitted.temperature == found["calibration"]["temperature"] == pytest.approx(3, rel=0.25)
    assert found["calibration"]["cross_fitted"]
    calibration = found["calibration"]
    assert calibration["after"]["expected_error"] < 0.6 * calibration["before"]["expected_error"]
    printed = capsys.readouterr().out
    assert "balanced accuracy" in printed
    assert str(model.parent / "calibration.json") in printed


def test_test_set_is_scored_with_the_stored_temperature(model: Path) -> None:
    """It neither fits nor overwrites what validation cases gave; without that it fits for itself, and keeps nothing."""
    evaluate(ClassEvaluation(model.parent / "test", {}, CLASSES, model, calibrate=False, bootstrap=0), samples())
    assert not (model.parent / "calibration.json").exists()
    assert summary(model.parent / "test")["calibration"]["cross_fitted"]
    Temperature(2.5, 10, 1.0, 0.9).save(model.parent / "calibration.json")
    evaluate(ClassEvaluation(model.parent / "test", {}, CLASSES, model, calibrate=False, bootstrap=0), samples())
    calibration = summary(model.parent / "test")["calibration"]
    assert (calibration["temperature"], calibration["cross_fitted"]) == (2.5, False)
    assert calibration_beside(model) == Temperature(2.5, 10, 1.0, 0.9)


def test_groups_and_second_run(model: Path) -> None:
    groups = {f"val/{i:02d}.jpg": f"patient {i // 10}" for i in range(30)}
    evaluation = ClassEvaluation(model.parent, {}, CLASSES, model, groups=groups, bootstrap=20)
    evaluate(evaluation, samples())
    evaluate(evaluation, samples(20))
    assert evaluation.summary["num_groups"] == 2
    assert evaluation.summary["num_cases"] == 20


def test_temperature_of_other_weights_is_not_used(model: Path, caplog: pytest.LogCaptureFixture) -> None:
    evaluate(ClassEvaluation(model.parent, {}, CLASSES, model, bootstrap=0), samples())
    assert calibration_beside(model) is not None
    assert calibration_beside(model, wanted=False) is None
    model.write_bytes(b"weights trained on")
    with caplog.at_level(logging.WARNING):
        assert calibration_beside(model) is None
    assert "other weights" in caplog.text


def test_most_probable_classes_are_listed(tmp_path: Path, model: Path) -> None:
    Temperature(4.0, 10, 1.0, 0.9).save(model.parent / "calibration.json")
    data = samples(5)
    evaluate(TopKPrediction(tmp_path / "out", CLASSES, top_k=2, ckpt_path=model), data)
    found = rows(tmp_path / "out" / "predictions.csv")
    assert list(found[0]) == ["file", "rank", "class", "probability"]
    assert len(found) == 10
    content = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert content["temperature"] == 4
    for i, sample in enumerate(data):
        expected = (sample["image"][0, 0, :3] / 4).softmax(0)
        order = expected.argsort(descending=True)[:2]
        for rank, row in enumerate(found[2 * i : 2 * i + 2]):
            assert (row["file"], row["rank"]) == (sample["case"], str(rank + 1))
            assert row["class"] == CLASSES[order[rank]]
            assert float(row["probability"]) == pytest.approx(float(expected[order[rank]]), abs=1e-6)
        assert content["predictions"][i]["top"][0]["class"] == CLASSES[order[0]]
    evaluate(TopKPrediction(tmp_path / "own", CLASSES, top_k=9, temperature=1.0, ckpt_path=model), data)
    assert len(rows(tmp_path / "own" / "predictions.csv")) == 15
    assert json.loads((tmp_path / "own" / "predictions.json").read_text())["temperature"] == 1


def test_labels_of_a_multi_label_classifier(tmp_path: Path) -> None:
    data = samples(6, multi_label=True)
    evaluate(TopKPrediction(tmp_path, CLASSES, multi_label=True, threshold=[0.2, 0.5, 0.9]), data)
    content = json.loads((tmp_path / "predictions.json").read_text())
    for entry, sample in zip(content["predictions"], data, strict=True):
        given = sample["image"][0, 0, :3].sigmoid() >= torch.tensor([0.2, 0.5, 0.9])
        assert entry["labels"] == [name for name, g in zip(CLASSES, given, strict=True) if g]


def test_evidence_is_drawn_for_the_first_class(tmp_path: Path) -> None:
    calls = []
    data = samples(4)
    prediction = TopKPrediction(tmp_path, CLASSES, draw_activation=lambda *given: calls.append(given))
    evaluate(prediction, data, batch_size=3)
    assert len(calls) == 4
    for (image, index, caption, path), sample in zip(calls, data, strict=True):
        assert torch.equal(torch.as_tensor(image), sample["image"])
        assert index == int(sample["image"][0, 0, :3].argmax())
        assert caption.startswith(f"{CLASSES[index]} ")
        assert path == tmp_path / "activations" / (sample["case"] + ".png")


def test_files_are_not_replaced_unasked(tmp_path: Path) -> None:
    prediction = TopKPrediction(tmp_path, CLASSES)
    prediction.check_new(overwrite=False)
    evaluate(prediction, samples(3))
    with pytest.raises(InputError, match="exists already"):
        prediction.check_new(overwrite=False)
    prediction.check_new(overwrite=True)
    evaluate(prediction, samples(2))
    assert len(json.loads((tmp_path / "predictions.json").read_text())["predictions"]) == 2


def test_what_is_not_finite_is_named(tmp_path: Path, model: Path) -> None:
    network = Echo()
    with torch.no_grad():
        network.scale.fill_(float("nan"))
    with pytest.raises(InputError, match=r"val/00.jpg.*not finite.*Cure"):
        evaluate(TopKPrediction(tmp_path, CLASSES), samples(3), network)
    with pytest.raises(InputError, match=r"not finite for 3 of 3.*Cure"):
        evaluate(ClassEvaluation(tmp_path, {}, CLASSES, model), samples(3), network)
    assert not (model.parent / "calibration.json").exists()


def test_person_errors(tmp_path: Path) -> None:
    for threshold in (0.0, 1, [0.5, 0.5], [0.5, 0.5, 2], "x"):
        with pytest.raises(InputError, match=r"--threshold.*Cure"):
            TopKPrediction(tmp_path, CLASSES, threshold=threshold)
    assert checked_thresholds([0.1, 0.2, 0.3], 3) == (0.1, 0.2, 0.3)
    with pytest.raises(InputError, match=r"--top_k 0.*Cure"):
        TopKPrediction(tmp_path, CLASSES, top_k=0)
    with pytest.raises(InputError, match=r"--temperature -1.*Cure"):
        TopKPrediction(tmp_path, CLASSES, temperature=-1)
    with pytest.raises(InputError, match=r"--bootstrap -1.*Cure"):
        ClassEvaluation(tmp_path, {}, CLASSES, "model.pt", bootstrap=-1)
    with pytest.raises(InputError, match=r"no cases.*Cure"):
        ClassEvaluation(tmp_path, {}, CLASSES, "model.pt")._finish()
