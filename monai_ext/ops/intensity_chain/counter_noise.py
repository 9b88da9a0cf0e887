"""Normal numbers that depend on a seed and on their place only.

Philox 4x32-10 of Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011, and the
transform of Box and Muller, Annals of Mathematical Statistics 29, 1958.
"""

from __future__ import annotations

import math

import torch

GROUP = 64  # voxels made by 16 counters of 4 words
_LANES = 16
_WORD = 0xFFFFFFFF
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
ROUNDS = 10


def philox(counter: list[torch.Tensor], seed: int) -> list[torch.Tensor]:
    """Four random words for each counter.

    Args:
        counter: four tensors that broadcast, int64 with values in [0, 2^32), least significant word first.
        seed: the key, in [0, 2^64).

    Returns:
        Four tensors like the counters.
    """
    c0, c1, c2, c3 = counter
    key = [seed & _WORD, seed >> 32]
    for _ in range(ROUNDS):
        # int64 holds the product of two words modulo 2^64, which is all of it
        p0, p1 = c0 * MULTIPLIERS[0], c2 * MULTIPLIERS[1]
        c0, c1, c2, c3 = ((p1 >> 32) & _WORD) ^ c1 ^ key[0], p1 & _WORD, ((p0 >> 32) & _WORD) ^ c3 ^ key[1], p0 & _WORD
        key = [(k + step) & _WORD for k, step in zip(key, KEY_STEPS, strict=True)]
    return [c0, c1, c2, c3]


def standard_normals(
    seed: int, channels: int, voxels: int, dtype: torch.dtype, device: torch.device | str = "cpu"
) -> torch.Tensor:
    """Independent N(0, 1) numbers.

    Voxel i of channel c takes word `(i % 64) // 16` of the counter `(i // 64 * 16 + i % 16, c)`, so that sixteen lanes
    of a processor write neighbours. 24 bits of each word are used: at most 5.77 standard deviations.

    Args:
        seed: in [0, 2^64).
        channels: C.
        voxels: V of each channel.
        dtype: float32 or float64; the same numbers up to rounding.
        device: where to compute.

    Returns:
        `[C, V]`.
    """
    groups = -(-voxels // GROUP)
    number = torch.arange(groups * _LANES, device=device)
    channel = torch.arange(channels, device=device)[:, None]
    zero = torch.zeros_like(number)
    words = philox([number & _WORD, number >> 32, channel + zero, zero], seed)
    normals = []
    for a, b in (words[:2], words[2:]):
        radius = (((a >> 8) + 1).to(dtype) * 2.0**-24).log_().mul_(-2).sqrt_()
        angle = (b >> 8).to(dtype) * (2 * math.pi * 2.0**-24)
        normals += [angle.cos().mul_(radius), angle.sin_().mul_(radius)]
    in_groups = torch.stack([z.view(channels, groups, _LANES) for z in normals], 2)
    return in_groups.reshape(channels, -1)[:, :voxels]
