"""Random factors around 1: uniform, or below and above 1 with equal chance."""

from __future__ import annotations

import numpy as np

from monai_ext.errors import InputError

LAWS = ("uniform", "coin_flip")


def check_law(owner: str, law: str) -> str:
    """Return `law`; raise `InputError` if it is unknown."""
    if law not in LAWS:
        raise InputError(f"{owner}: law must be one of {list(LAWS)}, found {law!r}. Cure: choose one of them")
    return law


def draw_factor(random: np.random.RandomState, low: float, high: float, law: str) -> float:
    """Draw a factor from [low, high].

    `uniform` is flat. `coin_flip` chooses with equal chance between [low, 1] and [1, high], flat in each, so that
    0.7 .. 1.5 darkens as often as it brightens; a side that the range lacks is never chosen.
    """
    if law == "coin_flip" and low < 1 < high:
        low, high = (low, 1.0) if random.random_sample() < 0.5 else (1.0, high)
    return float(random.uniform(low, high))


def draw_factors(
    random: np.random.RandomState, low: float, high: float, law: str, channels: int, per_channel: bool
) -> list[float]:
    """Draw one factor per channel, or the same one for all; a list of length `channels`."""
    if per_channel:
        return [draw_factor(random, low, high, law) for _ in range(channels)]
    return [draw_factor(random, low, high, law)] * channels
