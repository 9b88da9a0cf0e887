"""What is special to the resampling: scipy as a second truth, ties, exclusion of classes, types, errors."""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np
import pytest
import torch
from scipy import ndimage

from monai_ext.ops.axis_weights import LABEL_UNIT, axis_weights, label_weights
from monai_ext.ops.forms import forced
from monai_ext.ops.spline_resample import (
    resample_image,
    resample_labels,
    resample_logits,
    resample_logits_argmax,
    use_logit_tiles,
)

FORMS = ["torch", "auto"]
SIZES = [
    ((12, 17, 15), (20, 11, 15)),
    ((6, 9, 150), (9, 9, 40)),  # x shrinks by more than two registers hold
    ((6, 9, 60), (9, 13, 35)),  # x shrinks, two registers
    ((5, 6, 40), (15, 18, 130)),
    ((1, 8, 1), (3, 8, 5)),
    ((7, 1, 5), (1, 4, 5)),
    ((40, 4, 5), (3, 9, 11)),
]


def _random(*size: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(params=FORMS)
def form(request: pytest.FixtureRequest):
    with forced(request.param):
        yield request.param


@pytest.mark.parametrize("order", [0, 1, 3])
@pytest.mark.parametrize(("n_in", "n_out"), [(1, 1), (1, 7), (7, 1), (5, 5), (5, 9), (90, 31), (31, 90)])
def test_weights_sum_to_one_within_the_axis(order: int, n_in: int, n_out: int) -> None:
    table = axis_weights(n_in, n_out, order)
    assert table.first.shape == (n_out,)
    np.testing.assert_allclose(table.weights.sum(1), 1, atol=1e-12)
    assert (np.diff(table.first) >= 0).all()
    assert table.first.min() >= 0
    assert table.first.max() + table.taps <= n_in


def test_weights_of_labels_are_exact_multiples() -> None:
    weights = label_weights(37, 61, 1).weights * LABEL_UNIT
    np.testing.assert_array_equal(weights, np.round(weights))


@pytest.mark.parametrize("new", [(40, 61, 50), (21, 33, 29), (30, 41, 35)])
def test_interior_is_the_cubic_spline_of_scipy(form: str, new: tuple[int, int, int]) -> None:
    volume = _random(30, 41, 35).numpy()
    found = resample_image(volume[None], new)[0]
    centres = [(np.arange(n) + 0.5) * old / n - 0.5 for n, old in zip(new, volume.shape, strict=True)]
    grid = np.meshgrid(*centres, indexing="ij")
    expected = ndimage.map_coordinates(volume.astype(np.float64), grid, order=3, mode="mirror")
    # borders differ in how they continue, which decays by 0.27 a voxel
    inner = tuple(slice(*np.searchsorted(c, [11, old - 12])) for c, old in zip(centres, volume.shape, strict=True))
    assert expected[inner].size > 100
    np.testing.assert_allclose(found[inner], expected[inner], atol=5e-6)


@pytest.mark.parametrize(("old", "new"), SIZES)
@pytest.mark.parametrize("separate", [None, 0, 1, 2])
@pytest.mark.parametrize("classes", [2, 7])
def test_labels_are_the_same_in_all_forms(
    old: tuple[int, ...], new: tuple[int, ...], separate: int | None, classes: int
) -> None:
    """To the last voxel, ties included: sums are exact."""
    labels = torch.randint(0, classes, old, generator=torch.Generator().manual_seed(1), dtype=torch.int16)
    with forced("torch"):
        expected = resample_labels(labels, new, separate)
    assert torch.equal(resample_labels(labels, new, separate), expected)


@pytest.mark.parametrize("dtype", ["i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", ">i2", "?"])
def test_labels_keep_their_type(form: str, dtype: str) -> None:
    labels = np.random.default_rng(0).integers(0, 2, (5, 6, 7)).astype(dtype)
    found = resample_labels(labels, (7, 9, 10))
    assert found.dtype == np.dtype(dtype).newbyteorder("=")
    np.testing.assert_array_equal(found.astype("u1"), resample_labels(labels.astype("u1"), (7, 9, 10)))


@pytest.mark.parametrize(("a", "b"), [(3, 7), (7, 3), (-5, 2), (2, -5)])
def test_equal_shares_go_to_the_higher_coordinate(form: str, a: int, b: int) -> None:
    def middle(*labels: list[list[int]]) -> int:
        return int(resample_labels(torch.tensor(labels, dtype=torch.int8), (1, 1, 1)))

    assert middle([[a, b], [a, b]]) == b
    assert middle([[a, a], [b, b]]) == b
    assert middle([[a], [b]]) == b
    assert middle([[a, b], [b, a]]) == a  # the corner that is high twice
    assert middle([[9, a], [b, 10]]) == 10


def test_equal_shares_go_to_the_smaller_class_where_no_coordinate_decides(form: str) -> None:
    # 4 and 6 each stand at one corner that is high once and one that is high twice
    cube = torch.tensor([[[0, 6], [4, 1]], [[2, 4], [6, 3]]], dtype=torch.uint8)
    mirrored = torch.where(cube > 3, 10 - cube, cube)
    assert resample_labels(cube, (1, 1, 1)).item() == 4
    assert resample_labels(mirrored, (1, 1, 1)).item() == 4
    signed = torch.where(cube == 6, -6, cube.to(torch.int16))
    assert resample_labels(signed, (1, 1, 1)).item() == -6


@pytest.mark.parametrize(("old", "new"), SIZES)
@pytest.mark.parametrize("separate", [None, 0, 1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_argmax_is_that_of_the_resampled_logits(
    old: tuple[int, ...], new: tuple[int, ...], separate: int | None, dtype: torch.dtype
) -> None:
    """To the last bit: leaving classes out changes nothing."""
    logits = _random(6, *old)
    logits[2, : old[0] // 2] += 6  # leads here
    logits[4] -= 5  # never wins
    logits = logits.to(dtype)
    full = resample_logits(logits, new, separate)
    np.testing.assert_array_equal(resample_logits_argmax(logits, new, separate), full.argmax(0).numpy())


def test_argmax_of_300_classes_in_uint16(form: str) -> None:
    logits = _random(300, 3, 4, 20)
    found = resample_logits_argmax(logits, (5, 9, 33))
    assert found.dtype == np.uint16
    np.testing.assert_array_equal(found, resample_logits(logits, (5, 9, 33)).argmax(0).numpy())


def test_classes_that_were_ruled_out_by_infinity_spoil_nothing() -> None:
    """C++ form: a weight of zero reads nothing."""
    if not _has_cpp():
        pytest.skip("no C++ form here")
    logits = _random(4, 6, 8, 40)
    expected = resample_logits_argmax(logits[[0, 2]], (9, 8, 70)) * 2
    logits[[1, 3]] = -torch.inf
    np.testing.assert_array_equal(resample_logits_argmax(logits, (9, 8, 70)), expected)
    assert (resample_logits(logits, (9, 8, 70))[[1, 3]] == -torch.inf).all()
    logits[1, :, :, 20] = torch.inf  # at the same x as in the output, where sizes are equal
    found = resample_logits_argmax(logits, (9, 8, 40))
    assert (found[:, :, 20] == 1).all()
    assert set(np.unique(found[:, :, :19])) == {0, 2}


def test_no_class_wins_after_a_nan() -> None:
    """C++ form: only where the NaN is read. The torch form spreads it over a tile."""
    if not _has_cpp():
        pytest.skip("no C++ form here")
    logits = torch.zeros(4, 4, 4, 40)
    logits[1], logits[3] = 1, 2
    logits[2, :, :, 30] = torch.nan
    found = resample_logits_argmax(logits, (8, 8, 80))
    assert (found[..., :58] == 3).all()
    assert (found[..., 60:62] == 1).all()
    assert (found[..., 64:] == 3).all()
    logits[0] = torch.nan
    assert (resample_logits_argmax(logits, (8, 8, 80)) == 0).all()


@pytest.mark.parametrize("separate", [None, 1])
def test_tiles_cover_the_output_once(form: str, separate: int | None) -> None:
    logits, shape = _random(2, 20, 30, 70).half(), (45, 70, 140)
    found = torch.full((2, *shape), torch.nan)
    count = torch.zeros(shape, dtype=torch.int32)

    def use(region: tuple[slice, ...], tile: torch.Tensor) -> None:
        found[(slice(None), *region)] = tile
        count[region] += 1

    use_logit_tiles(logits, shape, separate, use)
    assert (count == 1).all()
    torch.testing.assert_close(found, resample_logits(logits, shape, separate), atol=1e-6, rtol=0)


@pytest.mark.parametrize("threads", [2, 5])
def test_threads_change_nothing(threads: int) -> None:
    image, labels = _random(2, 9, 40, 33), torch.randint(0, 5, (9, 40, 33), generator=torch.Generator().manual_seed(3))

    def results() -> list[torch.Tensor]:
        shape = (1, 90, 50)
        argmax = resample_logits_argmax(image, shape, None, True)
        return [resample_image(image, shape), resample_labels(labels, shape), resample_logits(image, shape), argmax]

    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        expected = results()
        torch.set_num_threads(threads)
        assert all(torch.equal(a, b) for a, b in zip(results(), expected, strict=True))
    finally:
        torch.set_num_threads(before)


def test_arrays_and_tensors_come_back_as_they_are(form: str) -> None:
    image, shape = _random(1, 5, 6, 7), (6, 7, 8)
    array = image.numpy().copy()
    array.flags.writeable = False
    found = resample_image(array, shape)
    assert isinstance(found, np.ndarray)
    np.testing.assert_array_equal(found, resample_image(image, shape).numpy())
    for dtype in (np.float16, np.int16, ">f4"):
        assert resample_image(np.asfortranarray(array).astype(dtype), shape).dtype == np.float32
    assert resample_image(array.astype(np.float64), shape).dtype == np.float64
    logits = image.clone().requires_grad_()
    assert not resample_logits(logits, shape).requires_grad
    assert isinstance(resample_logits_argmax(logits, shape), np.ndarray)
    assert resample_logits_argmax(logits, shape, None, True).dtype == torch.uint8


def test_autocast_changes_nothing(form: str) -> None:
    logits = _random(3, 9, 9, 9)
    expected = resample_logits(logits, (13, 14, 15))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(resample_logits(logits, (13, 14, 15)), expected)


def test_results_stay_within_the_range_of_the_input(form: str) -> None:
    image = _random(1, 12, 13, 14)
    for separate in (None, 0, 1, 2):
        found = resample_image(image, (12, 30, 40), separate)
        assert found.min() >= image.min()
        assert found.max() <= image.max()


@pytest.mark.parametrize(
    ("size", "shape", "separate", "message"),
    [
        ((4, 5), (4, 5, 6), None, "three spatial axes"),
        ((4, 5, 6), (4, 5), None, "three spatial axes"),
        ((4, 0, 6), (4, 5, 6), None, "empty"),
        ((4, 5, 6), (4, 0, 6), None, "empty"),
        ((4, 5, 6), (4, 5, 7), 3, "separate_axis"),
        ((4, 5, 6), (4, 5, 7), -1, "separate_axis"),
    ],
)
def test_errors(size: tuple[int, ...], shape: tuple[int, ...], separate: int | None, message: str) -> None:
    logits = torch.zeros(2, *size)
    for function in (resample_image, resample_logits, resample_logits_argmax):
        with pytest.raises(ValueError, match=message):
            function(logits, shape, separate)
    with pytest.raises(ValueError, match=message):
        resample_labels(logits[0].to(torch.uint8), shape, separate)


def test_errors_of_types() -> None:
    with pytest.raises(ValueError, match="integers"):
        resample_labels(torch.zeros(2, 2, 2), (3, 3, 3))
    with pytest.raises(ValueError, match="floating"):
        resample_logits(torch.zeros(2, 2, 2, 2, dtype=torch.uint8), (3, 3, 3))
    with pytest.raises(ValueError, match="one class"):
        resample_logits_argmax(torch.zeros(0, 2, 2, 2), (3, 3, 3))


def _has_cpp() -> bool:
    from monai_ext.ops.forms import describe_forms

    return find_spec("monai_ext.ops.spline_resample.cpu") is not None and any(
        row.form == "c++" for row in describe_forms() if row.op == "spline_resample"
    )
