"""Picture of a classifier's validation."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from monai_ext.engines.class_picture import ClassPicture
from monai_ext.engines.class_scores import ClassScores
from monai_ext.engines.validation_picture import ValidationPicture
from monai_ext.evaluation.confusion_picture import compose_confusion
from monai_ext.evaluation.image_grid import RIGHT, WRONG
from monai_ext.planning.class_plan import ClassPlan, architecture


def plan(num_classes: int = 3, multi_label: bool = False, dims: int = 2) -> ClassPlan:
    return ClassPlan(
        "x", tuple("abcdefghij"[:num_classes]), multi_label, dims, 1, (16,) * dims, (0.5,), (0.25,),
        "se-resnext-narrow", **architecture("se-resnext-narrow"),
    )  # fmt: skip


def output(labels: torch.Tensor, logits: torch.Tensor, dims: int = 2) -> dict[str, torch.Tensor]:
    return {"image": torch.zeros(len(labels), 1, *[16] * dims), "label": labels, "pred": logits}


def drawn(picture: np.ndarray, confusion: np.ndarray) -> tuple[int, int]:
    """Images framed as right and as wrong, counted by their upper left corners."""
    grid = picture[:, : picture.shape[1] - confusion.shape[1]]
    counts = []
    for colour in (RIGHT, WRONG):
        mask = (grid == colour).all(-1)
        line = mask[:, :60] & False
        runs = np.lib.stride_tricks.sliding_window_view(mask, 60, axis=1).all(-1)  # upper and lower edges
        line = runs[:, 1:] & ~runs[:, :-1]
        line = np.concatenate([runs[:, :1], line], 1)
        starts = line[1:] & ~line[:-1]
        counts.append((int(starts.sum()) + int(line[0].sum())) // 2)
    return counts[0], counts[1]


def test_every_class_gets_its_share_in_any_order() -> None:
    """Cases come class by class, as from a folder; twelve images, four of each class; every c is taken for a."""
    picture: ValidationPicture = ClassPicture(plan(), num_images=12)
    labels = torch.arange(3).repeat_interleave(10)
    logits = torch.eye(3)[labels % 2]
    for part in range(0, 30, 6):
        picture.keep(output(labels[part : part + 6], logits[part : part + 6]))
    composed = picture.compose("title")
    assert composed is not None
    confusion = compose_confusion(np.array([[10, 0, 0], [0, 10, 0], [10, 0, 0]]), list("abc"), "title")
    width = confusion.shape[1]
    assert (composed[: confusion.shape[0], -width:] == confusion).all()
    assert drawn(composed, confusion) == (8, 4)


def test_forgets() -> None:
    picture = ClassPicture(plan())
    assert picture.compose() is None
    labels = torch.tensor([0, 1, 2])
    picture.keep(output(labels, torch.eye(3)))
    first = picture.compose()
    picture.forget()
    assert picture.compose() is None
    picture.keep(output(labels, torch.eye(3)))
    again = picture.compose()
    assert first is not None
    assert again is not None
    assert (first == again).all()


def test_multi_label_and_no_label() -> None:
    picture = ClassPicture(plan(multi_label=True), num_images=6)
    labels = torch.tensor([[1, 1, 0], [0, 0, 0], [0, 0, 1], [0, 0, 0]])
    picture.keep(output(labels, 20.0 * labels - 10))
    wrong = torch.tensor([[1, 0, 0]])
    picture.keep(output(wrong, torch.tensor([[10.0, 10, -10]])))
    composed = picture.compose()
    assert composed is not None
    matrix = np.array([[2, 0, 0, 3], [1, 0, 1, 3], [1, 0, 0, 4]])
    confusion = compose_confusion(matrix, list("abc"), "validation", multi_label=True)
    assert (composed[: confusion.shape[0], -confusion.shape[1] :] == confusion).all()
    assert drawn(composed, confusion) == (4, 1)


@pytest.mark.parametrize("dims", [1, 3])
def test_other_dimensions_and_diverged_logits(dims: int) -> None:
    picture = ClassPicture(plan(dims=dims))
    picture.keep(output(torch.tensor([0, 1]), torch.full((2, 3), float("nan")), dims))
    composed = picture.compose()
    assert composed is not None
    assert composed.dtype == np.uint8


def test_more_classes_than_images() -> None:
    picture = ClassPicture(plan(10), num_images=4)
    labels = torch.arange(10)
    picture.keep(output(labels, torch.eye(10)))
    composed = picture.compose()
    assert composed is not None
    assert drawn(composed, compose_confusion(np.eye(10, dtype=int), list("abcdefghij"), "validation")) == (4, 0)


def test_decisions_of_other_processes_are_drawn_too() -> None:
    """This one has seen one case of three; the matrix is that of all, as the scores know them."""
    scores = ClassScores("abc", num_cases=3)
    logits, labels = torch.eye(3), torch.arange(3)
    scores.update((logits, labels))
    scores.compute()
    picture = ClassPicture(plan(), num_images=0, scores=scores)
    picture.keep(output(labels[:1], logits[:1]))
    expected = compose_confusion(np.eye(3, dtype=int), ("a", "b", "c"), "validation", False)
    np.testing.assert_array_equal(picture.compose(), expected)
