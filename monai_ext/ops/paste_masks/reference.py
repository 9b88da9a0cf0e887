"""Plain torch, on any device: the pixels of many windows in one row. Positions are float64 always."""

from __future__ import annotations

import torch

CHUNK = 2**17  # pixels of windows that are computed at once
Window = tuple[int, int, int, int]


def paste_masks(
    probabilities: torch.Tensor, boxes: torch.Tensor, height: int, width: int, threshold: float
) -> torch.Tensor:
    """See `monai_ext.ops.paste_masks.paste_masks`."""
    count, boxes = probabilities.shape[0], boxes.double()
    labels = torch.full((height * width,), count + 1, dtype=torch.int32, device=probabilities.device)
    bounds = windows(boxes, height, width)
    areas = (bounds[:, 1] - bounds[:, 0]) * (bounds[:, 3] - bounds[:, 2])
    start, pixels = 0, 0
    for stop, area in enumerate([*areas.tolist(), CHUNK]):
        if stop > start and pixels + area > CHUNK:
            part = slice(start, stop)
            claimed, owners = _claims(probabilities[part], boxes[part], bounds[part], width, threshold)
            labels.scatter_reduce_(0, claimed, owners + (start + 1), "amin")
            start, pixels = stop, 0
        pixels += area
    return labels.masked_fill_(labels > count, 0).view(height, width)


def paste_mask(probability: torch.Tensor, box: list[float], window: Window, threshold: float) -> torch.Tensor:
    """Where a mask `[P, Q]` is at least `threshold`, in a window (top, bottom, left, right) -> `[h, w]` bool."""
    top, bottom, left, right = window
    device = probability.device
    edges = torch.tensor([box], dtype=torch.float64, device=device)
    bounds = torch.tensor([window], device=device)
    claimed, _ = _claims(probability[None], edges, bounds, right, threshold)
    painted = torch.zeros(bottom * right, dtype=torch.bool, device=device).index_fill_(0, claimed, True)
    return painted.view(bottom, right)[top:, left:].contiguous()


def windows(boxes: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """First row, stop row, first column, stop column of every box `[R, 4]` -> `[R, 4]` int64; zeros where empty."""
    boxes = boxes.double()
    x0, y0, x1, y1 = boxes.unbind(1)
    low = torch.stack([y0.floor(), x0.floor()], 1).clamp_min(0)
    high = torch.stack([y1.ceil().clamp_max(height), x1.ceil().clamp_max(width)], 1)
    valid = boxes.sum(1).isfinite() & (x1 > x0) & (y1 > y0) & (high > low).all(1)
    bounds = torch.stack([low[:, 0], high[:, 0], low[:, 1], high[:, 1]], 1)
    return torch.where(valid[:, None], bounds, 0).long()


def _claims(
    masks: torch.Tensor, boxes: torch.Tensor, bounds: torch.Tensor, width: int, threshold: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Pixels of an image `width` wide that masks `[R, P, Q]` claim, window after window, and by which, as int32."""
    masks = masks.to(torch.promote_types(masks.dtype, torch.float32))
    top, bottom, left, right = bounds.unbind(1)
    owner, y, row, down = _places(boxes[:, 1], boxes[:, 3], top, bottom, masks.shape[1])
    _, _, column, across = _places(boxes[:, 0], boxes[:, 2], left, right, masks.shape[2])
    padded = torch.nn.functional.pad(masks, (1, 1, 1, 1))
    lines, size = padded.shape[1:]
    widths = right - left
    counts = widths[owner]
    # from here on per pixel; what a line adds to the running number is looked up by line. Selecting along an axis is
    # several times faster than indexing by a tensor
    line = torch.repeat_interleave(counts)
    number = torch.arange(line.shape[0], device=masks.device)
    starts = counts.cumsum(0) - counts
    at_column = number + ((widths.cumsum(0) - widths)[owner] - starts).index_select(0, line)
    place = ((owner * lines + row) * size).index_select(0, line) + column.index_select(0, at_column)
    down, across = down.to(masks.dtype).index_select(0, line), across.to(masks.dtype).index_select(0, at_column)
    values = padded.flatten()
    # a + f (b - a): equal neighbours give their value to the last bit, whichever way a form rounds
    before, after = values.index_select(0, place), values.index_select(0, place + 1)
    before = before + down * (values.index_select(0, place + size) - before)
    after = after + down * (values.index_select(0, place + (size + 1)) - after)
    claimed = (before + across * (after - before) >= threshold).nonzero()[:, 0]
    line = line.index_select(0, claimed)
    return claimed + (y * width + left[owner] - starts).index_select(0, line), owner.int().index_select(0, line)


def _places(
    low: torch.Tensor, high: torch.Tensor, first: torch.Tensor, stop: torch.Tensor, cells: int
) -> tuple[torch.Tensor, ...]:
    """Along one axis, for the pixels of all windows in one row: window, pixel, index of the cell before its centre in
    a mask padded by one cell, and the fraction of the way to the next."""
    sizes = stop - first
    owner = torch.repeat_interleave(sizes)
    pixel = torch.arange(owner.shape[0], device=low.device) + (first - (sizes.cumsum(0) - sizes))[owner]
    place = ((pixel.to(low.dtype) + 0.5 - low[owner]) / (high - low)[owner] * cells - 0.5).clamp(-1, cells)
    before = place.floor().clamp_max(cells - 1)
    return owner, pixel, before.long() + 1, place - before
