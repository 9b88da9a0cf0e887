"""What is special to matching anchors: parity, meaning of the rescue, ties, memory, errors."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

from monai_ext.ops.check import arguments_of, cases_of
from monai_ext.ops.forms import forced
from monai_ext.ops.match_anchors import match_anchors, reference

HAS_TRITON = pytest.mark.skipif(
    find_spec("triton") is None or torch.cuda.is_available(), reason="needs Triton's interpreter"
)
FORMS = pytest.mark.parametrize("form", ["torch", "auto", pytest.param("triton", marks=HAS_TRITON)])


def by_definition(gt, anchors, high, low, rescue):
    """The algorithm in loops over Python numbers."""
    gt, anchors = gt.numpy().astype(np.float32), anchors.numpy().astype(np.float32)
    values = np.zeros((len(gt), len(anchors)), np.float32)
    for i, a in enumerate(gt):
        for j, b in enumerate(anchors):
            w, h = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
            if w > 0 and h > 0:
                union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - w * h
                values[i, j] = w * h / union
    best, matched = values.max(0), values.argmax(0)
    states = [1 if v >= np.float32(high) else 0 if v < np.float32(low) else -1 for v in best]
    if rescue:
        for row in values:
            for j in np.flatnonzero((row == row.max()) & (row > 0)):
                states[j] = 1
    return matched.tolist(), states


@FORMS
@pytest.mark.parametrize("name", ["ordinary", "ties", "ties_without_rescue", "one_threshold", "tiny_objects"])
def test_equals_the_definition(form: str, name: str) -> None:
    case = next(case for case in cases_of("match_anchors") if case.name == name)
    arguments = arguments_of(case)
    with forced(form):
        matched, states = match_anchors(*arguments)
    assert (matched.tolist(), states.tolist()) == by_definition(*arguments)


@pytest.mark.real_data
@pytest.mark.parametrize(("high", "low", "rescue"), [(0.7, 0.3, True), (0.5, 0.5, False)])
def test_rules_equal_torchvision(data_folder: Path, high: float, low: float, rescue: bool) -> None:
    golden = np.load(data_folder / "golden" / "detection_ops.npz")
    values = torch.from_numpy(golden["matcher.iou"])
    best, matched = values.max(0)
    states = reference.states_of(best, high, low)
    if rescue:
        states[reference.is_rescued(values, values.max(1).values)] = 1
    # torchvision writes -1 for negative, -2 for ignored
    found = torch.where(states == 1, matched, torch.where(states == 0, -1, -2))
    assert torch.equal(found, torch.from_numpy(golden[f"matcher.high{high}.low{low}.rescue{int(rescue)}"]))


@FORMS
def test_rescued_anchors_keep_their_own_object(form: str) -> None:
    gt = torch.tensor([[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 10.0, 4.0]])
    anchors = torch.tensor([[0.0, 0.0, 10.0, 9.0], [50.0, 50.0, 60.0, 60.0]])
    with forced(form):
        matched, states = match_anchors(gt, anchors, 0.95, 0.3)
    # the only anchor near both is the best of the second object too, but nearer to the first
    assert matched.tolist() == [0, 0]
    assert states.tolist() == [1, 0]


@FORMS
def test_all_ties_are_rescued(form: str) -> None:
    gt = torch.tensor([[2.0, 0.0, 6.0, 8.0]])
    anchors = torch.tensor([[0.0, 0.0, 4.0, 8.0], [4.0, 0.0, 8.0, 8.0], [5.0, 0.0, 9.0, 8.0]])
    with forced(form):
        assert match_anchors(gt, anchors, 0.7, 0.5)[1].tolist() == [1, 1, 0]
        assert match_anchors(gt, anchors, 0.7, 0.5, rescue=False)[1].tolist() == [0, 0, 0]


@FORMS
def test_object_without_any_overlap_rescues_nothing(form: str) -> None:
    with forced(form):
        states = match_anchors(torch.tensor([[90.0, 90.0, 99.0, 99.0]]), torch.rand(300, 4).sort().values, 0.7, 0.3)[1]
    assert not states.any()


@FORMS
def test_thresholds_belong_to_the_upper_state(form: str) -> None:
    gt = torch.tensor([[0.0, 0.0, 10.0, 10.0]])
    anchors = torch.tensor([[0.0, 0.0, 10.0, 7.0], [0.0, 0.0, 10.0, 3.0], [0.0, 0.0, 10.0, 2.5]])
    with forced(form):
        assert match_anchors(gt, anchors, 0.7, 0.3, rescue=False)[1].tolist() == [1, -1, 0]


def test_number_of_threads_does_not_matter() -> None:
    case = next(case for case in cases_of("match_anchors") if case.name == "nuclei")
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = match_anchors(*arguments_of(case))
        torch.set_num_threads(3)
        together = match_anchors(*arguments_of(case))
    finally:
        torch.set_num_threads(before)
    assert all(map(torch.equal, alone, together))


def test_most_crowded_image() -> None:
    """400 objects, as the worst picture of nuclei holds: every one gets an anchor."""
    random = torch.Generator().manual_seed(0)
    corner = torch.rand(400, 2, generator=random) * 480
    gt = torch.cat([corner, corner + 6 + 25 * torch.rand(400, 2, generator=random)], 1)
    case = next(case for case in cases_of("match_anchors") if case.name == "nuclei")
    anchors = arguments_of(case)[1]
    matched, states = match_anchors(gt, anchors, 0.7, 0.3)
    assert len(matched[states == 1].unique()) > 350


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((torch.zeros(2, 5), torch.zeros(2, 4), 0.7, 0.3), r"gt must be floating \[N, 4\]"),
        ((torch.zeros(2, 4), torch.zeros(2, 4).long(), 0.7, 0.3), "anchors must be floating"),
        ((torch.zeros(2, 4), torch.zeros(2, 4), 0.3, 0.7), "0 <= low <= high"),
        ((torch.zeros(2, 4), torch.zeros(2, 4, device="meta"), 0.7, 0.3), "one device"),
    ],
)
def test_wrong_arguments(arguments: tuple, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        match_anchors(*arguments)
