"""What the sizes of objects say about anchors, enlargement and pyramid levels, and a proposal made of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from monai_ext.planning.anchor_proposal import (
    Coverage,
    best_overlaps,
    coverage_of,
    propose_anchors,
    propose_canonical_size,
    propose_scale,
)

__all__ = ["AnchorProposal", "AnchorReport", "anchor_report", "cluster_edges", "level_shares", "propose_anchors"]
EDGE_PERCENTILES = (1, 5, 25, 50, 75, 95, 99, 100)
ASPECT_PERCENTILES = (1, 5, 50, 95, 99)
CLUSTERS = 5
POOLED_LEVELS = 4
FIRST_LEVEL, CANONICAL_LEVEL = 2, 4


@dataclass(frozen=True)
class AnchorProposal:
    """Values of bundle keys.

    Attributes:
        scale: network pixels per image pixel.
        canonical_size: network pixels, see `InstancePlan`.
        anchor_sizes: per level, network pixels.
    """

    scale: float
    canonical_size: float
    anchor_sizes: tuple[tuple[float, ...], ...]

    def overlay(self) -> dict[str, Any]:
        """Keys of a config file."""
        return {
            "scale": self.scale,
            "canonical_size": self.canonical_size,
            "anchor_sizes": [list(sizes) for sizes in self.anchor_sizes],
        }


@dataclass(frozen=True)
class AnchorReport:
    """Sizes of objects and how anchors fit them.

    Attributes:
        objects: number.
        scale: network pixels per image pixel that the tables hold for; 0 if every image has its own.
        edges: percentiles 1, 5, 25, 50, 75, 95, 99, 100 of the square root of the boxes' areas, image pixels.
        aspects: percentiles 1, 5, 50, 95, 99 of height / width.
        clusters: centres of the edges by k-means, network pixels.
        coverage: of several choices of anchors; the proposal is the last.
        canonical_size: that the shares hold for.
        level_shares: of objects by the pyramid level that they are pooled from, P2 to P5.
        proposal: for the keys of the bundle.
    """

    objects: int
    scale: float
    edges: tuple[float, ...]
    aspects: tuple[float, ...]
    clusters: tuple[float, ...]
    coverage: tuple[Coverage, ...]
    canonical_size: float
    level_shares: tuple[float, ...]
    proposal: AnchorProposal

    def describe(self) -> str:
        """Tables for the console."""
        enlarged = f"enlarged {self.scale:g} times" if self.scale else "fitted into the network's input"
        lines = [
            f"{self.objects} objects, images {enlarged}",
            _row("percentile", EDGE_PERCENTILES, "g"),
            _row("edge (image pixels)", self.edges, ".1f"),
            _row("percentile", ASPECT_PERCENTILES, "g"),
            _row("height / width", self.aspects, ".2f"),
            f"clusters of edges (network pixels): {', '.join(f'{value:.1f}' for value in self.clusters)}",
            "pooled from: "
            + ", ".join(f"P{level} {100 * share:.1f} %" for level, share in enumerate(self.level_shares, FIRST_LEVEL))
            + f" (canonical_size {self.canonical_size:g})",
            f"{'best anchor of each object: IoU':44}{'>= 0.7':>8}{'>= 0.5':>8}{'< 0.3':>8}{'mean':>8}",
        ]
        for row in self.coverage:
            shares = "".join(f"{100 * share:6.1f} %" for share in (row.high, row.half, row.missed))
            lines.append(f"{row.name:44}{shares}{row.mean:8.2f}")
        sizes = ",".join(f"[{','.join(f'{size:g}' for size in level)}]" for level in self.proposal.anchor_sizes)
        scale = f" --scale {self.proposal.scale:g}" if self.scale else ""
        lines.append(f'proposal:{scale} --canonical_size {self.proposal.canonical_size:g} --anchor_sizes "[{sizes}]"')
        return "\n".join(lines)


def anchor_report(
    boxes: np.ndarray,
    strides: Sequence[int],
    image_sizes: np.ndarray | None = None,
    scale: float = 0.0,
    factors: np.ndarray | None = None,
    sizes: Sequence[Sequence[float]] = (),
    aspect_ratios: Sequence[float] = (0.5, 1.0, 2.0),
    canonical_size: float = 0.0,
    offset: float = 0.0,
    round_anchors: bool = False,
) -> AnchorReport:
    """Tables of a dataset's objects, and a proposal.

    Args:
        boxes: `[G, 4]` (x0, y0, x1, y1) in image pixels.
        strides: network pixels per cell of each level.
        image_sizes: `[G, 2]` (height, width) of the image of each object, image pixels; None for grids without end.
        scale: network pixels per image pixel; 0 takes the proposed one.
        factors: `[G]` the same for each object, where images are fitted into the network's input; `scale` is then
            neither used nor proposed.
        sizes: anchors per level to be compared; empty for none.
        aspect_ratios, offset, round_anchors: see `InstancePlan`.
        canonical_size: see `InstancePlan`; 0 takes the proposed one.

    Raises:
        ValueError: there is no object, or the arguments do not fit each other.
    """
    boxes = np.asarray(boxes, dtype=np.float64)
    if boxes.ndim != 2 or boxes.shape[1] != 4 or not len(boxes):
        raise ValueError(f"boxes must be [G, 4] of at least one object, got {boxes.shape}")
    sides = boxes[:, 2:] - boxes[:, :2]
    if not (sides > 0).all():
        raise ValueError(f"{int((~(sides > 0)).any(axis=1).sum())} boxes have no area")
    edges, aspects = np.sqrt(sides.prod(axis=1)), sides[:, 1] / sides[:, 0]
    proposed_scale = propose_scale(edges, strides[0])
    used = scale or proposed_scale
    factor = np.full(len(boxes), used) if factors is None else np.asarray(factors, dtype=np.float64)
    network, scaled = boxes * factor[:, None], edges * factor
    grids = None if image_sizes is None else np.maximum(1, np.rint(np.asarray(image_sizes) * factor[:, None]))
    proposal = AnchorProposal(
        scale=used,
        canonical_size=canonical_size or propose_canonical_size(scaled, strides[0]),
        anchor_sizes=propose_anchors(network, strides, grids, aspect_ratios, offset, round_anchors),
    )
    choices = [(f"{', '.join(f'{8 * s:g}' for s in strides)} (8 cells, as for COCO)", [[8.0 * s] for s in strides])]
    if sizes:
        choices.append((_sizes_name(sizes), [list(level) for level in sizes]))
    choices.append((f"proposal {_sizes_name(proposal.anchor_sizes)}", [list(s) for s in proposal.anchor_sizes]))
    rows = [
        coverage_of(best_overlaps(network, level_sizes, strides, grids, aspect_ratios, offset, round_anchors), name)
        for name, level_sizes in choices
    ]
    return AnchorReport(
        objects=len(boxes),
        scale=0.0 if factors is not None else used,
        edges=tuple(float(value) for value in np.percentile(edges, EDGE_PERCENTILES)),
        aspects=tuple(float(value) for value in np.percentile(aspects, ASPECT_PERCENTILES)),
        clusters=cluster_edges(scaled),
        coverage=tuple(rows),
        canonical_size=proposal.canonical_size,
        level_shares=level_shares(scaled, proposal.canonical_size),
        proposal=proposal,
    )


def cluster_edges(edges: np.ndarray, clusters: int = CLUSTERS) -> tuple[float, ...]:
    """Centres, ascending, by k-means (Lloyd's iteration from quantiles; at most as many as there are values)."""
    values = np.sort(np.asarray(edges, dtype=np.float64))
    centres = np.unique(np.quantile(values, (np.arange(clusters) + 0.5) / clusters))
    sums = np.concatenate([[0.0], np.cumsum(values)])
    for _ in range(200):
        bounds = np.concatenate([[0], np.searchsorted(values, (centres[1:] + centres[:-1]) / 2), [len(values)]])
        held = bounds[1:] > bounds[:-1]
        ends, starts = bounds[1:][held], bounds[:-1][held]
        moved = (sums[ends] - sums[starts]) / (ends - starts)
        if len(moved) == len(centres) and np.allclose(moved, centres, rtol=1e-9):
            break
        centres = moved
    return tuple(centres.tolist())


def level_shares(edges: np.ndarray, canonical_size: float) -> tuple[float, ...]:
    """Share of objects by the level that they are pooled from, P2 to P5.

    Args:
        edges: `[G]` network pixels.
        canonical_size: edge of a box that is pooled from P4.
    """
    import torch

    from monai_ext.ops.roi_align import region_levels

    boxes = torch.zeros(len(edges), 4)
    boxes[:, 2:] = torch.from_numpy(np.asarray(edges, dtype=np.float32))[:, None]
    levels = region_levels(boxes, POOLED_LEVELS, canonical_size, CANONICAL_LEVEL - FIRST_LEVEL)
    return tuple((torch.bincount(levels, minlength=POOLED_LEVELS) / len(edges)).tolist())


def _sizes_name(sizes: Sequence[Sequence[float]]) -> str:
    return " ".join("(" + ",".join(f"{size:g}" for size in level) + ")" for level in sizes)


def _row(title: str, values: Sequence[float], form: str) -> str:
    return f"{title:22}" + " ".join(f"{value:>8{form}}" for value in values)
