"""Random images instead of a loader, for benchmarks of the network alone."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from monai.utils.enums import CommonKeys

from monai_ext.planning.class_plan import ClassPlan


class SyntheticBatches:
    """The same random batch for ever: `image` `[B, C, *S]` uint8 and `label` int64 `[B]` (float32 `[B, K]`: several).

    Args:
        plan: sizes and classes.
        batch_size: images.
        seed: of the values.
    """

    is_synthetic = True

    def __init__(self, plan: ClassPlan, batch_size: int, seed: int = 0) -> None:
        random = torch.Generator().manual_seed(seed)
        size = (batch_size, plan.channels, *plan.image_size)
        self.image = torch.randint(0, 256, size, generator=random, dtype=torch.uint8)
        if plan.multi_label:
            self.label = torch.randint(0, 2, (batch_size, plan.num_classes), generator=random).float()
        else:
            self.label = torch.randint(0, plan.num_classes, (batch_size,), generator=random)

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        while True:
            yield {CommonKeys.IMAGE: self.image, CommonKeys.LABEL: self.label}
