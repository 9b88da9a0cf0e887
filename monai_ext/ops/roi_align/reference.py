"""Plain torch: every bin is a weighted sum of rows of the map seen as a matrix, forward and (transposed) backward."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F  # noqa: N812

MOST_SAMPLES = 1024  # along an axis of a bin, where their number is adaptive
_ENTRIES = 1 << 22  # of the sparse matrix that are in memory at a time


def forward(
    features: Sequence[torch.Tensor],
    rois: torch.Tensor,
    levels: torch.Tensor,
    rows: int,
    columns: int,
    scales: Sequence[float],
    sampling: int,
    aligned: bool,
) -> torch.Tensor:
    """See `monai_ext.ops.roi_align.roi_align`: `[R, C, P, Q]`, channels last in memory."""
    first = features[0]
    kind = _kind(first)
    batch, channels = first.shape[:2]
    y = first.new_zeros((rois.shape[0], rows * columns, channels), dtype=kind)
    for level, value in enumerate(features):
        matrix = value.permute(0, 2, 3, 1).reshape(-1, channels).to(kind)
        inside = _members(rois, levels, level, batch)
        size = value.shape[2:]
        for chosen, index, weight in _pieces(rois, inside, rows, columns, size, scales[level], sampling, aligned):
            used = weight != 0  # nothing times NaN is NaN, and must not reach other bins
            counts = used.sum(1)
            offsets = counts.cumsum(0) - counts
            y[chosen] = _bags(matrix, index[used], offsets, weight[used]).view(len(chosen), rows * columns, channels)
    return y.to(first.dtype).view(-1, rows, columns, channels).permute(0, 3, 1, 2)


def backward(
    dy: torch.Tensor,
    rois: torch.Tensor,
    levels: torch.Tensor,
    batch: int,
    sizes: Sequence[tuple[int, int]],
    scales: Sequence[float],
    sampling: int,
    aligned: bool,
) -> list[torch.Tensor]:
    """Gradients `[N, C, H, W]` of the maps, channels last in memory."""
    kind = _kind(dy)
    channels, rows, columns = dy.shape[1:]
    matrix = dy.permute(0, 2, 3, 1).reshape(-1, rows * columns, channels).to(kind)
    found = []
    for level, size in enumerate(sizes):
        dx = dy.new_zeros((batch * size[0] * size[1], channels), dtype=kind)
        pixels = torch.arange(dx.shape[0], device=dy.device)
        inside = _members(rois, levels, level, batch)
        for chosen, index, weight in _pieces(rois, inside, rows, columns, size, scales[level], sampling, aligned):
            entries = (weight != 0).nonzero()
            row, entry_weight = index[entries[:, 0], entries[:, 1]], weight[entries[:, 0], entries[:, 1]]
            row, order = row.sort(stable=True)
            offsets = torch.searchsorted(row, pixels)
            dx += _bags(matrix[chosen].flatten(0, 1), entries[order, 0], offsets, entry_weight[order])
        found.append(dx.to(dy.dtype).view(batch, *size, channels).permute(0, 3, 1, 2))
    return found


def cells(
    rois: torch.Tensor, scale: float | torch.Tensor, rows: int, columns: int, sampling: int, aligned: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """First edge and width of the bins in pixels of the map, float64, and samples in a bin, int64: each `[R, 2]`, x, y.

    Float64, since float32 is 1e-5 pixels off at the far end of a map; so would the weights be.
    """
    boxes = rois[:, 1:].double() * scale - (0.5 if aligned else 0.0)
    start, extent = boxes[:, :2], boxes[:, 2:] - boxes[:, :2]
    if not aligned:
        extent = extent.clamp_min(1.0)
    bins = torch.stack([extent[:, 0] / columns, extent[:, 1] / rows], 1)
    if sampling:
        return start, bins, torch.full_like(bins, sampling, dtype=torch.int64)
    return start, bins, bins.nan_to_num(nan=0.0).ceil().clamp(0, MOST_SAMPLES).to(torch.int64)


def _kind(value: torch.Tensor) -> torch.dtype:
    return torch.float64 if value.dtype == torch.float64 else torch.float32


def _members(rois: torch.Tensor, levels: torch.Tensor, level: int, batch: int) -> torch.Tensor:
    return ((levels == level) & (rois[:, 0] >= 0) & (rois[:, 0] < batch)).nonzero()[:, 0]


def _bags(matrix: torch.Tensor, index: torch.Tensor, offsets: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Row b: sum over its entries, from offset b on, of weight times row of the matrix."""
    return F.embedding_bag(index, matrix, offsets, mode="sum", per_sample_weights=weight.to(matrix.dtype))


def _pieces(
    rois: torch.Tensor,
    members: torch.Tensor,
    rows: int,
    columns: int,
    size: Sequence[int],
    scale: float,
    sampling: int,
    aligned: bool,
) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Indices of some regions, and of each of their bins the pixels and weights `[bins, entries]`.

    Regions of a piece take the same numbers of samples. Those with none at all are left out.
    """
    start, bins, counts = cells(rois[members], scale, rows, columns, sampling, aligned)
    image = rois[members, 0].to(torch.int64)
    for nx, ny in torch.unique(counts, dim=0).tolist():
        if nx == 0 or ny == 0:
            continue
        alike = ((counts[:, 0] == nx) & (counts[:, 1] == ny)).nonzero()[:, 0]
        for part in alike.split(max(1, _ENTRIES // (4 * rows * columns * nx * ny))):
            x, wx = _taps(start[part, 0], bins[part, 0], columns, nx, size[1])
            y, wy = _taps(start[part, 1], bins[part, 1], rows, ny, size[0])
            y = y + (image[part] * size[0])[:, None, None]
            index = y[:, :, None, :, None] * size[1] + x[:, None, :, None, :]
            weight = wy[:, :, None, :, None] * wx[:, None, :, None, :]
            yield members[part], index.flatten(3).flatten(0, 2), weight.flatten(3).flatten(0, 2)


def _taps(
    start: torch.Tensor, width: torch.Tensor, bins: int, samples: int, size: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Along one axis: pixels and weights `[regions, bins, 2 * samples]` of the samples of every bin."""
    cell = (torch.arange(samples, dtype=torch.float64, device=start.device) + 0.5) / samples
    at = torch.arange(bins, dtype=torch.float64, device=start.device)[:, None] + cell
    at = start[:, None, None] + at * width[:, None, None]
    inside = (at >= -1.0) & (at <= size)
    at = torch.where(inside, at, 0.0).clamp(0.0, size - 1.0)
    low = at.floor()
    part = at - low
    index = torch.cat([low, (low + 1).clamp_max(size - 1)], -1).to(torch.int64)
    weight = torch.cat([1.0 - part, part], -1) * inside.repeat(1, 1, 2) / samples
    return index, weight
