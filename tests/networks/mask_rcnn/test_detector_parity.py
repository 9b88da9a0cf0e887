"""Losses and gradients as another implementation computes them.

The numbers are those of torchvision 0.28.0 (`torchvision.models.detection.MaskRCNN`) with the same weights, objects and
features, where all anchors and all proposals are drawn, so that no chance is left.
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from monai_ext.networks.mask_rcnn.anchors import AnchorGrid
from monai_ext.networks.mask_rcnn.box_head import BoxHead
from monai_ext.networks.mask_rcnn.detector import MaskRCNN
from monai_ext.networks.mask_rcnn.mask_head import MaskHead
from monai_ext.networks.mask_rcnn.proposals import ProposalLimits
from monai_ext.networks.mask_rcnn.region_pool import RegionPool
from monai_ext.networks.mask_rcnn.rpn import RPNHead
from monai_ext.networks.mask_rcnn.structures import Targets
from monai_ext.networks.mask_rcnn.training_rules import TrainingRules
from small_detector import discs, set_weights

STRIDES = (4, 8, 16, 32, 64)
SIZES = tuple((4.0 * stride,) for stride in STRIDES)
ALL = 100_000
DRAWN = 2871 + 2973  # anchors of the two images that are positive or negative; the divisor of torchvision
LOSSES = {
    "rpn_class": 0.6921481,
    "rpn_box": 0.002179021,
    "roi_class": 1.410021,
    "roi_box": 0.1022672,
    "mask": 0.7069368,
}
# norms, of all losses but that of the masks
GRADIENTS = {
    "backbone.mix": 0.04585847,
    "rpn.conv.weight": 0.1631619,
    "rpn.bbox_pred.weight": 0.005600557,
    "box_head.fc1.weight": 0.8170823,
    "box_head.cls_score.bias": 0.8044251,
}


class MeanPyramid(nn.Module):
    """Eight mixtures of an image and its square, averaged over the cells of every level."""

    out_channels = 8

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Parameter(torch.zeros(8, 2, 1, 1))

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        mixed = F.conv2d(torch.cat([images, images.square() - 0.5], 1), 3 * self.mix)
        fine = [F.avg_pool2d(mixed, stride) for stride in STRIDES[:4]]
        return [*fine, F.max_pool2d(fine[-1], 1, 2)]


def network() -> MaskRCNN:
    limits = ProposalLimits(100, 150, 0.7)
    found = MaskRCNN(
        MeanPyramid(), RPNHead(8, 3), BoxHead(8, 3, 16), MaskHead(8, 3, 8), AnchorGrid(SIZES, round=True),
        RegionPool(STRIDES[:4], aligned=False, canonical_size=32.0), 28,
        TrainingRules(ALL, 1.0, proposals=limits, roi_batch=ALL, roi_positive=1.0, rpn_beta=1 / 9, box_beta=1 / 9),
    )  # fmt: skip
    set_weights(found)
    return found


def images_and_targets() -> tuple[torch.Tensor, list[Targets]]:
    pairs = [discs(count, 96, 128, seed, classes=3) for seed, count in enumerate((9, 4))]
    return torch.stack([image for image, _ in pairs]), [target for _, target in pairs]


def test_equals_torchvision() -> None:
    detector, (images, targets) = network(), images_and_targets()
    losses = detector(images, None, targets)
    for name in ("rpn_class", "rpn_box"):
        losses[name] = losses[name] * (2 * ALL / DRAWN)
    found = {name: value.item() for name, value in losses.items()}
    mask = found.pop("mask")
    assert found == pytest.approx({name: LOSSES[name] for name in found}, rel=1e-5)
    # torchvision learns the share of a pixel that is covered, He et al. whether it is a half or more
    assert mask == pytest.approx(LOSSES["mask"], rel=5e-3)
    sum(value for name, value in losses.items() if name != "mask").backward()
    norms = {name: parameter.grad.norm().item() for name, parameter in detector.named_parameters() if name in GRADIENTS}
    assert len(norms) == len(GRADIENTS)
    assert norms == pytest.approx(GRADIENTS, rel=1e-4)
