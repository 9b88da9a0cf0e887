"""One seed per sample, so that what happens to sample `index` depends on (seed, index) and on nothing else."""

from __future__ import annotations

from monai.transforms import Compose

_WORD = (1 << 64) - 1


def _mix(word: int) -> int:
    """One step of splitmix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014)."""
    word = (word + 0x9E3779B97F4A7C15) & _WORD
    word = ((word ^ (word >> 30)) * 0xBF58476D1CE4E5B9) & _WORD
    word = ((word ^ (word >> 27)) * 0x94D049BB133111EB) & _WORD
    return word ^ (word >> 31)


def sample_seed(seed: int, index: int) -> int:
    """Derive the seed of one sample.

    Args:
        seed: seed of the run, any integer (taken modulo 2^64).
        index: number of the sample counted over the whole run, e.g. `epoch * samples_per_epoch + i`.

    Returns:
        Integer in [0, 2^32), the range that numpy's `RandomState` takes. Neighbouring seeds and indices give unrelated
        values; the same pair always gives the same value.
    """
    return _mix(_mix(seed & _WORD) ^ (index & _WORD)) >> 32


def seed_transforms(compose: Compose, seed: int, index: int) -> Compose:
    """Set every random transform of `compose` to the state of sample `index`; call it before each sample."""
    compose.set_random_state(seed=sample_seed(seed, index))
    return compose
