"""Bring intensities to the scale the network was trained on, channel by channel.

The schemes and their order (before resampling, so that a mask still fits) follow nnU-Net v2 (Isensee et al. 2021).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from monai_ext.errors import InputError
from monai_ext.planning.plan import ChannelIntensity

SCHEMES = ("ct", "zscore", "zscore_masked", "rescale_to_0_1", "rgb_to_0_1", "none")

_SMALLEST = 1e-8  # divisor of a constant image


def normalize(image: np.ndarray, schemes: Sequence[str], intensity: Sequence[ChannelIntensity]) -> np.ndarray:
    """Normalise a case in place.

    | scheme | result |
    |---|---|
    | `ct` | clipped to the training set's 0.5 and 99.5 percentiles, minus its mean, divided by its std |
    | `zscore` | minus the mean, divided by the std of this channel |
    | `zscore_masked` | the same over the voxels where any channel is non-zero, holes filled; 0 elsewhere |
    | `rescale_to_0_1` | smallest value 0, largest 1 |
    | `rgb_to_0_1` | divided by 255 |
    | `none` | unchanged |

    Args:
        image: `[C, D, H, W]` float32, overwritten.
        schemes: one name per channel.
        intensity: foreground statistics per channel; only `ct` reads them.

    Returns:
        `image`.

    Raises:
        InputError: a value is NaN or infinite, or lies outside 0..255 under `rgb_to_0_1`.
    """
    if len(schemes) != len(image):
        raise InputError(
            f"image has {len(image)} channels, the plan {len(schemes)} ({', '.join(schemes)}). "
            "Cure: give the channels that the plan names, in its order"
        )
    mask = nonzero_mask(image) if "zscore_masked" in schemes else None
    for number, (channel, scheme) in enumerate(zip(image, schemes, strict=True)):
        _check_finite(channel, number)
        if scheme == "ct":
            _apply_ct(channel, intensity[number])
        elif scheme == "zscore":
            mean, std = mean_and_std(channel)
            _standardize(channel, mean, std)
        elif scheme == "zscore_masked":
            assert mask is not None
            _apply_masked(channel, mask)
        elif scheme == "rescale_to_0_1":
            low, high = float(channel.min()), float(channel.max())
            _standardize(channel, low, high - low)
        elif scheme == "rgb_to_0_1":
            _apply_rgb(channel, number)
        elif scheme != "none":
            raise ValueError(f"normalization {scheme!r} is none of {', '.join(SCHEMES)}")
    return image


def nonzero_mask(image: np.ndarray) -> np.ndarray:
    """`[D, H, W]` bool: some channel is not zero, or all around the voxel is (holes are filled)."""
    from scipy.ndimage import binary_fill_holes

    mask = np.zeros(image.shape[1:], dtype=bool)
    for channel in image:
        mask |= channel != 0
    flat = mask.squeeze()  # in a volume of one slice every hole would be open to the missing third dimension
    return np.asarray(binary_fill_holes(flat)).reshape(mask.shape) if flat.ndim else mask


def mean_and_std(values: np.ndarray) -> tuple[float, float]:
    """Mean and standard deviation, summed in float64 without a float64 copy of the image; 0 and 0 for no values."""
    if not values.size:
        return 0.0, 0.0
    mean = sum(float(slab.sum(dtype=np.float64)) for slab in _slabs(values)) / values.size
    square = sum(float(np.square(slab - mean, dtype=np.float64).sum()) for slab in _slabs(values)) / values.size
    return mean, float(np.sqrt(square))


def _slabs(array: np.ndarray) -> Iterator[np.ndarray]:
    rows = max(1, 2**20 // max(1, array[:1].size))
    for start in range(0, len(array), rows):
        yield array[start : start + rows]


def _standardize(channel: np.ndarray, shift: float, scale: float) -> None:
    channel -= np.float32(shift)
    channel /= np.float32(max(scale, _SMALLEST))


def _apply_ct(channel: np.ndarray, intensity: ChannelIntensity) -> None:
    np.clip(channel, intensity.percentile_00_5, intensity.percentile_99_5, out=channel)
    _standardize(channel, intensity.mean, intensity.std)


def _apply_masked(channel: np.ndarray, mask: np.ndarray) -> None:
    mean, std = mean_and_std(channel[mask])
    _standardize(channel, mean, std)
    channel[~mask] = 0


def _apply_rgb(channel: np.ndarray, number: int) -> None:
    low, high = float(channel.min()), float(channel.max())
    if low < 0 or high > 255:
        raise InputError(
            f"channel {number}: rgb_to_0_1 needs values in 0..255, found {low:g}..{high:g}. "
            "Cure: store 8-bit values, or name the channel other than rgb_to_0_1 in dataset.json and plan again"
        )
    channel /= np.float32(255)


def _check_finite(channel: np.ndarray, number: int) -> None:
    wrong = sum(int(slab.size - np.isfinite(slab).sum()) for slab in _slabs(channel))
    if wrong:
        raise InputError(
            f"channel {number}: {wrong} voxels are NaN or infinite. "
            "Cure: replace them, e.g. by the value of air, and save the image again"
        )
