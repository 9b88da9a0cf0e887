"""Plain torch: blocks of boxes against all that follow, the order inside of a block as a fixed point."""

from __future__ import annotations

import torch

BLOCK = 256


def suppress(boxes: torch.Tensor, groups: torch.Tensor | None, threshold: float) -> torch.Tensor:
    """Which of the boxes are kept.

    Args:
        boxes: `[N, 4]` float32 or float64, by group, then by descending score.
        groups: `[N]` int64, ascending; None for one group.
        threshold: a larger intersection over union suppresses.

    Returns:
        `[N]` bool.
    """
    count = boxes.shape[0]
    kept = torch.ones(count, dtype=torch.bool, device=boxes.device)
    for first in range(0, count, BLOCK):
        stop = min(first + BLOCK, count)
        end = count if groups is None else int(torch.searchsorted(groups, groups[stop - 1], right=True))
        over = _overlap(boxes[first:stop], boxes[first:end], threshold)
        if groups is not None:
            over &= groups[first:stop, None] == groups[None, first:end]
        inside, candidates = over[:, : stop - first].triu(1), kept[first:stop]
        alive = candidates
        while True:
            # the first k are right after k rounds at the latest; in practice after a few
            better = candidates & ~(inside & alive[:, None]).any(0)
            if torch.equal(better, alive):
                break
            alive = better
        kept[first:stop] = alive
        kept[stop:end] &= ~over[alive, stop - first :].any(0)
    return kept


def _overlap(rows: torch.Tensor, columns: torch.Tensor, threshold: float) -> torch.Tensor:
    """Whether the intersection of `[R, 4]` with `[C, 4]` is above the threshold of their union, `[R, C]` bool.

    No division: where the union is empty or NaN, the answer is no.
    """
    x0, y0 = (torch.maximum(rows[:, None, i], columns[None, :, i]) for i in (0, 1))
    x1, y1 = (torch.minimum(rows[:, None, i], columns[None, :, i]) for i in (2, 3))
    width, height = x1 - x0, y1 - y0
    shared = torch.where((width > 0) & (height > 0), width * height, 0.0)
    return shared > threshold * (_area(rows)[:, None] + _area(columns)[None, :] - shared)


def _area(boxes: torch.Tensor) -> torch.Tensor:
    return (boxes[:, 2] - boxes[:, 0]).clamp_min(0) * (boxes[:, 3] - boxes[:, 1]).clamp_min(0)
