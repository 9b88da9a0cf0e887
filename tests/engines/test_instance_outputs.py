"""Scores, report and picture behind MONAI's evaluator, with detections that are known."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.engines import SupervisedEvaluator
from monai.utils.enums import CommonKeys
from PIL import Image
from torch import nn

from drawn_objects import disc_case, disc_detections, plan
from monai_ext.datasets.instance_dataset import InstanceCase
from monai_ext.engines.instance_inference import CaseInOutput
from monai_ext.engines.instance_metric import KEY_SCORES, InstanceMetric, detection_limits
from monai_ext.engines.instance_outputs import InstanceEvaluation, case_picture
from monai_ext.engines.instance_picture import InstancePicture
from monai_ext.errors import InputError
from monai_ext.evaluation.instance_picture import MISSED, RIGHT, WRONG
from monai_ext.networks.mask_rcnn.structures import Detections

SIZE = (64, 80)
DISCS = [(12, 12, 8), (40, 20, 9), (60, 45, 10)]
SCORES = [0.95, 0.75, 0.55]


@pytest.fixture
def cases(tmp_path: Path) -> list[InstanceCase]:
    discs = {"a": DISCS, "b": DISCS, "c": DISCS[:1], "d": []}
    return [disc_case(tmp_path / "data", name, SIZE, found) for name, found in discs.items()]


GIVEN = {
    "images/a.png": (DISCS, SCORES),
    "images/b.png": ([DISCS[0], (30, 50, 6)], [0.9, 0.7]),
    "images/c.png": (DISCS[:1], [0.6]),
    "images/d.png": ([], []),
}


class Known:
    """An inferer that finds what is known of the images of a batch, told by their first pixel."""

    def __init__(self, cases: list[InstanceCase], given: dict[str, Any] | None = None) -> None:
        self.names = [case.name for case in cases]
        self.given = GIVEN if given is None else given

    def __call__(self, images: torch.Tensor, network: nn.Module, *_: Any, **__: Any) -> list[Detections]:
        return [disc_detections(*self.given[self.names[int(image[0, 0, 0])]]) for image in images]


def evaluator_of(
    cases: list[InstanceCase], given: dict[str, Any] | None = None, metric: InstanceMetric | None = None
) -> SupervisedEvaluator:
    batches = [
        {
            "image": torch.arange(first, min(first + 3, len(cases))).float().view(-1, 1, 1, 1).expand(-1, 1, 8, 8),
            "case": [case.name for case in cases[first : first + 3]],
            "size": [SIZE] * len(cases[first : first + 3]),
        }
        for first in range(0, len(cases), 3)
    ]
    evaluator = SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=batches,
        network=nn.Identity(),
        inferer=Known(cases, given),  # type: ignore[arg-type]
        prepare_batch=lambda batch, *_, **__: (batch["image"], None),  # type: ignore[arg-type]
        key_val_metric=None if metric is None else {metric.key_score: metric},
        decollate=False,
    )
    CaseInOutput().attach(evaluator)
    return evaluator


def own_messages(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.message for record in caplog.records if record.name.startswith("monai_ext")]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.pt"
    torch.save({"w": torch.zeros(1)}, path)
    return path


def test_metric(cases: list[InstanceCase]) -> None:
    metric = InstanceMetric(plan(), cases, "nuclei_ap50")
    evaluator = evaluator_of(cases, metric=metric)
    for _ in range(2):  # a second validation begins anew
        evaluator.run()
        state: Any = evaluator.state
        assert state.key_metric_name == "nuclei_ap50"
        assert state.metrics["nuclei_ap50"] == pytest.approx(5 / 8)  # 5 found of 7, 1 wrong
        assert set(state.class_scores) == {"disc"}
        assert state.class_scores["disc"] == pytest.approx(state.scores["mask_ap50"])
        assert 0.5 < state.scores["mask_ap50"] < 0.8
        assert state.scores["nuclei_ap50_per_image"] == pytest.approx((1 + 1 / 4 + 1) / 3)
        assert all(np.isfinite(value) for value in state.scores.values())
        assert not any(name.endswith("_large") for name in state.scores)
    assert set(KEY_SCORES) <= set(metric.overall())


def test_sizes_on_request(cases: list[InstanceCase]) -> None:
    evaluator = evaluator_of(cases, metric=InstanceMetric(plan(), cases, by_size=True))
    evaluator.run()
    scores: dict[str, float] = evaluator.state.scores  # type: ignore[attr-defined]
    assert "mask_ap_small" in scores
    assert "mask_ap_8_to_16px" in scores


def test_metric_without_detections_and_without_objects(cases: list[InstanceCase]) -> None:
    nothing: dict[str, Any] = {case.name: ([], []) for case in cases}
    metric = InstanceMetric(plan(), cases)
    evaluator = evaluator_of(cases, nothing, metric)
    evaluator.run()
    assert evaluator.state.metrics["mask_ap50"] == 0
    assert evaluator.state.class_scores == {"disc": 0}  # type: ignore[attr-defined]
    metric.reset()
    with pytest.raises(InputError, match="has no cases"):
        metric.compute()
    metric.update([("images/d.png", disc_detections([], []))])
    with pytest.raises(InputError, match="undefined, the validation images hold no objects"):
        metric.compute()
    with pytest.raises(InputError, match=r"--key_score 'dice': is not known\. Cure: one of mask_ap, "):
        InstanceMetric(plan(), cases, "dice")


@pytest.mark.parametrize(("most", "limits"), [(500, (1, 10, 500)), (10, (1, 10)), (1, (1,)), (5, (1, 5))])
def test_detection_limits(most: int, limits: tuple[int, ...]) -> None:
    assert detection_limits(most) == limits


def test_evaluation(
    cases: list[InstanceCase],
    model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    evaluation = InstanceEvaluation(tmp_path / "out", {"part": "val"}, plan(), cases, model, gallery=1)
    evaluator = evaluator_of(cases)
    evaluation.attach(evaluator)
    evaluator.run()
    summary = json.loads((tmp_path / "out" / "summary.json").read_text(encoding="utf-8"))
    assert summary == evaluation.summary
    assert summary["nuclei_ap50"] == pytest.approx(5 / 8)
    assert summary["max_detections"] == [1, 10, 500]
    assert summary["label_threshold"] == 0.5
    assert summary["score_threshold"] == 0.05
    assert len(summary["model_sha256"]) == 64
    assert summary["part"] == "val"
    assert own_messages(caplog)[-1] == f"mask AP50 {summary['mask_ap50']:.3f}"
    printed = capsys.readouterr().out
    for file in ("summary.json", "per_image.csv", "per_class.csv", "by_score_threshold.csv", "gallery.png"):
        assert str((tmp_path / "out" / file).resolve()) in printed
        assert (tmp_path / "out" / file).is_file()
    gallery = np.array(Image.open(tmp_path / "out" / "gallery.png"))
    # best, median and worst image; of the worst one, one disc is found, two are missed and one is wrong
    assert all((gallery == colour).all(-1).sum() > 100 for colour in (RIGHT, MISSED, WRONG))
    assert gallery.shape[0] > 3 * 270


def test_evaluation_with_other_thresholds(cases: list[InstanceCase], tmp_path: Path) -> None:
    options: dict[str, Callable[..., Any] | Any] = {"label_threshold": 0.8, "min_area": 5, "max_detections": 2}
    evaluation = InstanceEvaluation(tmp_path / "out", {}, plan(), cases, gallery=0, **options)
    evaluator = evaluator_of(cases)
    evaluation.attach(evaluator)
    for _ in range(2):
        evaluator.run()
    assert evaluation.summary["num_painted"] == 2
    assert evaluation.summary["label_threshold"] == 0.8
    assert evaluation.summary["min_area"] == 5
    assert evaluation.summary["max_detections"] == [1, 2]
    assert evaluation.summary["detections_cut"] == 1
    assert evaluation.summary["model_sha256"] == ""
    assert not (tmp_path / "out" / "gallery.png").exists()


def test_evaluation_of_images_without_objects(
    cases: list[InstanceCase], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    evaluation = InstanceEvaluation(tmp_path / "out", {}, plan(), cases)
    evaluator = evaluator_of(cases[3:])
    evaluation.attach(evaluator)
    evaluator.run()
    assert evaluation.summary["mask_ap50"] is evaluation.summary["nuclei_ap"] is None
    assert own_messages(caplog)[-1] == "mask AP50 undefined: the images hold no objects"


def test_evaluation_that_cannot_be(cases: list[InstanceCase], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--gallery -1"):
        InstanceEvaluation(tmp_path, {}, plan(), cases, gallery=-1)
    evaluation = InstanceEvaluation(tmp_path, {}, plan(), cases)
    with pytest.raises(InputError, match="there are no images"):
        evaluation._finish()


def test_picture(cases: list[InstanceCase]) -> None:
    picture = InstancePicture(plan(), cases, num_images=2)
    assert picture.compose() is None
    for name, given in GIVEN.items():
        picture.keep({"case": [name], CommonKeys.PRED: [disc_detections(*given)]})
    picture.keep({"case": ["unknown.png"], CommonKeys.PRED: [disc_detections([], [])]})
    shown = picture.compose("title")
    assert shown is not None
    assert all((shown == colour).all(-1).sum() > 100 for colour in (RIGHT, MISSED, WRONG))
    picture.forget()
    picture.keep({"case": ["images/a.png"], CommonKeys.PRED: [disc_detections(*GIVEN["images/a.png"])]})
    right = picture.compose()
    assert right is not None
    assert right.shape[0] < shown.shape[0]
    assert not (right == WRONG).all(-1).any()


def test_case_picture(cases: list[InstanceCase]) -> None:
    shown = case_picture(cases[0], 1)
    assert shown.shape == (*SIZE, 3)
    assert shown.dtype == np.uint8
    assert shown[12, 12].tolist() == [255] * 3
    assert shown[0, 79].tolist() == [0] * 3
