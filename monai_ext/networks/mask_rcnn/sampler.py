"""Which anchors or regions of an image count in a training step."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812


class BalancedSampler:
    """Draw a fixed number, a limited part of it positive; negatives take the places that positives leave empty.

    Ren et al. 2015 (256 anchors, half of them positive at most), Girshick 2015 (512 regions, a quarter at most).
    Where negatives are short, fewer are drawn.

    Args:
        size: drawn from an image, at least 1.
        positive_fraction: largest part of `size` that may be positive, from 0 to 1.

    Raises:
        ValueError: an argument is out of range.
    """

    def __init__(self, size: int = 256, positive_fraction: float = 0.5) -> None:
        if size < 1:
            raise ValueError(f"sampler: the size must be at least 1, got {size}")
        if not 0 <= positive_fraction <= 1:
            raise ValueError(f"sampler: the positive fraction must be from 0 to 1, got {positive_fraction}")
        self.size, self.positive_fraction = int(size), float(positive_fraction)

    @property
    def most_positives(self) -> int:
        """Largest number of positives."""
        return int(self.size * self.positive_fraction)

    def batch(self, states: torch.Tensor, keys: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Draw from every row without replacement, each with the same chance; in fixed shapes, so no host waits.

        Args:
            states: `[B, A]`, 1 positive, 0 negative, anything else is never drawn.
            keys: `[B, A]` from 0 to below 1, the largest are drawn; None: of torch's generator of the device.

        Returns:
            indices `[B, S]` int64 and what was drawn `[B, S]` int8: 1 positive, 0 negative, -1 nothing. Positives come
            first in every row. S is `size`, or A where that is less.

        Raises:
            ValueError: states are not a matrix.
        """
        if states.ndim != 2:
            raise ValueError(f"sampler: states must be a matrix, got {tuple(states.shape)}")
        count = states.shape[1]
        if keys is None:
            keys = torch.rand(states.shape, device=states.device)
        ranks = torch.where(states == 0, keys, -1.0)
        best, chosen = torch.where(states == 1, keys, -1.0).topk(min(self.most_positives, count), dim=1)
        ranks.scatter_(1, chosen, torch.where(best >= 0, best + 1, ranks.gather(1, chosen)))
        ranks, indices = ranks.topk(min(self.size, count), dim=1)
        return indices, torch.where(ranks >= 1, 1, torch.where(ranks >= 0, 0, -1)).to(torch.int8)


def keys_of_images(
    draws: Sequence[int | None], counts: Sequence[int], stage: int, device: torch.device
) -> torch.Tensor | None:
    """Random keys for `BalancedSampler.batch`, those of each image a function of its own seed and its own candidates.

    So an image draws the same whatever batch, part of a batch or process it is in.

    Args:
        draws: `Targets.draw` of the images.
        counts: candidates of each image.
        stage: 0, 1, ... of what is drawn; each has other keys.
        device: of the keys.

    Returns:
        `[B, largest count]` float32, 0 beyond an image's own count; None if a seed is missing.
    """
    rows, most = [], max(counts, default=0)
    for draw, count in zip(draws, counts, strict=True):
        if draw is None:
            return None
        generator = torch.Generator(device).manual_seed((draw * 2 + stage) % 2**63)
        rows.append(F.pad(torch.rand(count, generator=generator, device=device), (0, most - count)))
    return torch.stack(rows) if rows else None
