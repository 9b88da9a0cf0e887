"""A detector as it is deployed: one normalised image in; boxes, scores, labels and masks out."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from monai_ext.export.detector_operators import OnnxRoiAlign, OnnxSuppression, greedy_suppression, sampled_regions
from monai_ext.networks.mask_rcnn.box_coder import HEAD_WEIGHTS, RPN_WEIGHTS, decode
from monai_ext.networks.mask_rcnn.box_head import POOLED
from monai_ext.networks.mask_rcnn.detector import MaskRCNN

KINDS = ("torchscript", "onnx")
OUTPUTS = ("boxes", "scores", "labels", "masks")
LARGEST = float(torch.finfo(torch.float32).max)
BELOW_ALL = -1e9  # logits are above it; ONNX's shape inference wants it within 64-bit integers


class DeployedDetector(nn.Module):
    """Mask R-CNN of one image, out of the layers of a network and operators that a file can hold; for tracing.

    The image is padded with zeros on the right and below to a multiple of `divisor`, as inference does, and boxes end
    at the image. What is found is what `MaskRCNN.detect` finds; numbers of objects and, unless `fixed`, sizes of images
    are free.

    Args:
        network: in evaluation mode, on the processor; its layers are shared.
        divisor: `size_divisor` of the plan.
        kind: `torchscript` (plain torch and TorchScript) or `onnx` (`NonMaxSuppression` and `RoiAlign`).
        fixed: the size of the traced image is that of all.
        dtype: of weights and features; of a copy, if it is not float32. Boxes and samples are float32 in any case.

    Raises:
        ValueError: unknown kind.
    """

    def __init__(
        self,
        network: MaskRCNN,
        divisor: int,
        kind: str = "torchscript",
        fixed: bool = False,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        if kind not in KINDS:
            raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}")
        if dtype != torch.float32:
            network = copy.deepcopy(network).to(dtype)
        self.dtype = dtype
        self.backbone, self.rpn = network.backbone, network.rpn
        self.box_head, self.mask_head = network.box_head, network.mask_head
        self.anchors, self.pool, self.mask_size = network.anchors, network.pool, network.mask_size
        self.proposals, self.detections = network.proposals, network.detections
        self.num_classes, self.divisor, self.kind, self.fixed = network.num_classes, divisor, kind, fixed
        self._suppress: Any = None
        self._align: Any = None
        if kind == "torchscript":
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about TorchScript's successor
                self._suppress, self._align = torch.jit.script(greedy_suppression), torch.jit.script(sampled_regions)

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Find objects.

        Args:
            image: `[1, C, H, W]` float32, normalised.

        Returns:
            boxes `[D, 4]` float32 (x0, y0, x1, y1; pixels), scores `[D]` float32 descending, labels `[D]` int64 from 1,
            masks `[D, M, M]` float32 probabilities on a grid over the box.
        """
        height, width = image.shape[2], image.shape[3]
        size = torch.stack([torch.as_tensor(n) for n in (width, height, width, height)]).float()
        padded = F.pad(image, (0, -width % self.divisor, 0, -height % self.divisor))
        features = self.backbone(padded.to(self.dtype))
        proposals = self._proposals(features, size)
        logits, deltas = self.box_head(self._pooled(features, proposals, POOLED))
        boxes, scores, labels = self._detections(logits[:-1].float(), deltas[:-1].float(), proposals, size)
        with_dummy = torch.cat([labels, labels.new_ones(1)])
        masks = self.mask_head(self._pooled(features, boxes, self.mask_size // 2), with_dummy)
        return boxes, scores, labels, masks[:-1].float().sigmoid()

    def _proposals(self, features: Sequence[torch.Tensor], size: torch.Tensor) -> torch.Tensor:
        limits, parts = self.proposals, []
        of_levels = zip(*self.rpn(features), features, strict=True)
        for level, (logits, deltas, feature) in enumerate(of_levels):
            values, moves, starts = logits[0].float(), deltas[0].float(), self._anchors(level, feature)
            count = limits.pre_nms
            if self.fixed:
                count = min(count, int(values.shape[0]))
            else:  # so that there are always enough
                values = torch.cat([values, values.new_full((count,), BELOW_ALL)])
                moves, starts = (torch.cat([one, one.new_zeros((count, 4))]) for one in (moves, starts))
            best, index = values.topk(count)
            groups = torch.full((count,), level, dtype=torch.int64)
            parts.append((best, moves[index], starts[index], groups))
        scores, moves, starts, levels = (torch.cat(one) for one in zip(*parts, strict=True))
        boxes, is_valid = _boxes_within(moves, starts, size, RPN_WEIGHTS, limits.min_size)
        kept = self._kept(boxes, scores, levels, is_valid, len(features), limits.nms, limits.post_nms)
        return boxes[kept]

    def _anchors(self, level: int, feature: torch.Tensor) -> torch.Tensor:
        """As `AnchorGrid`, of a size that is known only when the file runs."""
        grid = self.anchors
        stride, origin = grid.strides[level], grid.at_origin(level)
        y = (torch.arange(feature.shape[2], dtype=torch.float32) + grid.offset) * stride
        x = (torch.arange(feature.shape[3], dtype=torch.float32) + grid.offset) * stride
        column = (x[None, :, None, None] + origin[:, 0::2]).expand(y.shape[0], -1, -1, -1)
        row = (y[:, None, None, None] + origin[:, 1::2]).expand(-1, x.shape[0], -1, -1)
        # x0, x1 and y0, y1 to x0, y0, x1, y1
        return torch.stack([column, row], dim=-1).reshape(-1, 4)

    def _detections(
        self, logits: torch.Tensor, deltas: torch.Tensor, proposals: torch.Tensor, size: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        limits = self.detections
        probabilities = logits.softmax(1)[:, 1:]
        found = (probabilities >= limits.score).nonzero()
        region, group = found[:, 0], found[:, 1]
        scores = probabilities[region, group]
        boxes, is_valid = _boxes_within(deltas[region, group], proposals[region], size, HEAD_WEIGHTS, 0.0)
        kept = self._kept(boxes, scores, group, is_valid, self.num_classes, limits.nms, limits.count)
        return boxes[kept], scores[kept], group[kept] + 1

    def _kept(
        self,
        boxes: torch.Tensor,
        scores: torch.Tensor,
        groups: torch.Tensor,
        is_valid: torch.Tensor,
        number: int,
        threshold: float,
        most: int,
    ) -> torch.Tensor:
        """Positions of at most `most` boxes by descending score; `number` of groups, from 0 on."""
        # one more that is not valid: operators of runtimes do not like to work on nothing
        boxes = torch.cat([boxes, boxes.new_zeros((1, 4))])
        scores = torch.cat([scores, scores.new_full((1,), BELOW_ALL)])
        groups = torch.cat([groups, groups.new_zeros(1)])
        is_valid = torch.cat([is_valid & (scores[:-1].abs() <= LARGEST), is_valid.new_zeros(1)])
        if self.kind == "onnx":
            order = torch.sort(scores, descending=True)[1]
            boxes, groups, is_valid = boxes[order], groups[order], is_valid[order]
            # ranks instead of scores: larger is better, exact, and 0 is left out by the operator
            rank = torch.arange(boxes.shape[0], 0, -1, dtype=torch.float32)
            own = (groups[None] == torch.arange(number)[:, None]) & is_valid[None]
            chosen: Any = OnnxSuppression.apply(boxes[None], (rank * own.float())[None], most, threshold)
            return order[torch.sort(chosen[:, 2])[0][:most]]
        order = torch.argsort(-scores, stable=True)
        by_group = order[torch.argsort(groups[order], stable=True)]
        is_kept = torch.zeros_like(is_valid)
        is_kept[by_group] = self._suppress(boxes[by_group], groups[by_group], threshold)
        return order[(is_kept & is_valid)[order].nonzero()[:, 0][:most]]

    def _pooled(self, features: Sequence[torch.Tensor], boxes: torch.Tensor, size: int) -> torch.Tensor:
        """`[R + 1, C, size, size]` of boxes `[R, 4]`; the last one is of no box."""
        pool = self.pool
        boxes = torch.cat([boxes, boxes.new_zeros((1, 4))])
        # Lin et al. 2017, equation 1, without the logarithm
        sides = (boxes[:, 2:] - boxes[:, :2]).double().clamp_min(0)
        side = (sides[:, 0] * sides[:, 1]).sqrt() / pool.canonical_size + 1e-8
        steps = range(1, len(pool.strides))
        level = torch.stack([(side >= 2.0 ** (step + 2 - pool.canonical_level)).long() for step in steps]).sum(0)
        places, parts = [], []
        for index, stride in enumerate(pool.strides):
            place = (level == index).nonzero()[:, 0]
            wanted = (features[index].float(), boxes[place], size, 1.0 / stride, pool.sampling, pool.aligned)
            onnx = self.kind == "onnx"
            parts.append(OnnxRoiAlign.apply(*wanted, self.backbone.out_channels) if onnx else self._align(*wanted))
            places.append(place)
        place = torch.cat(places)
        inverse = torch.zeros_like(place).scatter(0, place, torch.arange(place.shape[0]))
        return torch.cat(parts)[inverse].to(self.dtype)


def _boxes_within(
    deltas: torch.Tensor, anchors: torch.Tensor, size: torch.Tensor, weights: Sequence[float], least: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """As `decode_proposals`, of an image whose size (width, height, width, height) is a tensor."""
    boxes = decode(deltas, anchors, weights)
    finite = ((boxes.abs() <= LARGEST) & (deltas.abs() <= LARGEST)).all(1)
    boxes = torch.minimum(boxes.clamp_min(0), size[None])
    boxes = torch.where(finite[:, None], boxes, torch.zeros_like(boxes))
    is_large = (boxes[:, 2] - boxes[:, 0] > least) & (boxes[:, 3] - boxes[:, 1] > least)
    return boxes, finite & is_large
