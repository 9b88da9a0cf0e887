"""Whole images through the network, alone or as the mean of their mirror images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations
from typing import Any

import torch
from monai.inferers import SimpleInferer

from monai_ext.errors import InputError


class MirroredViews(SimpleInferer):
    """Averages class probabilities over all flips along the given axes; the result is logarithms of probabilities.

    Args:
        axes: spatial axes that are flipped, 0 is the first (y of pictures); none calls the network once.
        multi_label: probabilities by sigmoid instead of softmax.
        cpu_bfloat16: call the network in bfloat16 on a processor.
    """

    def __init__(self, axes: Sequence[int] = (), multi_label: bool = False, cpu_bfloat16: bool = False) -> None:
        super().__init__()
        self.axes = tuple(axes)
        self.multi_label = multi_label
        self.cpu_bfloat16 = cpu_bfloat16

    @property
    def views(self) -> list[tuple[int, ...]]:
        """Spatial axes that each view flips; the first flips none."""
        return [view for n in range(len(self.axes) + 1) for view in combinations(self.axes, n)]

    def __call__(self, inputs: torch.Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> torch.Tensor:
        """Map images `[B, C, *S]` to logits `[B, K]` float32.

        Raises:
            InputError: an axis is none of the images'.
        """
        views = self.views
        if any(not 0 <= axis < inputs.ndim - 2 for axis in self.axes):
            raise InputError(
                f"--flip_axes {list(self.axes)}: the images have {inputs.ndim - 2} axes, from 0 on. "
                f"Cure: {list(range(inputs.ndim - 2))} at most"
            )
        with torch.autocast("cpu", torch.bfloat16, enabled=self.cpu_bfloat16):
            outputs = [network(inputs.flip([a + 2 for a in v]) if v else inputs, *args, **kwargs) for v in views]
        logits = [output.float() for output in outputs]
        if len(logits) == 1:
            return logits[0]
        if self.multi_label:
            return torch.logit(torch.stack([x.double().sigmoid() for x in logits]).mean(0), eps=1e-12).float()
        return torch.logsumexp(torch.stack([x.log_softmax(1) for x in logits]), 0) - torch.log(
            torch.tensor(float(len(logits)), device=inputs.device)
        )
