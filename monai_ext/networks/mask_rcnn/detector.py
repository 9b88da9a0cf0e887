"""Mask R-CNN: from images to losses in training, to detections otherwise."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from monai_ext.errors import InputError
from monai_ext.losses.detection_loss import box_losses, mask_loss, rpn_losses
from monai_ext.networks.mask_rcnn.anchor_targets import anchor_targets
from monai_ext.networks.mask_rcnn.anchors import AnchorGrid
from monai_ext.networks.mask_rcnn.backbone import ResNetFPN
from monai_ext.networks.mask_rcnn.box_coder import HEAD_WEIGHTS, RPN_WEIGHTS, encode
from monai_ext.networks.mask_rcnn.box_detections import DetectionLimits, box_detections
from monai_ext.networks.mask_rcnn.box_head import POOLED, BoxHead
from monai_ext.networks.mask_rcnn.mask_head import MaskHead
from monai_ext.networks.mask_rcnn.packed_detections import pack_detections
from monai_ext.networks.mask_rcnn.proposals import ProposalLimits, best_proposals
from monai_ext.networks.mask_rcnn.region_pool import RegionPool, as_rois
from monai_ext.networks.mask_rcnn.region_targets import RegionTargets, first_of_each, region_targets
from monai_ext.networks.mask_rcnn.rpn import RPNHead
from monai_ext.networks.mask_rcnn.sampler import BalancedSampler
from monai_ext.networks.mask_rcnn.structures import Detections, Targets
from monai_ext.networks.mask_rcnn.training_rules import TrainingRules
from monai_ext.ops.mask_targets import mask_targets
from monai_ext.planning.instance_plan import InstancePlan


class MaskRCNN(nn.Module):
    """Detector of objects and their outlines (He et al. 2017) on a feature pyramid (Lin et al. 2017).

    Under autocast, convolutions and products of matrices are in half precision; coding of boxes, suppression, losses
    and the sums of RoIAlign stay in float32. What is drawn of an image is a function of `Targets.draw`; without it,
    random choices are those of torch's generator of the device.

    Args:
        backbone: images `[B, C, H, W]` to maps of P2 to P6.
        rpn, box_head, mask_head: see there.
        anchors: of the levels.
        pool: for the regions.
        mask_size: pixels of a mask along each axis, even.
        rules: of a training step.
        proposals: kept in inference.
        detections: kept in inference.

    Attributes:
        channels_last: layout that images are brought to; RoIAlign and the 1x1 convolutions read the channels of a
            pixel side by side, so it is the faster one.
        mean_count: takes numbers of regions and masks, float32 `[2]`, to their mean over all processes that train
            together, so that losses are divided by what one process with all images would divide by; None alone.
    """

    channels_last = True
    mean_count: Callable[[torch.Tensor], torch.Tensor] | None = None

    def __init__(
        self,
        backbone: nn.Module,
        rpn: RPNHead,
        box_head: BoxHead,
        mask_head: MaskHead,
        anchors: AnchorGrid,
        pool: RegionPool,
        mask_size: int = 28,
        rules: TrainingRules | None = None,
        proposals: ProposalLimits | None = None,
        detections: DetectionLimits | None = None,
    ) -> None:
        super().__init__()
        self.backbone, self.rpn, self.box_head, self.mask_head = backbone, rpn, box_head, mask_head
        self.anchors, self.pool, self.mask_size = anchors, pool, mask_size
        self.rules = rules or TrainingRules()
        self.proposals = proposals or ProposalLimits(pre_nms=1000, post_nms=1000)
        self.detections = detections or DetectionLimits()
        self._anchor_sampler = BalancedSampler(self.rules.rpn_batch, self.rules.rpn_positive)
        self._region_sampler = BalancedSampler(self.rules.roi_batch, self.rules.roi_positive)

    @property
    def num_classes(self) -> int:
        """Without background."""
        return self.box_head.num_classes

    def forward(
        self,
        images: torch.Tensor,
        image_sizes: torch.Tensor | None = None,
        targets: Sequence[Targets] | None = None,
    ) -> Any:
        """Losses where targets are given, else detections.

        Args:
            images: `[B, C, H, W]` normalised, padded to a common size with zeros right and below.
            image_sizes: `[B, 2]` int64, height and width before padding; None: nothing is padding. Kept on the
                processor, reading them does not wait for a device.
            targets: of every image, boxes within it.

        Returns:
            the losses `rpn_class`, `rpn_box`, `roi_class`, `roi_box` and `mask` by name, 0-dimensional float32, also
            where no image holds an object; or detections `[B, 6 + M * M, D]`, see `pack_detections`.

        Raises:
            ValueError: numbers of images, sizes and targets differ, or shapes do not fit.
        """
        if targets is None:
            return pack_detections(self.detect(images, image_sizes), self.mask_size)
        sizes = _sizes(images, image_sizes)
        if len(targets) != len(sizes):
            raise ValueError(f"{len(sizes)} images need as many targets, got {len(targets)}")
        for target in targets:
            if target.label_map.shape != images.shape[2:]:
                raise ValueError(f"label map {tuple(target.label_map.shape)} for images {tuple(images.shape)}")
        features = self._features(images)
        with torch.no_grad():
            proposals = self._proposals(features, sizes, self.rules.proposals, fixed=True)
        regions = region_targets(proposals, targets, self._region_sampler, self.rules.roi_threshold)
        region_count, mask_count = self._counts_of_all(regions, len(targets))
        losses = {}
        losses["rpn_class"], losses["rpn_box"] = self._rpn_losses(features, targets)
        losses["roi_class"], losses["roi_box"] = self._box_losses(features, regions, region_count)
        losses["mask"] = self._mask_loss(features, regions, targets, mask_count)
        return losses

    @torch.no_grad()
    def detect(self, images: torch.Tensor, image_sizes: torch.Tensor | None = None) -> list[Detections]:
        """Objects of every image, in pixels of the images, by descending score.

        Args:
            images, image_sizes: as in `forward`.

        Raises:
            ValueError: as `forward`.
        """
        sizes = _sizes(images, image_sizes)
        features = self._features(images)
        proposals = self._proposals(features, sizes, self.proposals)
        counts = [one.shape[0] for one in proposals]
        logits, deltas = self.box_head(self.pool(features, as_rois(proposals), POOLED))
        found = [
            box_detections(scores, moved, boxes, size, self.detections)
            for scores, moved, boxes, size in zip(
                logits.split(counts), deltas.split(counts), proposals, sizes, strict=True
            )
        ]
        masks = self._masks(features, [boxes for boxes, _, _ in found], torch.cat([labels for _, _, labels in found]))
        return [
            Detections(*one, of_image)
            for one, of_image in zip(found, masks.split([one[1].shape[0] for one in found]), strict=True)
        ]

    def _features(self, images: torch.Tensor) -> list[torch.Tensor]:
        layout = torch.channels_last if self.channels_last else torch.contiguous_format
        return self.backbone(images.contiguous(memory_format=layout))

    def _anchors(self, features: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        return self.anchors([(level.shape[2], level.shape[3]) for level in features], features[0].device)

    def _proposals(
        self,
        features: Sequence[torch.Tensor],
        sizes: Sequence[tuple[int, int]],
        limits: ProposalLimits,
        fixed: bool = False,
    ) -> list[torch.Tensor]:
        logits, deltas = self.rpn(features)
        return best_proposals(logits, deltas, self._anchors(features), sizes, limits, fixed)

    def _rpn_losses(
        self, features: Sequence[torch.Tensor], targets: Sequence[Targets]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        anchors, rules = torch.cat(self._anchors(features)), self.rules
        drawn = anchor_targets(anchors, targets, self._anchor_sampler, rules.rpn_high, rules.rpn_low)
        images = torch.arange(len(targets), device=anchors.device).repeat_interleave(drawn.anchors.shape[1])
        logits, deltas = self.rpn.of_anchors(features, images, drawn.anchors.flatten())
        wanted = encode(drawn.boxes, anchors[drawn.anchors], RPN_WEIGHTS)
        normaliser = rules.rpn_batch * len(targets)
        return rpn_losses(logits, deltas, drawn.labels.flatten(), wanted.flatten(0, 1), normaliser, rules.rpn_beta)

    def _counts_of_all(
        self, regions: RegionTargets, images: int
    ) -> tuple[torch.Tensor, torch.Tensor] | tuple[None, None]:
        """Regions that count and masks, mean over the processes; None alone. The host does not wait."""
        if self.mean_count is None:
            return None, None
        masks = (regions.labels > 0).view(images, -1).sum(1)  # the same number of places was drawn from every image
        if self.rules.mask_batch:
            masks = masks.clamp_max(self.rules.mask_batch)
        # where nothing counts at all, sums of nothing are divided by something
        counts = self.mean_count(torch.stack([(regions.labels >= 0).sum(), masks.sum()]).float()).clamp_min(1e-6)
        return counts[0], counts[1]

    def _box_losses(
        self, features: Sequence[torch.Tensor], regions: RegionTargets, count: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        logits, deltas = self.box_head(self.pool(features, regions.rois, POOLED))
        # the places of sampling that stayed empty hold regions without area, whose deltas would not be finite
        is_positive = (regions.labels > 0)[:, None]
        own = torch.where(is_positive, regions.rois[:, 1:], torch.arange(4, device=is_positive.device) // 2)
        wanted = encode(torch.where(is_positive, regions.boxes, own), own, HEAD_WEIGHTS)
        return box_losses(logits, deltas, regions.labels, wanted, self.rules.box_beta, count)

    def _mask_loss(
        self,
        features: Sequence[torch.Tensor],
        regions: RegionTargets,
        targets: Sequence[Targets],
        count: torch.Tensor | None,
    ) -> torch.Tensor:
        # where the host waits for the device in a step: how many masks there are decides how much is computed
        chosen = (regions.labels > 0).nonzero()[:, 0]
        if self.rules.mask_batch:
            chosen = chosen[first_of_each(regions.rois[chosen, 0], len(targets), self.rules.mask_batch)]
        if not chosen.numel():
            # a region that counts nothing, so that all parameters have a gradient
            rois, labels = regions.rois.new_zeros((1, 5)), regions.labels.new_ones(1)
            return self.mask_head(self.pool(features, rois, self.mask_size // 2), labels).float().sum() * 0.0
        rois = regions.rois[chosen]
        logits = self.mask_head(self.pool(features, rois, self.mask_size // 2), regions.labels[chosen])
        label_maps = torch.stack([target.label_map for target in targets])
        return mask_loss(logits, mask_targets(label_maps, rois, regions.ids[chosen], self.mask_size), count)

    def _masks(
        self, features: Sequence[torch.Tensor], boxes: Sequence[torch.Tensor], labels: torch.Tensor
    ) -> torch.Tensor:
        """`[D, M, M]` float32 probabilities."""
        if not labels.numel():
            return features[0].new_zeros((0, self.mask_size, self.mask_size), dtype=torch.float32)
        return self.mask_head(self.pool(features, as_rois(boxes), self.mask_size // 2), labels).float().sigmoid()


def network_from_instance_plan(
    plan: InstancePlan,
    *,
    freeze_at: int = 0,
    rpn_batch: int = 256,
    rpn_positive: float = 0.5,
    rpn_high: float = 0.7,
    rpn_low: float = 0.3,
    train_pre_nms: int = 2000,
    train_post_nms: int = 1000,
    roi_batch: int = 512,
    roi_positive: float = 0.25,
    roi_threshold: float = 0.5,
    mask_batch: int = 0,
    rpn_beta: float = 0.0,
    box_beta: float = 0.0,
    fused: bool = True,
) -> MaskRCNN:
    """Detector of a plan, channels last.

    With group norm the pyramid and the convolutions of the heads are normalised too; with batch norms they have biases
    instead, since the number of regions changes from step to step.

    Args:
        plan: of the network.
        freeze_at: see `ResNetFPN`.
        rpn_batch, rpn_positive, rpn_high, rpn_low, roi_batch, roi_positive, roi_threshold, mask_batch: see
            `TrainingRules`.
        train_pre_nms, train_post_nms: proposals per level before, and per image after suppression in training.
        rpn_beta, box_beta: of the smooth L1 losses; 0 is L1.
        fused: whether the ops of this package normalise.

    Raises:
        InputError: the thresholds of the proposals' matching cross each other.
        ValueError: another argument is out of range.
    """
    if rpn_low > rpn_high:
        raise InputError(
            f"--rpn_low {rpn_low:g} is above --rpn_high {rpn_high:g}: an anchor would be background and object at "
            "once. Cure: 0.3 and 0.7"
        )
    norm = "group" if plan.norm == "group" else "none"
    backbone = ResNetFPN(
        plan.channels,
        plan.block,
        plan.layers,
        plan.base_features,
        plan.fpn_channels,
        plan.norm,
        plan.stem_stride,
        plan.stride_in_1x1,
        freeze_at=freeze_at,
        fpn_norm=norm,
        fused=fused,
    )
    anchors = AnchorGrid(
        plan.anchor_sizes, plan.aspect_ratios, plan.strides, plan.anchor_offset, round=plan.round_anchors
    )
    return MaskRCNN(
        backbone,
        RPNHead(plan.fpn_channels, anchors.per_cell[0]),
        BoxHead(plan.fpn_channels, plan.num_classes, plan.box_features, plan.box_head, norm, fused),
        MaskHead(plan.fpn_channels, plan.num_classes, plan.mask_features, norm, fused),
        anchors,
        RegionPool(plan.strides[:4], plan.pool_sampling, plan.pool_aligned, plan.canonical_size, plan.canonical_level),
        plan.mask_size,
        TrainingRules(
            rpn_batch,
            rpn_positive,
            rpn_high,
            rpn_low,
            ProposalLimits(train_pre_nms, train_post_nms, plan.rpn_nms),
            roi_batch,
            roi_positive,
            roi_threshold,
            mask_batch,
            rpn_beta,
            box_beta,
        ),
        ProposalLimits(plan.rpn_pre_nms, plan.rpn_post_nms, plan.rpn_nms),
        DetectionLimits(plan.score_threshold, plan.box_nms, plan.max_detections),
    ).to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def _sizes(images: torch.Tensor, image_sizes: torch.Tensor | None) -> list[tuple[int, int]]:
    """Height and width of every image."""
    if images.ndim != 4:
        raise ValueError(f"images must be [B, C, H, W], got {tuple(images.shape)}")
    count, _, height, width = images.shape
    if image_sizes is None:
        return [(height, width)] * count
    if image_sizes.shape != (count, 2):
        raise ValueError(f"image sizes must be [{count}, 2], got {tuple(image_sizes.shape)}")
    sizes = [(int(h), int(w)) for h, w in image_sizes.tolist()]
    if any(not (0 < h <= height and 0 < w <= width) for h, w in sizes):
        raise ValueError(f"image sizes must be within {height} x {width}, got {sizes}")
    return sizes
