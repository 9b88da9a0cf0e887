"""Suppression and RoIAlign as exported detectors compute them: ONNX's own operators, or TorchScript of plain torch.

The fused ops of this package are no part of an exported file, which must run without it.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812


class OnnxSuppression(torch.autograd.Function):
    """`NonMaxSuppression` of one image; outside of an export the shapes are right and nothing is suppressed."""

    @staticmethod
    def forward(ctx: Any, boxes: torch.Tensor, scores: torch.Tensor, most: int, threshold: float) -> torch.Tensor:
        """Selected (image, group, box), `[S, 3]` int64, of boxes `[1, N, 4]` and scores `[1, G, N]` above 0."""
        return (scores > 0).nonzero()

    @staticmethod
    def symbolic(g: Any, boxes: Any, scores: Any, most: int, threshold: float) -> Any:
        """The node of the graph."""
        count = g.op("Constant", value_t=torch.tensor([most], dtype=torch.int64))
        overlap = g.op("Constant", value_t=torch.tensor([threshold], dtype=torch.float32))
        least = g.op("Constant", value_t=torch.tensor([0.0], dtype=torch.float32))
        return g.op("NonMaxSuppression", boxes, scores, count, overlap, least)


class OnnxRoiAlign(torch.autograd.Function):
    """`RoiAlign` of one map; outside of an export the shapes are right and the values zeros."""

    @staticmethod
    def forward(
        ctx: Any,
        features: torch.Tensor,
        boxes: torch.Tensor,
        size: int,
        scale: float,
        sampling: int,
        aligned: bool,
        channels: int,
    ) -> torch.Tensor:
        """Regions `[R, C, size, size]` of a map `[1, C, H, W]` and boxes `[R, 4]`."""
        return features.new_zeros((boxes.shape[0], channels, size, size))

    @staticmethod
    def symbolic(
        g: Any, features: Any, boxes: Any, size: int, scale: float, sampling: int, aligned: bool, channels: int
    ) -> Any:
        """The node of the graph."""
        zero = g.op("Constant", value_t=torch.tensor([0], dtype=torch.int64))
        count = g.op("Gather", g.op("Shape", boxes), zero, axis_i=0)
        images = g.op("ConstantOfShape", count, value_t=torch.tensor([0], dtype=torch.int64))
        found = g.op(
            "RoiAlign",
            features,
            boxes,
            images,
            mode_s="avg",
            output_height_i=size,
            output_width_i=size,
            sampling_ratio_i=sampling,
            spatial_scale_f=scale,
            coordinate_transformation_mode_s="half_pixel" if aligned else "output_half_pixel",
        )
        # heads bring their weights into the order of this shape, which is done once where it is known
        return found.setType(features.type().with_sizes([None, channels, size, size]))


def greedy_suppression(boxes: torch.Tensor, groups: torch.Tensor, threshold: float, block: int = 256) -> torch.Tensor:
    """Which boxes a better one of their group does not overlap by more than a threshold; can be scripted.

    Args:
        boxes: `[N, 4]` float32 by group, then by descending score; ones without area suppress nothing.
        groups: `[N]` int64, ascending.
        threshold: intersection over union.
        block: boxes that are compared with all others at a time.

    Returns:
        `[N]` bool.
    """
    count = boxes.shape[0]
    kept = torch.ones([count], dtype=torch.bool, device=boxes.device)
    x0, y0, x1, y1 = boxes.t().contiguous().unbind(0)
    area = (x1 - x0).clamp_min(0) * (y1 - y0).clamp_min(0)
    for first in range(0, count, block):
        stop = min(first + block, count)
        end = int((groups <= groups[stop - 1]).sum().item())  # behind the last box of the groups of this block
        width = torch.minimum(x1[first:stop, None], x1[None, first:end])
        width = (width - torch.maximum(x0[first:stop, None], x0[None, first:end])).clamp_min(0)
        height = torch.minimum(y1[first:stop, None], y1[None, first:end])
        height = (height - torch.maximum(y0[first:stop, None], y0[None, first:end])).clamp_min(0)
        shared = width * height
        over = shared > threshold * (area[first:stop, None] + area[None, first:end] - shared)
        over = over & (groups[first:stop, None] == groups[None, first:end])
        inside = over[:, : stop - first].triu(1)
        candidates = kept[first:stop].clone()
        alive = candidates
        settled = False
        while not settled:
            better = candidates & ~(inside & alive[:, None]).any(0)
            settled = torch.equal(better, alive)
            alive = better
        kept[first:stop] = alive
        kept[stop:end] = kept[stop:end] & ~over[alive][:, stop - first :].any(0)
    return kept


def sampled_regions(
    features: torch.Tensor,
    boxes: torch.Tensor,
    size: int,
    scale: float,
    sampling: int,
    aligned: bool,
    most: int = 1024,
) -> torch.Tensor:
    """RoIAlign of one map (He et al. 2017) by torch's own bilinear sampling; can be scripted.

    Args:
        features: `[1, C, H, W]` float32.
        boxes: `[R, 4]` float32 in pixels of the image.
        size: bins along each axis.
        scale: pixels of the map per pixel of the image.
        sampling: samples along each axis of a bin; 0: one per pixel of the map, rounded up.
        aligned: with the half pixel shift.
        most: samples along an axis of a bin, where their number adapts.

    Returns:
        `[R, C, size, size]`.
    """
    channels, height, width = features.shape[1], features.shape[2], features.shape[3]
    count = boxes.shape[0]
    found = features.new_zeros([count, channels, size, size])
    if count == 0:
        return found
    edges = boxes.double() * scale
    if aligned:
        edges = edges - 0.5
    start, extent = edges[:, :2], edges[:, 2:] - edges[:, :2]
    if not aligned:
        extent = extent.clamp_min(1.0)
    bins = extent / size  # x, y
    if sampling > 0:
        samples = torch.full([count, 2], sampling, dtype=torch.int64)
    else:
        samples = bins.ceil().clamp(0, most).to(torch.int64)
    numbers = samples[:, 0] * (most + 1) + samples[:, 1]
    for number in torch.unique(numbers):
        along_x, along_y = int(number) // (most + 1), int(number) % (most + 1)
        if along_x > 0 and along_y > 0:
            chosen = (numbers == number).nonzero()[:, 0]
            regions = chosen.shape[0]
            x_at = (torch.arange(size * along_x, dtype=torch.float64) + 0.5) / along_x
            y_at = (torch.arange(size * along_y, dtype=torch.float64) + 0.5) / along_y
            x = start[chosen, 0][:, None] + x_at[None] * bins[chosen, 0][:, None]
            y = start[chosen, 1][:, None] + y_at[None] * bins[chosen, 1][:, None]
            used = ((y >= -1) & (y <= height))[:, :, None] & ((x >= -1) & (x <= width))[:, None, :]
            # -1 and 1 are the centres of the outer pixels
            x = x.clamp(0, width - 1) * (2.0 / max(width - 1, 1)) - 1
            y = y.clamp(0, height - 1) * (2.0 / max(height - 1, 1)) - 1
            grid = torch.stack([x[:, None, :].expand(used.shape), y[:, :, None].expand(used.shape)], dim=-1)
            grid = grid.to(features.dtype).reshape(1, regions * size * along_y, size * along_x, 2)
            values = F.grid_sample(features, grid, mode="bilinear", padding_mode="border", align_corners=True)
            if not bool(used.all()):
                rows, columns = regions * size * along_y, size * along_x
                values = values * used.to(values.dtype).reshape(1, 1, rows, columns)
            means = F.avg_pool2d(values, [along_y, along_x])  # [1, C, R * size, size]
            found[chosen] = means.reshape(channels, regions, size, size).permute(1, 0, 2, 3)
    return found
