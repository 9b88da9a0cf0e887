"""Non-maximum suppression and RoIAlign, single ops of a detector."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812

from monai_ext.benchmark.interleaved import Task
from monai_ext.benchmark.peers.work import OURS, UnavailableError, Work

MONAI, GRID_SAMPLE, TORCHVISION = "MONAI", "grid_sample", "torchvision"


def make(
    only: str = "",
    op: str = "nms",
    device: str = "cpu",
    boxes: int = 2000,
    channels: int = 256,
    size: Sequence[int] = (256, 256),
    bins: int = 7,
    gradient: bool = False,
) -> Work:
    """One call of an op on drawn boxes.

    MONAI has no RoIAlign; `grid_sample` is what one writes with torch alone: bilinear samples of all regions, then
    their means. Regions lie inside of the map, since beyond it the definitions differ.

    Args:
        only: side to build; empty builds all.
        op: `nms` (threshold 0.5) or `roi_align` (2 samples a bin and axis, stride 4).
        device: of all tensors.
        boxes: their number.
        channels, size: of the map of `roi_align`, channels last, one image.
        bins: of `roi_align` along both axes.
        gradient: of `roi_align`: the map's as well.
    """
    random = torch.Generator().manual_seed(0)
    extent = torch.tensor([size[1], size[0]], dtype=torch.float32) * 4
    sides = torch.minimum(16 + 208 * torch.rand((boxes, 2), generator=random), extent - 8)
    corner = 4 + torch.rand((boxes, 2), generator=random) * (extent - 8 - sides)
    drawn = torch.cat([corner, corner + sides], 1).to(device)
    scores = torch.rand(boxes, generator=random).to(device)
    if op == "nms":
        return _nms(only, drawn, scores)
    features = torch.randn(1, channels, *size, generator=random).to(device)
    features = features.contiguous(memory_format=torch.channels_last).requires_grad_(gradient)
    return _roi_align(only, features, torch.cat([torch.zeros_like(drawn[:, :1]), drawn], 1), bins)


def _nms(only: str, boxes: torch.Tensor, scores: torch.Tensor) -> Work:
    from monai.data.box_utils import non_max_suppression

    from monai_ext.ops.nms import nms

    work = Work(only)

    def torchvision() -> Task:
        peer = _torchvision().nms
        return Task(lambda: peer(boxes, scores, 0.5))

    work.add(OURS, lambda: Task(lambda: nms(boxes, scores, 0.5)))
    work.add(MONAI, lambda: Task(lambda: non_max_suppression(boxes, scores, 0.5)))
    work.add(TORCHVISION, torchvision)

    def note(found: Any, expected: Any) -> str:
        same = torch.equal(torch.as_tensor(found), torch.as_tensor(expected))
        return f"kept boxes {'agree' if same else 'differ: no agreement'}"

    work.notes = _compared(work, note)
    return work


def _roi_align(only: str, features: torch.Tensor, rois: torch.Tensor, bins: int) -> Work:
    from monai_ext.ops.roi_align import roi_align

    shape = (bins, bins)
    work = Work(only)

    def task(function: Callable[[], torch.Tensor]) -> Task:
        def call() -> torch.Tensor:
            y = function()
            return torch.autograd.grad(y, features, torch.ones_like(y))[0] if features.requires_grad else y

        return Task(call)

    def torchvision() -> Task:
        peer = _torchvision().roi_align
        return task(lambda: peer(features, rois, shape, 0.25, 2, True))

    work.add(OURS, lambda: task(lambda: roi_align(features, rois, shape, 0.25)))
    work.add(GRID_SAMPLE, lambda: task(lambda: _sampled(features, rois, bins)))
    work.add(TORCHVISION, torchvision)

    def note(found: torch.Tensor, expected: torch.Tensor) -> str:
        difference = float((found - expected).abs().max()) / float(expected.abs().max())
        return f"largest difference {difference:.2g} of the largest value"

    work.notes = _compared(work, note)
    return work


def _sampled(features: torch.Tensor, rois: torch.Tensor, bins: int) -> torch.Tensor:
    """RoIAlign `[R, C, bins, bins]` of one image by `grid_sample`, for regions inside of the map."""
    cells = (torch.arange(2 * bins, device=rois.device) + 0.5) / (2 * bins)
    x0, y0, x1, y1 = (rois[:, 1:] * 0.25).T[..., None]
    x = (x0 + cells * (x1 - x0)) / features.shape[3] * 2 - 1
    y = (y0 + cells * (y1 - y0)) / features.shape[2] * 2 - 1
    grid = torch.stack([x[:, None, :].expand(-1, 2 * bins, -1), y[:, :, None].expand(-1, -1, 2 * bins)], -1)
    samples = F.grid_sample(features, grid.flatten(0, 1)[None], align_corners=False)[0]
    return F.avg_pool2d(samples, 2).unflatten(1, (-1, bins)).transpose(0, 1)


def _torchvision() -> Any:
    """Its ops.

    Raises:
        UnavailableError: it cannot be imported.
    """
    try:
        import torchvision
    except Exception as error:  # one of another build fails with whatever it meets first
        raise UnavailableError(f"{type(error).__name__}: {error}. Cure: pip install torchvision") from error
    return torchvision.ops


def _compared(work: Work, note: Callable[[Any, Any], str]) -> Callable[[], dict[str, str]]:
    def notes() -> dict[str, str]:
        results = {side: task.run() for side, task in work.tasks.items()}
        return {side: note(result, results[OURS]) for side, result in results.items() if side != OURS}

    return notes
