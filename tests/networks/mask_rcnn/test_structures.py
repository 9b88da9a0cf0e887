"""What goes in and out of the detector."""

from __future__ import annotations

import torch

from monai_ext.networks.mask_rcnn.structures import Detections, Targets
from small_detector import discs


def test_to_another_device() -> None:
    _, targets = discs(3)
    moved = targets.to("meta")
    assert isinstance(moved, Targets)
    *tensors, draw = moved
    assert draw is targets.draw
    assert {part.device.type for part in tensors} == {"meta"}
    assert [part.shape for part in tensors] == [part.shape for part in targets[:-1]]
    detections = Detections(torch.zeros(2, 4), torch.zeros(2), torch.ones(2, dtype=torch.int64), torch.zeros(2, 5, 5))
    assert detections.to("meta").masks.device.type == "meta"
