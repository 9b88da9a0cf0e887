"""Positions as integers: all forms of the op agree on them to the last bit."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

FRACTION_BITS = 32  # of a position
WEIGHT_BITS = 24  # what is kept of its fraction: exact in float32
VOTE_BITS = 20  # the same for labels: products of three are exact in int64, so that ties are, too
FARTHEST = 2**28  # voxels; sums of three steps stay far from the end of int64


def fixed_point(matrices: torch.Tensor, centres: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """Origins and steps in units of 2^-32 voxel.

    Args:
        matrices: `[B, 3, 3]` float64.
        centres: `[B, 3]` float64, in voxels.
        size: edges of the patch.

    Returns:
        `[B, 12]` int64: coordinates of the patch voxel (0, 0, 0), then coordinate i per step along patch axis j at
        `3 + 3 * i + j`. Half a unit of a weight is added to the origin, so that cutting fractions to 24 bits rounds.

    Raises:
        ValueError: a position is not finite or beyond 2^28 voxels (checked on the CPU only).
    """
    if matrices.device.type != "cpu":
        half = torch.tensor([(n - 1) / 2 for n in size], dtype=torch.float64, device=matrices.device)
        origin = centres.to(matrices.device) - (matrices * half).sum(2)
        whole = (torch.cat([origin, matrices.flatten(1)], 1) * 2.0**FRACTION_BITS).round().to(torch.int64)
        whole[:, :3] += 1 << (FRACTION_BITS - WEIGHT_BITS - 1)
        return whole
    # numpy: small arrays cost a fifth of what they cost in torch, and a plain cut takes only 50 microseconds
    turns = matrices.detach().numpy()
    half_size = np.array([(n - 1) / 2 for n in size])
    values = np.empty((len(turns), 12))
    values[:, :3] = centres.detach().numpy() - turns @ half_size
    values[:, 3:] = turns.reshape(-1, 9)
    reach = np.abs(turns) @ (2 * half_size)
    if not (np.abs(values[:, :3]) + reach < FARTHEST).all():  # NaN fails too
        raise ValueError(
            f"patch_affine: positions must be finite and within 2^28 voxels, found origins {values[:, :3]}"
        )
    whole_numbers = np.rint(values * 2.0**FRACTION_BITS).astype(np.int64)
    whole_numbers[:, :3] += 1 << (FRACTION_BITS - WEIGHT_BITS - 1)
    return torch.from_numpy(whole_numbers)
