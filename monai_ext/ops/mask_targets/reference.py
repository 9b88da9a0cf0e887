"""Plain torch, on any device, in float64: the window of each region, multiplied by its weights from both sides."""

from __future__ import annotations

import torch

LARGEST_SIDE = 2.0**20
MARGIN = 2e-5  # far above what rounding does to a mean, far below what matters in one
CHUNK = 2**18  # samples along an axis whose weights are computed at once


def mask_targets(
    label_maps: torch.Tensor, rois: torch.Tensor, ids: torch.Tensor, size: int, sampling: int
) -> torch.Tensor:
    """See `monai_ext.ops.mask_targets.mask_targets`; maps and ids int32, rois float64."""
    count, (images, height, width) = rois.shape[0], label_maps.shape
    targets = torch.zeros((count, size, size), device=rois.device)
    if count == 0 or label_maps.numel() == 0:
        return targets
    is_there = (ids > 0) & (rois[:, 0] >= 0) & (rois[:, 0] < images)
    for axis in (1, 2):
        length = rois[:, axis + 2] - rois[:, axis]
        is_there &= (length > 0) & (length <= LARGEST_SIDE)
    kept = is_there.nonzero()[:, 0]
    if kept.numel() == 0:
        return targets
    longest = float((rois[kept, 3:] - rois[kept, 1:3]).max())
    for part in kept.split(max(int(CHUNK / (sampling * size or longest + size)), 1)):
        top, rows = axis_weights(rois[part, 2], rois[part, 4], size, height, sampling)
        left, columns = axis_weights(rois[part, 1], rois[part, 3], size, width, sampling)
        high, wide = rows.shape[2], columns.shape[2]
        corners = torch.stack([rois[part, 0].long(), top, left, ids[part].long()], 1).tolist()
        for r, (image, y, x, number) in enumerate(corners):
            mask = (label_maps[image, y : y + high, x : x + wide] == number).double()
            means = rows[r, :, : mask.shape[0]] @ mask @ columns[r, :, : mask.shape[1]].T
            targets[part[r]] = (means >= 0.5 - MARGIN).float()
    return targets


def axis_weights(
    low: torch.Tensor, high: torch.Tensor, size: int, extent: int, sampling: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """What each pixel counts in the mean of each bin along one axis of regions from `low` to `high` `[r]` float64.

    Returns:
        first pixel `[r]` int64 and weights `[r, size, pixels]` float64, with zeros for pixels that a region does not
        need, also beyond the last one of the image.
    """
    bins = ((high - low) / size)[:, None, None]
    samples = torch.full_like(bins, sampling) if sampling else bins.ceil()
    each = torch.arange(int(samples.max()), dtype=low.dtype, device=low.device)
    places = torch.arange(size, dtype=low.dtype, device=low.device)[:, None] * bins
    places = low[:, None, None] - 0.5 + places + (each + 0.5) * bins / samples
    counts = ((each < samples) & (places >= -1) & (places <= extent)).to(low.dtype) / samples
    places = places.clamp(0, extent - 1)
    before = places.floor()
    first = before.amin((1, 2)).long()
    nearer = before.long() - first[:, None, None]
    # padding lies at most as far out as samples do
    weights = torch.zeros((low.shape[0], size, int(nearer.max()) + 2), dtype=low.dtype, device=low.device)
    weights.scatter_add_(2, nearer, counts * (1 - (places - before)))
    weights.scatter_add_(2, nearer + 1, counts * (places - before))
    return first, weights
