"""What a detector learns from and what it finds, one of each per image.

Boxes are `(x0, y0, x1, y1)` in pixels of the network's input, pixel edges, half open.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import torch


class Targets(NamedTuple):
    """Objects of an image.

    Attributes:
        boxes: `[G, 4]` float32.
        labels: `[G]` int64, 1 to the number of classes.
        ids: `[G]` int32, the value of each object in the label map.
        label_map: `[H, W]` int32, padded as the images of the batch are.
        crowd: `[Z, 4]` float32, regions where objects were not told apart. Anchors and proposals of which a half or
            more lies in one are no examples of background; `[0, 4]` where there are none.
        draw: seed of the anchors and regions that are drawn from this image; None leaves them to torch's generator,
            whose numbers depend on the other images of the batch.
    """

    boxes: torch.Tensor
    labels: torch.Tensor
    ids: torch.Tensor
    label_map: torch.Tensor
    crowd: torch.Tensor
    draw: int | None = None

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Targets:
        """The same on a device."""
        move = partial(torch.Tensor.to, device=device, non_blocking=non_blocking)
        boxes, labels, ids, label_map, crowd = map(move, self[:5])
        return Targets(boxes, labels, ids, label_map, crowd, self.draw)


class Detections(NamedTuple):
    """Found objects of an image, by descending score.

    Attributes:
        boxes: `[D, 4]` float32.
        scores: `[D]` float32, 0 to 1.
        labels: `[D]` int64, 1 to the number of classes.
        masks: `[D, M, M]` float32 probabilities that the pixels of an M x M grid over the box belong to the object.
    """

    boxes: torch.Tensor
    scores: torch.Tensor
    labels: torch.Tensor
    masks: torch.Tensor

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Detections:
        """The same on a device."""
        return Detections(*(tensor.to(device, non_blocking=non_blocking) for tensor in self))
