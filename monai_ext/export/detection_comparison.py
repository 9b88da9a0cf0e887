"""Whether an exported detector finds what the network finds: detections matched one to one."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from monai_ext.export.comparison import Comparison
from monai_ext.networks.mask_rcnn.structures import Detections

Detect = Callable[[torch.Tensor], Detections]
LEAST_OVERLAP = 0.5  # of two detections of one object


def compare_detections(expected: Detect, found: Detect, images: Sequence[torch.Tensor]) -> Comparison:
    """Run both on every image `[1, C, H, W]`.

    Detections of one label are matched by their overlap, the best pair first. `agreement` is the share of all that have
    a match. Differences are those of matched ones: of boxes in parts of the image's longer side, of scores and of
    masks; the mean is over the largest difference of each pair. One whose score or overlap is at a limit may come and
    go by rounding, which `agreement` shows.
    """
    differences: list[torch.Tensor] = []
    matched = total = 0
    for image in images:
        with torch.no_grad():
            one, other = expected(image), found(image)
        pairs = match(one, other)
        matched, total = matched + 2 * len(pairs), total + len(one.scores) + len(other.scores)
        if not len(pairs):
            continue
        first, second = pairs.unbind(1)
        boxes = (one.boxes[first] - other.boxes[second]).abs().amax(1) / max(image.shape[2:])
        masks = (one.masks[first] - other.masks[second]).abs().flatten(1).amax(1)
        scores = (one.scores[first] - other.scores[second]).abs()
        # not a number is as far as can be
        differences.append(torch.stack([boxes, masks, scores]).nan_to_num(nan=float("inf")).amax(0))
    all_of_them = torch.cat(differences) if differences else torch.zeros(1)
    agreement = matched / total if total else 1.0
    return Comparison(float(all_of_them.max()), float(all_of_them.mean()), agreement, 1.0)


def match(one: Detections, other: Detections) -> torch.Tensor:
    """Pairs `[P, 2]` int64 of detections with the same label, by falling overlap; each is in one pair at most."""
    overlap = _overlaps(one.boxes, other.boxes) * (one.labels[:, None] == other.labels[None])
    pairs = []
    first, second = (overlap > LEAST_OVERLAP).nonzero().unbind(1)
    free_first, free_second = set(first.tolist()), set(second.tolist())
    for place in torch.argsort(-overlap[first, second], stable=True).tolist():
        a, b = int(first[place]), int(second[place])
        if a in free_first and b in free_second:
            pairs.append((a, b))
            free_first.discard(a)
            free_second.discard(b)
    return torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2)


def _overlaps(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Intersection over union, `[D, E]`, of boxes `[D, 4]` and `[E, 4]`."""
    low = torch.maximum(one[:, None, :2], other[None, :, :2])
    high = torch.minimum(one[:, None, 2:], other[None, :, 2:])
    shared = (high - low).clamp_min(0).prod(2)
    area, other_area = ((boxes[:, 2:] - boxes[:, :2]).prod(1) for boxes in (one, other))
    return shared / (area[:, None] + other_area[None] - shared).clamp_min(1e-9)
