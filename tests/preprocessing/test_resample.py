"""Golden numbers come from nnU-Net v2 (scikit-image); scipy's spline zoom is the second, independent truth."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import ndimage

from monai_ext.ops.forms import forced
from monai_ext.ops.spline_resample import (
    reference,
    resample_image,
    resample_labels,
    resample_logits,
    resample_logits_argmax,
)
from monai_ext.preprocessing.resample import needs_separate_axis

SHAPES = [
    ((12, 17, 15), (20, 11, 15)),
    ((40, 30, 35), (13, 47, 80)),
    ((1, 20, 20), (1, 31, 9)),
    ((3, 2, 1), (7, 5, 4)),
    ((70, 5, 150), (35, 5, 300)),  # more than one tile
    ((5, 5, 5), (1, 1, 1)),
]


def zoom(volume: np.ndarray, shape: tuple[int, ...], order: int) -> np.ndarray:
    factors = [new / old for new, old in zip(shape, volume.shape, strict=True)]
    return np.asarray(ndimage.zoom(volume.astype(np.float64), factors, order=order, mode="nearest", grid_mode=True))


@pytest.mark.parametrize(
    ("spacing", "new_spacing", "expected"),
    [
        ((5.0, 0.7, 0.7), (1.0, 1.0, 1.0), 0),
        ((1.0, 1.0, 1.0), (1.0, 4.0, 1.0), 1),
        ((3.0, 1.0, 1.0), (3.0, 1.0, 1.0), None),  # exactly three times is not coarse
        ((3.1, 1.0, 1.0), (1.0, 1.0, 9.0), 0),  # the present spacing decides first
        ((4.0, 4.0, 1.0), (9.0, 1.0, 1.0), None),  # two coarse axes: no, whatever the new spacing is
        ((1.0, 1.0, 1.0), (1.0, 1.0, 1.0), None),
    ],
)
def test_needs_separate_axis(spacing: tuple[float, ...], new_spacing: tuple[float, ...], expected: int | None) -> None:
    assert needs_separate_axis(spacing, new_spacing) == expected


@pytest.mark.real_data
@pytest.mark.parametrize("number", range(5))
def test_golden_numbers(data_folder: Path, number: int) -> None:
    with np.load(data_folder / "golden" / "nnunet_resampling.npz") as file:
        golden = {key.split(".", 1)[1]: file[key] for key in file.files if key.startswith(f"{number}.")}
    shape = tuple(int(n) for n in golden["new_shape"])
    separate = needs_separate_axis(golden["spacing"], golden["new_spacing"])
    # float32 sums of about 30 products of values up to 4
    image = resample_image(golden["image"], shape, separate)
    np.testing.assert_allclose(image, golden["image_order3"], atol=5e-6)
    logits = torch.from_numpy(golden["logits"])
    np.testing.assert_allclose(resample_logits(logits, shape, separate), golden["logits_order1"], atol=1e-6)
    np.testing.assert_array_equal(resample_logits_argmax(logits, shape, separate), golden["logits_order1"].argmax(0))
    np.testing.assert_array_equal(resample_labels(golden["label"][0], shape, separate), golden["label_order1"][0])


@pytest.mark.parametrize(("old", "new"), SHAPES)
def test_image_is_the_cubic_spline(old: tuple[int, ...], new: tuple[int, ...]) -> None:
    image = np.random.default_rng(0).normal(size=(2, *old)).astype(np.float32)
    result = resample_image(image, new)
    assert result.dtype == np.float32
    for channel, resampled in zip(image, result, strict=True):
        expected = zoom(channel, new, 3).clip(channel.min(), channel.max())
        np.testing.assert_allclose(resampled, expected, atol=5e-6)  # as above


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_image_with_a_coarse_axis(axis: int) -> None:
    image = np.random.default_rng(1).normal(size=(1, 9, 10, 11)).astype(np.float32)
    new = (15, 7, 20)
    result = np.moveaxis(resample_image(image, new, axis)[0], axis, 0)
    slices = np.moveaxis(image[0], axis, 0)
    plane = tuple(n for a, n in enumerate(new) if a != axis)
    nearest = np.floor((np.arange(new[axis]) + 0.5) * len(slices) / new[axis]).astype(int)
    for resampled, index in zip(result, nearest, strict=True):
        expected = zoom(slices[index], plane, 3).clip(slices[index].min(), slices[index].max())
        np.testing.assert_allclose(resampled, expected, atol=5e-6)


@pytest.mark.parametrize(("old", "new"), SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_logits_are_linear(old: tuple[int, ...], new: tuple[int, ...], dtype: torch.dtype) -> None:
    logits = torch.from_numpy(np.random.default_rng(2).normal(size=(3, *old)).astype(np.float32)).to(dtype)
    result = resample_logits(logits, new)
    assert result.dtype == torch.float32
    expected = torch.nn.functional.interpolate(logits.double()[None], size=new, mode="trilinear")[0]
    torch.testing.assert_close(result.double(), expected, atol=1e-6, rtol=0)  # products of two float32 numbers


@pytest.mark.parametrize("separate", [None, 0, 2])
@pytest.mark.parametrize(("old", "new"), SHAPES)
@pytest.mark.parametrize("sharpness", [1.0, 30.0])
def test_argmax_without_full_logits(
    old: tuple[int, ...], new: tuple[int, ...], separate: int | None, sharpness: float
) -> None:
    rng = np.random.default_rng(3)
    smooth = ndimage.gaussian_filter(rng.normal(size=(5, *old)), (0, 2, 2, 2)).astype(np.float32)
    logits = torch.from_numpy(smooth * sharpness + 20 * (np.arange(5) == 0)[:, None, None, None] * (sharpness > 1))
    full = resample_logits(logits.float(), new, separate)
    result = resample_logits_argmax(logits.float(), new, separate)
    assert result.dtype == np.uint8
    np.testing.assert_array_equal(result, full.argmax(0).numpy())


def test_argmax_of_many_classes() -> None:
    logits = torch.zeros(300, 3, 3, 3)
    logits[280, 1:] = 5
    logits[299, :, :, 2] = 9
    result = resample_logits_argmax(logits, (6, 6, 6))
    assert result.dtype == np.uint16
    np.testing.assert_array_equal(result, resample_logits(logits, (6, 6, 6)).argmax(0).numpy())


def test_argmax_survives_nan() -> None:
    logits = torch.zeros(3, 4, 4, 4)
    logits[1] = torch.nan
    assert resample_logits_argmax(logits, (5, 5, 5)).shape == (5, 5, 5)


@pytest.mark.parametrize("separate", [None, 0])
@pytest.mark.parametrize(("old", "new"), SHAPES)
@pytest.mark.parametrize("dtype", [np.uint8, np.int16])
def test_labels_go_to_the_largest_share(
    old: tuple[int, ...], new: tuple[int, ...], separate: int | None, dtype: type
) -> None:
    labels = np.random.default_rng(4).choice([0, 1, 2, 200], size=old).astype(dtype)
    result = resample_labels(labels, new, separate)
    assert result.dtype == dtype
    values = np.array([0, 1, 2, 200])
    indicators = torch.from_numpy((labels == values[:, None, None, None]).astype(np.float32))
    shares = resample_logits(indicators, new, separate).numpy()
    chosen = np.take_along_axis(shares, np.searchsorted(values, result)[None], 0)[0]
    # ties may go either way; the tie rule moves shares by 2 ** -16 voxels per axis
    assert (chosen >= shares.max(0) - 1e-4).all()
    clear = np.sort(shares, axis=0)
    clear = clear[-1] - clear[-2] > 1e-4
    np.testing.assert_array_equal(result[clear], values[shares.argmax(0)][clear])


def test_equal_shares_go_to_the_higher_coordinate() -> None:
    labels = np.array([3, 1, 1, 2], dtype=np.uint8).reshape(1, 1, 4)
    assert resample_labels(labels, (1, 1, 2)).ravel().tolist() == [1, 2]
    assert resample_labels(labels[..., ::-1].copy(), (1, 1, 2)).ravel().tolist() == [1, 3]


def test_same_shape_is_a_copy() -> None:
    image = np.arange(24, dtype=np.float32).reshape(1, 2, 3, 4)
    labels = image[0].astype(np.uint8)
    for result, source in ((resample_image(image, (2, 3, 4)), image), (resample_labels(labels, (2, 3, 4)), labels)):
        np.testing.assert_array_equal(result, source)
        assert not np.shares_memory(result, source)
    logits = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(resample_logits(logits, (3, 4, 5)), logits, atol=0, rtol=0)


def test_tiles_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    image = np.random.default_rng(5).normal(size=(1, 20, 24, 28)).astype(np.float32)
    labels = (image[0] > 0).astype(np.uint8) + (image[0] > 1)
    new = (31, 17, 40)
    with forced("torch"):
        whole = resample_image(image, new), resample_labels(labels, new)
        monkeypatch.setattr(reference, "_TILE", dict.fromkeys((1, 3), (4, 5, 7)))
        np.testing.assert_allclose(resample_image(image, new), whole[0], atol=5e-6)
        np.testing.assert_array_equal(resample_labels(labels, new), whole[1])


def test_constant_image_stays_constant() -> None:
    image = np.full((1, 6, 7, 8), 1234.5, dtype=np.float32)
    assert (resample_image(image, (9, 5, 13)) == 1234.5).all()


def test_read_only_input() -> None:
    image = np.random.default_rng(6).normal(size=(1, 6, 7, 8)).astype(np.float32)
    expected = resample_image(image, (7, 7, 7))
    image.flags.writeable = False
    np.testing.assert_array_equal(resample_image(image, (7, 7, 7)), expected)


@pytest.mark.parametrize("threads", [1, 3])
def test_threads_change_nothing(threads: int) -> None:
    rng = np.random.default_rng(7)
    image = rng.normal(size=(2, 40, 70, 70)).astype(np.float32)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        expected = resample_image(image, (66, 90, 130))
        labels = resample_logits_argmax(torch.from_numpy(image), (66, 90, 130))
        torch.set_num_threads(threads)
        np.testing.assert_array_equal(resample_image(image, (66, 90, 130)), expected)
        np.testing.assert_array_equal(resample_logits_argmax(torch.from_numpy(image), (66, 90, 130)), labels)
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
