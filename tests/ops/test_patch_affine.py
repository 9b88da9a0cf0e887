"""Sampling against grid_sample and the argmax of interpolated indicators; copies, memory maps, storage, errors."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from hypothesis import given, settings
from hypothesis import strategies as st

from monai_ext.ops.forms import forced
from monai_ext.ops.patch_affine import patch_affine
from monai_ext.ops.patch_affine.affine_matrix import affine_matrix
from monai_ext.ops.patch_affine.stored import stored_tensor

COMPILER = any(map(shutil.which, ("g++", "clang++", "c++")))
FORMS = [pytest.param("c++", marks=pytest.mark.skipif(not COMPILER, reason="no C++ compiler")), "torch"]
EYE = torch.eye(3, dtype=torch.float64)[None]


def cut(image, label, matrix, centre, size, **options):
    """One patch of one volume, without the axis of the batch."""
    out, target = patch_affine(
        [image],
        None if label is None else [label],
        torch.as_tensor(matrix, dtype=torch.float64).view(1, 3, 3),
        torch.tensor([centre], dtype=torch.float64),
        size,
        **options,
    )
    return out[0], None if target is None else target[0]


def by_grid_sample(volume: torch.Tensor, matrix: np.ndarray, centre: list[float], size: tuple[int, ...]):
    """Linear interpolation of `[C, d, h, w]` float64, the value at the border beyond it."""
    offsets = torch.meshgrid(*[torch.arange(n, dtype=torch.float64) - (n - 1) / 2 for n in size], indexing="ij")
    positions = torch.einsum("ij,j...->i...", torch.from_numpy(matrix), torch.stack(offsets))
    positions += torch.tensor(centre, dtype=torch.float64).view(3, 1, 1, 1)
    edges = torch.tensor(volume.shape[1:], dtype=torch.float64) - 1
    grid = (2 * positions.movedim(0, -1) / edges - 1).flip(-1)[None]
    return F.grid_sample(volume[None], grid, mode="bilinear", align_corners=True, padding_mode="border")[0]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("angles", [(20, -25, 10), (0, 0, 0), (75, 0, 0), (0, 90, 0)], ids=str)
@pytest.mark.parametrize("classes", [1, 2, 3, 7])
@pytest.mark.parametrize("shift", [0.0, 14.0], ids=["inside", "beyond"])
def test_image_and_label(form: str, angles, classes: int, shift: float) -> None:
    generator = torch.Generator().manual_seed(classes)
    image = torch.randn(2, 20, 22, 24, generator=generator)
    # blocks of 2 make cells of one, two and many classes
    coarse = torch.randint(0, classes, (10, 11, 12), generator=generator, dtype=torch.uint8)
    label = coarse.repeat_interleave(2, 0).repeat_interleave(2, 1).repeat_interleave(2, 2)[None]
    matrix, centre, size = affine_matrix(angles, (0.9, 1.1, 1.2)), [9.3, 10.6 + shift, 11.7 - shift], (9, 8, 7)
    with forced(form):
        out, target = cut(image, label, matrix, centre, size, fill=-3.0, pad_label=classes)
    padding, shifted = (20,) * 6, [c + 20 for c in centre]
    expected = by_grid_sample(F.pad(image.double(), padding, value=-3.0), matrix, shifted, size)
    # positions are rounded to 2^-25 voxel, neighbouring values differ by a few units
    torch.testing.assert_close(out.double(), expected, atol=1e-6, rtol=0)
    indicators = F.one_hot(F.pad(label[0].long(), padding, value=classes)).movedim(-1, 0).double()
    shares = by_grid_sample(indicators, matrix, shifted, size)
    best = shares.sort(0, descending=True).values
    # where the two best classes are level to the rounding of positions, either may win
    clear = best[0] - best[1] > 1e-5
    assert clear.float().mean() > 0.9
    assert target is not None
    assert torch.equal(target[0][clear].long(), shares.argmax(0)[clear])


def test_cubic_passes_through_voxels_and_follows_parabolas() -> None:
    # Keys: third order for a = -0.5, exact for polynomials of degree two
    z, y, x = torch.meshgrid(*[torch.arange(12.0)] * 3, indexing="ij")
    image = (z * z - 2 * x * y + 0.5 * x * x + 3)[None]
    out, _ = cut(image, None, EYE, [5.25, 5.5, 6.375], (3, 3, 3), order=3)
    z, y, x = torch.meshgrid(*[torch.arange(3) + c - 1 for c in (5.25, 5.5, 6.375)], indexing="ij")
    torch.testing.assert_close(out[0], z * z - 2 * x * y + 0.5 * x * x + 3)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.uint8, torch.int16])
@pytest.mark.parametrize("order", [1, 3])
def test_plain_and_mirrored_patches_are_copies(form: str, dtype: torch.dtype, order: int) -> None:
    image = (torch.randn(2, 9, 10, 11, generator=torch.Generator().manual_seed(0)) * 50).abs().to(dtype)
    label = torch.arange(990, dtype=torch.int16).view(1, 9, 10, 11)
    with forced(form):
        out, target = cut(image, label, EYE, [4, 3.5, 6], (5, 4, 7), order=order)
        assert torch.equal(out, image[:, 2:7, 2:6, 3:10].float())
        assert torch.equal(target, label[:, 2:7, 2:6, 3:10])
        mirror = torch.diag(torch.tensor([-1.0, 1, -1]))
        out, target = cut(image, label, mirror, [4, 3.5, 6], (5, 4, 7), order=order)
        assert torch.equal(out, image[:, 2:7, 2:6, 3:10].float().flip(1, 3))
        assert torch.equal(target, label[:, 2:7, 2:6, 3:10].flip(1, 3))
        out, target = cut(image, label, EYE, [0, 9, 10], (3, 3, 5), order=order, fill=7.5, pad_label=-2)
        assert torch.equal(out[:, 1:, :2, :3], image[:, :2, 8:, 8:].float())
        assert torch.equal(target[:, 1:, :2, :3], label[:, :2, 8:, 8:])
        assert int((out[0] == 7.5).sum()) == int((target == -2).sum()) == 45 - 12


@pytest.mark.skipif(not COMPILER, reason="no C++ compiler")
def test_every_float16_is_converted() -> None:
    image = torch.arange(-(1 << 15), 1 << 15).to(torch.int16).view(torch.float16).view(1, 1, 1, -1)
    with forced("c++"):
        out, _ = cut(image, None, EYE, [0, 0, (1 << 15) - 0.5], (1, 1, 1 << 16))
    torch.testing.assert_close(out, image.float(), rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("form", FORMS)
def test_a_tie_goes_to_the_smaller_class(form: str) -> None:
    label = torch.tensor([5, 2], dtype=torch.int64).expand(1, 2, 2, 2)
    with forced(form):
        _, target = cut(torch.zeros(1, 2, 2, 2), label.contiguous(), EYE, [0.5, 0.5, 0.5], (1, 1, 1))
    assert target.item() == 2


@pytest.mark.parametrize("form", FORMS)
def test_a_third_class_can_win_between_smallest_and_largest(form: str) -> None:
    label = torch.tensor([0, 1, 1, 1, 1, 1, 1, 3], dtype=torch.uint8).view(1, 2, 2, 2)
    with forced(form):
        _, target = cut(torch.zeros(1, 2, 2, 2), label, EYE, [0.5, 0.5, 0.5], (1, 1, 1))
    assert target.item() == 1


@pytest.mark.skipif(not COMPILER, reason="no C++ compiler")
@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.integers(0, 1 << 30),
    st.tuples(*[st.sampled_from([0, 30, 45, 60, 90, 17.3])] * 3),
    st.sampled_from([0.5, 0.75, 1.0, 1.2]),
    st.tuples(*[st.integers(-4, 24)] * 3),
    st.sampled_from(["linear", "nearest"]),
)
def test_labels_are_alike_to_the_bit_in_all_forms(seed, angles, scale, quarters, mode) -> None:
    """Also where shares are level: steps and centres are such that they often are."""
    label = torch.randint(-2, 3, (1, 5, 6, 7), generator=torch.Generator().manual_seed(seed), dtype=torch.int8)
    arguments = (label.float().to(torch.int16), label, affine_matrix(angles, [scale] * 3), [q / 4 for q in quarters])
    found = []
    for form in ("c++", "torch"):
        with forced(form):
            found.append(cut(*arguments, (5, 4, 6), label_mode=mode, pad_label=1)[1])
    assert torch.equal(*found)


@pytest.mark.skipif(not COMPILER, reason="no C++ compiler")
def test_threads_do_not_change_results() -> None:
    image = torch.randn(1, 40, 41, 42)
    label = (image * 2).round().to(torch.int32)
    results, before = [], torch.get_num_threads()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            results.append(cut(image, label, affine_matrix((20, 5, 9), [1.1] * 3), [20, 19, 21], (33, 34, 35)))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])


@pytest.mark.parametrize("form", FORMS)
def test_volume_of_more_than_2_31_voxels_on_disk(form: str, tmp_path: Path) -> None:
    """A sparse file; only a few of its pages are ever read."""
    shape = (1, 1300, 1300, 1300)
    stored = np.memmap(tmp_path / "huge", np.uint8, "w+", shape=shape)
    stored[0, 1280:1290, 1280:1290, 1280:1290] = np.arange(1000, dtype=np.uint32).reshape(10, 10, 10) % 251
    stored.flush()
    part = torch.from_numpy(np.array(stored[:, 1280:1290, 1280:1290, 1280:1290]))
    volume = stored_tensor(np.memmap(tmp_path / "huge", np.uint8, "r", shape=shape))
    matrix = affine_matrix((20, 5, 9), [1.1] * 3)
    with forced(form):
        out, target = cut(volume, volume, matrix, [1284.5] * 3, (4, 4, 4))
        expected, classes = cut(part, part, matrix, [4.5] * 3, (4, 4, 4))
    torch.testing.assert_close(out, expected)
    assert torch.equal(target, classes)
    assert len(classes.unique()) > 20


def test_maps_that_cannot_be_written_to_are_wrapped_silently(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.arange(24, dtype=np.int16).reshape(1, 2, 3, 4))
    stored = np.load(tmp_path / "a.npy", mmap_mode="r")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tensor = stored_tensor(stored)
    address = stored.ctypes.data
    del stored  # the tensor keeps the map open
    assert tensor is not None
    assert tensor.data_ptr() == address
    assert tensor.flatten().tolist() == list(range(24))


def test_arrays_that_would_need_a_copy_are_not_wrapped() -> None:
    array = np.zeros((1, 4, 5, 6), np.float32)
    assert stored_tensor(array[:, ::2, 1:]) is not None
    assert stored_tensor(array[..., ::2]) is None
    assert stored_tensor(array[:, ::-1]) is None
    assert stored_tensor(np.asfortranarray(array)) is None
    assert stored_tensor(array.astype(">f4")) is None
    assert stored_tensor(torch.zeros(2, 3)) is not None
    assert stored_tensor(torch.zeros(2, 3).t()) is None


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"images": []}, "no images"),
        ({"images": [torch.zeros(4, 4, 4)]}, "must be"),
        ({"images": [torch.zeros(1, 4, 4, 4, dtype=torch.int64)]}, "images must be of"),
        ({"images": [torch.zeros(1, 0, 4, 4)]}, "must be"),
        ({"labels": []}, "but 0 labels"),
        ({"labels": [torch.zeros(1, 4, 4, 5, dtype=torch.uint8)]}, "labels of"),
        ({"labels": [torch.zeros(1, 4, 4, 4)]}, "labels must be of"),
        ({"pad_label": -1}, "that holds -1"),
        ({"matrices": EYE[0]}, "need matrices"),
        ({"centres": torch.zeros(1, 3)}, "float64"),
        ({"centres": torch.full((1, 3), torch.nan, dtype=torch.float64)}, "finite"),
        ({"centres": torch.full((1, 3), 1e12, dtype=torch.float64)}, "2\\^28"),
        ({"size": (4, 4)}, "3 edges"),
        ({"order": 2}, "order"),
        ({"fill": float("nan")}, "fill"),
        ({"label_mode": "cubic"}, "label_mode"),
    ],
)
def test_wrong_arguments_are_refused(change: dict, words: str) -> None:
    arguments = {
        "images": [torch.zeros(1, 4, 4, 4)],
        "labels": [torch.zeros(1, 4, 4, 4, dtype=torch.uint8)],
        "matrices": EYE,
        "centres": torch.zeros(1, 3, dtype=torch.float64),
        "size": (2, 2, 2),
    }
    with pytest.raises(ValueError, match=words):
        patch_affine(**{**arguments, **change})
