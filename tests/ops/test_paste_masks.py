"""What is special to painting masks: the rule itself, order, windows, errors, threads."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from monai_ext.ops.forms import forced
from monai_ext.ops.paste_masks import paste_mask, paste_masks

FORMS = ["torch", "auto"]


def random_masks(count: int, cells: int = 28, seed: int = 0) -> torch.Tensor:
    """Smooth masks, so that no pixel lies at the threshold to the last bit."""
    coarse = torch.rand((count, 1, 4, 4), generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(coarse, (cells, cells), mode="bicubic")[:, 0].clamp(0, 1)


def random_boxes(count: int, height: int, width: int, seed: int = 0) -> torch.Tensor:
    random = torch.Generator().manual_seed(seed)
    centre = torch.rand((count, 2), generator=random) * torch.tensor([width, height])
    half = 2 + 15 * torch.rand((count, 2), generator=random)
    return torch.cat([centre - half, centre + half], 1)


def by_grid_sample(masks: torch.Tensor, boxes: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Every mask sampled over the whole image, in float64: `[R, H, W]`."""
    masks, boxes = masks.double(), boxes.double()
    x = (torch.arange(width) + 0.5)[None] - boxes[:, :1]
    y = (torch.arange(height) + 0.5)[None] - boxes[:, 1:2]
    x = x / (boxes[:, 2:3] - boxes[:, :1]) * 2 - 1
    y = y / (boxes[:, 3:] - boxes[:, 1:2]) * 2 - 1
    grid = torch.stack([x[:, None].expand(-1, height, -1), y[:, :, None].expand(-1, -1, width)], 3)
    return torch.nn.functional.grid_sample(masks[:, None], grid, align_corners=False)[:, 0]


@pytest.mark.parametrize("form", FORMS)
def test_equals_sampling_every_mask_over_the_whole_image(form: str) -> None:
    masks, boxes = random_masks(40), random_boxes(40, 96, 128)
    claims = by_grid_sample(masks, boxes, 96, 128) >= 0.5
    expected = torch.where(claims.any(0), claims.int().argmax(0) + 1, 0).int()
    with forced(form):
        found = paste_masks(masks, boxes, 96, 128)
    assert found.dtype == torch.int32
    assert torch.equal(found, expected)
    assert (claims.sum(0) > 1).any()
    assert len(found.unique()) > 20


@pytest.mark.parametrize("form", FORMS)
def test_first_mask_keeps_its_pixels(form: str) -> None:
    masks = torch.ones(2, 4, 4)
    boxes = torch.tensor([[2.0, 2.0, 8.0, 8.0], [0.0, 0.0, 6.0, 6.0]])
    expected = torch.zeros(9, 9, dtype=torch.int32)
    expected[0:6, 0:6] = 2
    expected[2:8, 2:8] = 1
    with forced(form):
        assert torch.equal(paste_masks(masks, boxes, 9, 9), expected)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("threshold", [0.5, 0.2, 0.01])
def test_nothing_is_painted_outside_of_the_window(form: str, threshold: float) -> None:
    masks, boxes = torch.ones(1, 2, 2), torch.tensor([[5.4, 3.2, 12.6, 9.7]])
    with forced(form):
        labels = paste_masks(masks, boxes, 20, 20, threshold)
    rows, columns = labels.nonzero().unbind(1)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (3, 9, 5, 12)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_one_half_everywhere_counts_as_inside(form: str, dtype: torch.dtype) -> None:
    """The probability of a logit of 0; rounding must not decide."""
    masks = torch.full((1, 28, 28), 0.5, dtype=dtype)
    with forced(form):
        labels = paste_masks(masks, torch.tensor([[-50.3, -40.7, 150.2, 160.9]]), 99, 101)
    assert (labels == 1).all()


