from __future__ import annotations

import numpy as np
import pytest

from monai_ext.errors import InputError
from monai_ext.planning.plan import ChannelIntensity
from monai_ext.preprocessing.intensity import mean_and_std, nonzero_mask, normalize

CT = ChannelIntensity(40.0, 20.0, 40.0, -1000.0, 900.0, percentile_00_5=0.0, percentile_99_5=90.0)


def noise(shape: tuple[int, ...] = (1, 8, 9, 10), mean: float = 100.0, std: float = 15.0) -> np.ndarray:
    return np.random.default_rng(0).normal(mean, std, shape).astype(np.float32)


def test_ct_clips_then_standardizes() -> None:
    image = np.array([-500, 0, 40, 90, 3000], dtype=np.float32).reshape(1, 1, 1, 5)
    result = normalize(image.copy(), ("ct",), (CT,))
    np.testing.assert_allclose(result.ravel(), [-2, -2, 0, 2.5, 2.5], rtol=1e-6)
    assert result.dtype == np.float32


def test_zscore_per_channel() -> None:
    image = np.concatenate([noise(mean=1e4, std=3), noise(std=1000)])
    result = normalize(image, ("zscore", "zscore"), (CT, CT))
    assert result is image
    # float32 values near 1e4 are spaced 1e-3 apart, a third of a thousandth of the std
    np.testing.assert_allclose(result.mean(axis=(1, 2, 3)), 0, atol=1e-3)
    np.testing.assert_allclose(result.std(axis=(1, 2, 3)), 1, atol=1e-3)


def test_constant_image_becomes_zero() -> None:
    for scheme in ("zscore", "rescale_to_0_1", "zscore_masked"):
        result = normalize(np.full((1, 2, 3, 4), 7, dtype=np.float32), (scheme,), (CT,))
        assert not result.any()


def test_masked_uses_the_union_of_channels_with_holes_filled() -> None:
    image = np.zeros((2, 9, 9, 9), dtype=np.float32)
    image[0, 2:7, 2:7, 2:5] = noise((5, 5, 3))
    image[1, 2:7, 2:7, 4:7] = noise((5, 5, 3))
    image[:, 4, 4, 4] = 0  # a hole, inside
    before = image.copy()
    result = normalize(image, ("zscore_masked", "zscore_masked"), (CT, CT))
    mask = np.zeros((9, 9, 9), dtype=bool)
    mask[2:7, 2:7, 2:7] = True
    assert not result[:, ~mask].any()
    for channel in (0, 1):
        inside = before[channel][mask]
        np.testing.assert_allclose(result[channel][mask], (inside - inside.mean()) / inside.std(), atol=1e-5)


def test_holes_are_filled_in_a_single_slice() -> None:
    image = np.zeros((1, 1, 5, 5), dtype=np.float32)
    image[0, 0, 1:4, 1:4] = 1
    image[0, 0, 2, 2] = 0
    assert nonzero_mask(image)[0, 2, 2]


def test_rescale_and_none() -> None:
    image = noise()
    rescaled = normalize(image.copy(), ("rescale_to_0_1",), (CT,))
    assert rescaled.min() == 0
    assert rescaled.max() == pytest.approx(1, abs=1e-6)
    np.testing.assert_array_equal(normalize(image.copy(), ("none",), (CT,)), image)


def test_rgb_checks_its_range() -> None:
    image = np.array([0, 51, 255], dtype=np.float32).reshape(1, 1, 1, 3)
    np.testing.assert_allclose(normalize(image.copy(), ("rgb_to_0_1",), (CT,)).ravel(), [0, 0.2, 1], rtol=1e-6)
    with pytest.raises(InputError, match=r"0\.\.255, found 0\.\.256.*Cure"):
        normalize(image + np.float32([0, 0, 1]), ("rgb_to_0_1",), (CT,))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite(value: float) -> None:
    image = noise()
    image[0, 3, 3, 3:5] = value
    with pytest.raises(InputError, match=r"channel 0: 2 voxels .*Cure"):
        normalize(image, ("zscore",), (CT,))


def test_number_of_channels() -> None:
    with pytest.raises(InputError, match="1 channels, the plan 2"):
        normalize(noise(), ("zscore", "ct"), (CT, CT))


def test_unknown_scheme() -> None:
    with pytest.raises(ValueError, match="histogram"):
        normalize(noise(), ("histogram",), (CT,))


def test_mean_and_std_of_a_large_offset() -> None:
    values = np.random.default_rng(1).normal(3e4, 2.0, (3, 1100, 1100)).astype(np.float32)  # several slabs
    mean, std = mean_and_std(values)
    wide = values.astype(np.float64)
    assert mean == pytest.approx(wide.mean(), rel=1e-9)
    assert std == pytest.approx(wide.std(), rel=1e-5)  # differences to the mean are float32
    assert mean_and_std(values[:0]) == (0.0, 0.0)
