"""What is special to mask targets: the definition, ties, objects that touch, errors, threads."""

from __future__ import annotations

import math

import pytest
import torch

from monai_ext.ops.forms import forced
from monai_ext.ops.mask_targets import mask_targets

FORMS = ["torch", "auto"]


def disc_map(height: int, width: int, count: int, seed: int = 0) -> torch.Tensor:
    random = torch.Generator().manual_seed(seed)
    labels = torch.zeros((height, width), dtype=torch.int32)
    y, x = torch.arange(height)[:, None] + 0.5, torch.arange(width)[None] + 0.5
    for n in range(count):
        cy, cx, radius = torch.rand(3, generator=random) * torch.tensor([height, width, 9.0]) + torch.tensor(
            [0, 0, 4.0]
        )
        labels[(y - cy) ** 2 + (x - cx) ** 2 <= radius**2] = n + 1
    return labels


def roi_align_mean(plane: torch.Tensor, box: list[float], size: int, sampling: int) -> torch.Tensor:
    """RoIAlign of one plane `[H, W]`, aligned, sample by sample as its definition reads."""
    height, width = plane.shape
    mask = plane.tolist()
    x0, y0, x1, y1 = (edge - 0.5 for edge in box)
    nx = sampling or math.ceil((x1 - x0) / size)
    ny = sampling or math.ceil((y1 - y0) / size)
    out = [[0.0] * size for _ in range(size)]
    for p in range(size):
        for q in range(size):
            for i in range(ny):
                for j in range(nx):
                    y = y0 + (p + (i + 0.5) / ny) * (y1 - y0) / size
                    x = x0 + (q + (j + 0.5) / nx) * (x1 - x0) / size
                    if not (-1 <= y <= height and -1 <= x <= width):
                        continue
                    y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
                    top, left = int(y), int(x)
                    low, right = min(top + 1, height - 1), min(left + 1, width - 1)
                    fy, fx = y - top, x - left
                    out[p][q] += (1 - fy) * ((1 - fx) * mask[top][left] + fx * mask[top][right]) + fy * (
                        (1 - fx) * mask[low][left] + fx * mask[low][right]
                    )
            out[p][q] /= max(nx * ny, 1)
    return torch.tensor(out, dtype=torch.float64)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("sampling", [0, 1, 2, 3])
def test_equals_roi_align_of_the_binary_mask(form: str, sampling: int) -> None:
    labels = torch.stack([disc_map(34, 41, 7, seed) for seed in range(2)])
    boxes = [[2.3, 1.7, 20.2, 18.9], [-7.0, 5.0, 13.5, 60.0], [10.0, 10.0, 12.0, 11.5], [0.0, 0.0, 41.0, 34.0]]
    rois, ids, expected = [], [], []
    for image in range(2):
        for box in boxes:
            for number in labels[image].unique().tolist()[1:]:
                rois.append([image, *box])
                ids.append(number)
                mask = (labels[image] == number).double()
                expected.append(roi_align_mean(mask, box, 6, sampling) >= 0.5 - 1e-9)
    with forced(form):
        found = mask_targets(labels, torch.tensor(rois), torch.tensor(ids, dtype=torch.int32), 6, sampling)
    assert found.dtype == torch.float32
    assert torch.equal(found, torch.stack(expected).float())
    assert 0.02 < found.mean() < 0.5


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("scale", [2, 3, 6])
def test_boxes_on_pixel_edges_give_the_mask_itself(form: str, scale: int) -> None:
    """Every bin is a whole block of one value, or a tie where linear interpolation reaches the next block."""
    small = torch.randint(1, 3, (10, 10), generator=torch.Generator().manual_seed(2), dtype=torch.int32)
    labels = small.repeat_interleave(scale, 0).repeat_interleave(scale, 1)[None]
    rois = torch.tensor([[0.0, 0.0, 0.0, 10.0 * scale, 10.0 * scale]] * 2)
    with forced(form):
        found = mask_targets(labels, rois, torch.tensor([1, 2]), 10)
    assert torch.equal(found, torch.stack([small == 1, small == 2]).float())


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("width", [6, 12, 18, 30])
def test_a_tie_counts_as_inside(form: str, width: int) -> None:
    """Half of a bin, with numbers of samples whose reciprocals are not exact."""
    labels = torch.zeros((1, 30, 30), dtype=torch.int32)
    labels[0, :, : width // 2] = 1
    with forced(form):
        found = mask_targets(labels, torch.tensor([[0.0, 0.0, 0.0, width, 21.0]]), torch.tensor([1]), 1)
    assert found.item() == 1


@pytest.mark.parametrize("form", FORMS)
def test_objects_that_touch_are_told_apart(form: str) -> None:
    labels = torch.zeros((1, 16, 16), dtype=torch.int32)
    labels[0, 4:12, 2:8], labels[0, 4:12, 8:14] = 5, 2**30
    rois = torch.tensor([[0.0, 2, 4, 14, 12]] * 3)
    with forced(form):
        left, right, none = mask_targets(labels, rois, torch.tensor([5, 2**30, 7], dtype=torch.int32), 4)
    assert torch.equal(left, torch.tensor([1.0, 1, 0, 0]).expand(4, 4))
    assert torch.equal(right, 1 - left)
    assert not none.any()


@pytest.mark.parametrize("form", FORMS)
def test_no_instance_gives_zeros_though_background_is_there(form: str) -> None:
    labels = torch.zeros((1, 9, 9), dtype=torch.int32)
    with forced(form):
        found = mask_targets(labels, torch.tensor([[0.0, 0, 0, 9, 9]] * 2), torch.tensor([0, -1]), 3)
    assert not found.any()


@pytest.mark.parametrize("form", FORMS)
def test_result_does_not_depend_on_threads(form: str) -> None:
    labels = disc_map(200, 200, 60)[None]
    corner = torch.rand((60, 2), generator=torch.Generator().manual_seed(4)) * 150
    rois = torch.cat([torch.zeros(60, 1), corner, corner + 40], 1)
    threads, found = torch.get_num_threads(), []
    try:
        with forced(form):
            for count in (1, 2, 3):
                torch.set_num_threads(count)
                found.append(mask_targets(labels, rois, torch.arange(60) + 1, 28))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])
    assert found[0].any()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"label_maps": torch.zeros(9, 9, dtype=torch.int32)}, "needs label maps"),
        ({"rois": torch.zeros(2, 4)}, "needs label maps"),
        ({"ids": torch.zeros(3, dtype=torch.int32)}, "needs label maps"),
        ({"label_maps": torch.zeros(1, 9, 9)}, "integer"),
        ({"label_maps": torch.zeros(1, 9, 9, dtype=torch.bool)}, "integer"),
        ({"rois": torch.zeros(2, 5, dtype=torch.int64)}, "floating"),
        ({"ids": torch.zeros(2)}, "integer"),
        ({"size": 0}, "size"),
        ({"sampling": -1}, "sampling"),
        ({"rois": torch.tensor([[0.0, 0, 0, 9, 9], [1, 0, 0, 9, 9]])}, "there are 1"),
        ({"rois": torch.tensor([[0.0, 0, 0, 9, 9], [float("nan"), 0, 0, 9, 9]])}, "there are 1"),
    ],
)
def test_bad_arguments_are_refused(change: dict, words: str) -> None:
    arguments = {
        "label_maps": torch.zeros(1, 9, 9, dtype=torch.int32),
        "rois": torch.zeros(2, 5),
        "ids": torch.ones(2, dtype=torch.int32),
        "size": 4,
    }
    with pytest.raises(ValueError, match=words):
        mask_targets(**{**arguments, **change})