@pytest.mark.parametrize("form", FORMS)
def test_windows_of_single_masks_are_those_of_the_map(form: str) -> None:
    masks = random_masks(30, seed=3)
    boxes = torch.cat(
        [random_boxes(27, 50, 60, seed=3), torch.tensor([[90.0, 1, 95, 9], [4, 4, 4, 9], [0, 0, 60, 50]])]
    )
    with forced(form):
        for mask, box in zip(masks, boxes, strict=True):
            window, corner = paste_mask(mask, box, 50, 60)
            top, left = corner.tolist()
            image = torch.zeros(50, 60, dtype=torch.int32)
            image[top : top + window.shape[0], left : left + window.shape[1]] = window.int()
            assert window.dtype == torch.bool
            assert torch.equal(image, paste_masks(mask[None], box[None], 50, 60))


def test_boxes_without_area_or_place_get_an_empty_window() -> None:
    for box in ([4.0, 4, 4, 9], [9.0, 4, 4, 9], [float("nan"), 0, 5, 5], [70.0, 0, 75, 9], [-9.0, 0, 0, 9]):
        assert paste_mask(torch.ones(3, 3), torch.tensor(box), 50, 60)[0].numel() == 0


@pytest.mark.parametrize("form", FORMS)
def test_result_does_not_depend_on_threads(form: str) -> None:
    masks, boxes = random_masks(200, seed=1), random_boxes(200, 256, 300, seed=1)
    threads, found = torch.get_num_threads(), []
    try:
        with forced(form):
            for count in (1, 2, 3):
                torch.set_num_threads(count)
                found.append(paste_masks(masks, boxes, 256, 300))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


def test_gradients_are_not_asked_for() -> None:
    masks = random_masks(2).requires_grad_()
    assert not paste_masks(masks, random_boxes(2, 20, 20).requires_grad_(), 20, 20).requires_grad


@pytest.mark.parametrize(
    ("masks", "boxes", "options", "words"),
    [
        (torch.ones(2, 4), torch.ones(2, 4), (9, 9), "must be"),
        (torch.ones(2, 4, 4), torch.ones(3, 4), (9, 9), "must be"),
        (torch.ones(2, 4, 4).int(), torch.ones(2, 4), (9, 9), "floating"),
        (torch.ones(2, 4, 4), torch.ones(2, 4).long(), (9, 9), "floating"),
        (torch.ones(2, 0, 4), torch.ones(2, 4), (9, 9), "at least one cell"),
        (torch.ones(2, 4, 4), torch.ones(2, 4), (-1, 9), "negative"),
        (torch.ones(2, 4, 4), torch.ones(2, 4), (9, 9, 0.0), "threshold"),
        (torch.ones(2, 4, 4), torch.ones(2, 4), (9, 9, float("nan")), "threshold"),
    ],
)
def test_bad_arguments_are_refused(masks: torch.Tensor, boxes: torch.Tensor, options: tuple, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        paste_masks(masks, boxes, *options)


@pytest.mark.real_data
@pytest.mark.parametrize("form", FORMS)
def test_close_to_the_peer_on_golden_masks(form: str, data_folder) -> None:
    """The peer rounds boxes to whole pixels before it resizes a mask, so it differs at outlines and within noise."""
    golden = np.load(data_folder / "golden" / "detection_ops.npz")
    boxes = torch.from_numpy(golden["paste.boxes"])
    height, width = golden["paste.size_hw"].tolist()
    # a solid mask shows where boxes end, whatever is in them
    solid = torch.ones(1, 28, 28)
    for box, peer in zip(boxes, torch.from_numpy(golden["paste.output"])[:, 0], strict=True):
        with forced(form):
            ours = paste_masks(solid, box[None], height, width) > 0
        rows, columns = (peer > 0).nonzero().unbind(1)
        if ours.sum() < 20:  # whole pixels are all that small boxes are made of
            continue
        mine = ours.nonzero()
        found = [mine[:, 0].min(), mine[:, 0].max(), mine[:, 1].min(), mine[:, 1].max()]
        expected = [rows.min(), rows.max(), columns.min(), columns.max()]
        assert (torch.stack(found) - torch.stack(expected)).abs().max() <= 1
