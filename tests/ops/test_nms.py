"""What is special to `nms`: greedy by hand, MONAI's own, ties, groups, threads, no waiting, golden numbers."""

from __future__ import annotations

import shutil
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.data.box_utils import non_max_suppression

from monai_ext.ops.check import arguments_of, cases_of
from monai_ext.ops.forms import forced
from monai_ext.ops.nms import batched_nms, nms, nms_mask, score_order
from monai_ext.ops.nms.cases import random_boxes

needs_compiler = pytest.mark.skipif(not any(map(shutil.which, ("g++", "clang++", "c++"))), reason="no C++ compiler")
needs_triton = pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed")
DEVICES = {"torch": "cpu", "c++": "cpu", "triton": "cuda" if torch.cuda.is_available() else "cpu"}
every_form = pytest.mark.parametrize(
    "form", ["torch", pytest.param("c++", marks=needs_compiler), pytest.param("triton", marks=needs_triton)]
)
quick_form = pytest.mark.parametrize("form", ["torch", pytest.param("c++", marks=needs_compiler)])


def inputs(count: int = 150, seed: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(seed)
    return random_boxes(random, count), torch.rand(count, generator=random)


def by_hand(boxes: torch.Tensor, scores: torch.Tensor, threshold: float, groups: torch.Tensor | None = None) -> list:
    """The definition, box by box, in double precision."""
    kept: list[int] = []
    values = boxes.double().tolist()
    for i in sorted(range(len(values)), key=lambda i: -float(scores[i])):
        for j in kept:
            a, b = values[i], values[j]
            width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
            shared = max(width, 0) * max(height, 0)
            union = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)) - shared
            same = groups is None or groups[i] == groups[j]
            if same and union > 0 and shared / union > threshold:
                break
        else:
            kept.append(i)
    return kept


def run(form: str, function, *arguments):
    with forced(form):
        moved = [a.to(DEVICES[form]) if isinstance(a, torch.Tensor) else a for a in arguments]
        return function(*moved).cpu()


@every_form
@pytest.mark.parametrize("threshold", [0.05, 0.4])
def test_equals_the_definition(form: str, threshold: float) -> None:
    boxes, scores = inputs()
    expected = by_hand(boxes, scores, threshold)
    assert 10 < len(expected) < 140  # some are kept and some are not
    found = run(form, nms, boxes, scores, threshold)
    assert found.dtype == torch.int64
    assert found.tolist() == expected


@every_form
def test_groups_equal_the_definition(form: str) -> None:
    boxes, scores = inputs()
    groups = torch.randint(-2, 3, (150,), generator=torch.Generator().manual_seed(1))
    expected = by_hand(boxes, scores, 0.2, groups)
    assert len(by_hand(boxes, scores, 0.2)) < len(expected) < 150
    assert run(form, batched_nms, boxes, scores, groups, 0.2).tolist() == expected


@every_form
def test_groups_that_end_within_and_at_the_ends_of_blocks(form: str) -> None:
    """Runs of 1, 63, 64, 65, 128 and 200 boxes, each suppressed as if it were alone."""
    lengths = [64, 1, 63, 128, 65, 1, 1, 200]
    boxes, scores = inputs(sum(lengths))
    groups = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    alone = [
        part[run("torch", nms, boxes[part], scores[part], 0.2)] for part in torch.arange(len(boxes)).split(lengths)
    ]
    expected = torch.cat(alone)
    expected = expected[score_order(scores[expected])]
    assert torch.equal(run(form, batched_nms, boxes, scores, groups, 0.2), expected)


@quick_form
def test_equals_monai(form: str) -> None:
    boxes, scores = inputs(300)
    for threshold in (0.1, 0.3, 0.5):
        expected = torch.as_tensor(non_max_suppression(boxes, scores, threshold))
        assert torch.equal(run(form, nms, boxes, scores, threshold), expected)


@every_form
@pytest.mark.parametrize("threshold", [0.1, 0.3, 0.35, 0.5, 0.6, 0.65, 0.7, 0.9])
def test_an_overlap_of_exactly_the_threshold_does_not_suppress(form: str, threshold: float) -> None:
    """Strips of 100 pixels, one of which holds a share of the other; one pixel more suppresses."""
    share = round(100 * threshold)
    equal = torch.tensor([[0.0, 0.0, 100.0, 1.0], [0.0, 0.0, share, 1.0]])
    more = torch.tensor([[0.0, 0.0, 100.0, 1.0], [0.0, 0.0, share + 1, 1.0]])
    scores = torch.tensor([0.5, 0.4])
    assert run(form, nms, equal, scores, threshold).tolist() == [0, 1]
    assert run(form, nms, more, scores, threshold).tolist() == [0]


@every_form
def test_what_is_suppressed_suppresses_nothing(form: str) -> None:
    chain = torch.tensor([[4.0 * i, 0.0, 4.0 * i + 10, 10.0] for i in range(5)])  # neighbours overlap by 6 / 14
    assert run(form, nms, chain, torch.linspace(1, 0, 5), 0.4).tolist() == [0, 2, 4]


