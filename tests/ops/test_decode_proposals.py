"""What is special to decoding proposals: equality with the box coder, clipping, validity, errors."""

from __future__ import annotations

from importlib.util import find_spec

import pytest
import torch

from monai_ext.networks.mask_rcnn.box_coder import decode, encode
from monai_ext.ops.check import arguments_of, cases_of
from monai_ext.ops.decode_proposals import decode_proposals
from monai_ext.ops.forms import forced

HAS_TRITON = pytest.mark.skipif(
    find_spec("triton") is None or torch.cuda.is_available(), reason="needs Triton's interpreter"
)
FORMS = pytest.mark.parametrize("form", ["torch", "auto", pytest.param("triton", marks=HAS_TRITON)])
HEAD = (10.0, 10.0, 5.0, 5.0)


@FORMS
@pytest.mark.parametrize("name", ["ordinary", "head_weights", "large_scales"])
def test_equals_the_box_coder_within_the_image(form: str, name: str) -> None:
    case = next(case for case in cases_of("decode_proposals") if case.name == name)
    deltas, anchors, (height, width), weights, _ = arguments_of(case)
    with forced(form):
        boxes, valid = decode_proposals(deltas, anchors, (height, width), weights)
    limits = torch.tensor([width, height, width, height])
    expected = decode(deltas, anchors, weights).clamp_min(0).minimum(limits)
    torch.testing.assert_close(boxes, expected, rtol=1e-5, atol=1e-4)
    assert torch.equal(valid, ((expected[:, 2:] - expected[:, :2]) > 0).all(1))
    assert valid.any()
    assert boxes.dtype == torch.float32
    assert valid.dtype == torch.bool


@FORMS
def test_ground_truth_comes_back(form: str) -> None:
    gt = torch.tensor([[3.0, 4.0, 17.0, 9.0], [0.0, 0.0, 64.0, 48.0]])
    anchors = torch.tensor([[0.0, 0.0, 16.0, 16.0], [20.0, 20.0, 40.0, 44.0]])
    with forced(form):
        boxes, valid = decode_proposals(encode(gt, anchors, HEAD), anchors, (48, 64), HEAD)
    torch.testing.assert_close(boxes, gt)
    assert valid.all()


@FORMS
def test_height_belongs_to_y(form: str) -> None:
    anchors = torch.tensor([[-10.0, -10.0, 500.0, 500.0]])
    with forced(form):
        assert decode_proposals(torch.zeros(1, 4), anchors, (30, 70))[0].tolist() == [[0.0, 0.0, 70.0, 30.0]]


@FORMS
def test_which_boxes_are_valid(form: str) -> None:
    anchors = torch.tensor(
        [[0.0, 0.0, 4.0, 4.0], [0.0, 0.0, 4.0, 3.0], [97.0, 0.0, 105.0, 9.0], [100.0, 0.0, 109.0, 9.0]]
    )
    with forced(form):
        assert decode_proposals(torch.zeros(4, 4), anchors, (100, 100))[1].tolist() == [True, True, True, False]
        with_limit = decode_proposals(torch.zeros(4, 4), anchors, (100, 100), min_size=3.0)[1]
    assert with_limit.tolist() == [True, False, False, False]  # sides of 4, 3 and 3 after clipping


@FORMS
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("place", range(4))
def test_what_is_not_finite_is_zero_and_not_valid(form: str, value: float, place: int) -> None:
    deltas, anchors = torch.zeros(2, 4), torch.tensor([[8.0, 8.0, 16.0, 16.0]] * 2)
    deltas[0, place] = value
    with forced(form):
        boxes, valid = decode_proposals(deltas, anchors, (64, 64))
    assert valid.tolist() == [False, True]
    assert boxes.tolist() == [[0.0] * 4, [8.0, 8.0, 16.0, 16.0]]


def test_nothing_is_differentiated() -> None:
    deltas = torch.zeros(2, 4, requires_grad=True)
    assert not decode_proposals(deltas, torch.ones(2, 4), (9, 9))[0].requires_grad


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((torch.zeros(2, 5), torch.zeros(2, 4), (9, 9)), r"deltas must be floating \[K, 4\]"),
        ((torch.zeros(2, 4), torch.zeros(2, 4).long(), (9, 9)), "anchors must be floating"),
        ((torch.zeros(2, 4), torch.zeros(3, 4), (9, 9)), "one anchor for each of 2 deltas"),
        ((torch.zeros(2, 4), torch.zeros(2, 4), (9, 9, 9)), "height and width"),
        ((torch.zeros(2, 4), torch.zeros(2, 4), (9, 9), (1.0, 1.0, 1.0, 0.0)), "4 positive numbers"),
    ],
)
def test_wrong_arguments(arguments: tuple, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        decode_proposals(*arguments)