@every_form
def test_equal_scores_keep_their_order_and_nan_comes_last(form: str) -> None:
    far = torch.tensor([[20.0 * i, 0.0, 20.0 * i + 10, 10.0] for i in range(6)])
    scores = torch.tensor([torch.nan, 0.5, -torch.inf, 0.5, torch.nan, torch.inf])
    assert run(form, nms, far, scores, 0.5).tolist() == [5, 1, 3, 2, 0, 4]
    assert run(form, nms, far[:1].repeat(6, 1), scores, 0.5).tolist() == [5]


@every_form
def test_boxes_that_are_none_take_no_part(form: str) -> None:
    nan = torch.nan
    boxes = torch.tensor(
        [[0, 0, 10, 10], [0, 0, nan, 10], [0, 0, 0, 10], [10, 10, 0, 0], [10, 0, 0, 10], [0, 0, 10, 9]]
    )
    assert run(form, nms, boxes, torch.linspace(1, 0, 6), 0.0).tolist() == [0, 1, 2, 3, 4]
    assert run(form, nms, boxes.flip(0), torch.linspace(1, 0, 6), 0.0).tolist() == [0, 1, 2, 3, 4]


def test_mask_is_in_the_order_of_the_scores() -> None:
    boxes, scores = inputs()
    mask = nms_mask(boxes, scores, 0.2)
    assert mask.shape == (150,)
    assert mask.dtype == torch.bool
    assert torch.equal(score_order(scores)[mask], nms(boxes, scores, 0.2))
    groups = torch.arange(150) % 4
    kept = score_order(scores)[nms_mask(boxes, scores, 0.2, groups)]
    assert torch.equal(kept, batched_nms(boxes, scores, groups, 0.2))


def test_half_precision_is_computed_in_float32() -> None:
    boxes, scores = (t.bfloat16() for t in inputs())
    assert torch.equal(nms(boxes, scores, 0.2), nms(boxes.float(), scores.float(), 0.2))


def test_no_gradient_is_asked_for() -> None:
    boxes, scores = (t.requires_grad_() for t in inputs())
    assert not nms(boxes, scores, 0.3).requires_grad


@needs_compiler
@pytest.mark.parametrize("count", [9000, 20])
def test_results_do_not_depend_on_threads(count: int) -> None:
    """So many boxes that one group is shared among threads, and groups are."""
    random = torch.Generator().manual_seed(5)
    boxes, scores = random_boxes(random, count, 600.0), torch.rand(count, generator=random)
    groups = torch.randint(0, 7, (count,), generator=random)
    threads, found = torch.get_num_threads(), []
    try:
        for number in (1, 2, 3):
            torch.set_num_threads(number)
            found.append([run("c++", nms, boxes, scores, 0.3), run("c++", batched_nms, boxes, scores, groups, 0.3)])
    finally:
        torch.set_num_threads(threads)
    for one, grouped in found[1:]:
        assert torch.equal(one, found[0][0])
        assert torch.equal(grouped, found[0][1])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("name", ["proposals_2000", "levels_8000"])
def test_mask_does_not_wait_for_the_device(name: str) -> None:
    case = next(case for case in cases_of("nms") if case.name == name)
    boxes, scores, *groups, threshold = arguments_of(case, "cuda")
    nms_mask(boxes, scores, threshold, *groups)
    torch.cuda.set_sync_debug_mode("error")
    try:
        nms_mask(boxes, scores, threshold, *groups)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.real_data
@quick_form
def test_golden_numbers(form: str, data_folder: Path) -> None:
    golden = np.load(data_folder / "golden" / "detection_ops.npz")
    names = [name for name in golden.files if "nms." in name and ".keep@" in name]
    assert len(names) > 20
    for name in names:
        case, threshold = name.split(".keep@")
        arguments = [torch.from_numpy(golden[f"{case}.{part}"]) for part in ("boxes", "scores")]
        if case.startswith("batched"):
            found = run(form, batched_nms, *arguments, torch.from_numpy(golden[f"{case}.labels"]), float(threshold))
        else:
            found = run(form, nms, *arguments, float(threshold))
        assert found.tolist() == golden[name].tolist(), name


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"boxes": torch.zeros(3, 5)}, r"boxes must be floating \[N, 4\]"),
        ({"boxes": torch.zeros(3, 4, dtype=torch.int64)}, r"boxes must be floating .* torch.int64"),
        ({"scores": torch.zeros(4)}, r"scores must be floating \[3\]"),
        ({"scores": torch.zeros(3, dtype=torch.int64)}, r"scores must be floating \[3\]"),
        ({"groups": torch.zeros(3)}, r"groups must be int64 \[3\]"),
        ({"groups": torch.zeros(2, dtype=torch.int64)}, r"groups must be int64 \[3\]"),
        ({"threshold": 1.5}, "threshold must be from 0 to 1, got 1.5"),
        ({"threshold": float("nan")}, "threshold must be from 0 to 1, got nan"),
    ],
)
def test_wrong_arguments_are_named(change, message: str) -> None:
    arguments = {"boxes": torch.zeros(3, 4), "scores": torch.zeros(3), "groups": torch.zeros(3, dtype=torch.int64)}
    with pytest.raises(ValueError, match=message):
        batched_nms(**{**arguments, "threshold": 0.5, **change})
