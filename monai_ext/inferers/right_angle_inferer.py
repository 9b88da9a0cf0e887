"""Test-time augmentation by flips and turns of 90 degrees."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from monai.inferers import Inferer

from monai_ext.errors import InputError


class RightAngleInferer(Inferer):
    """Averages what another inferer gives for the eight views of a slice: four turns, each as it is and mirrored.

    Args:
        inferer: maps slices `[B, C, H, W]` to probabilities `[B, K, h, w]`.
        enabled: False calls it once, as it is.
    """

    def __init__(self, inferer: Inferer, enabled: bool = True) -> None:
        super().__init__()
        self.inferer = inferer
        self.enabled = enabled

    def __call__(self, inputs: torch.Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> torch.Tensor:
        """Map `[B, C, H, W]` to averaged probabilities `[B, K, h, w]`; a slice need not be square."""
        if not self.enabled:
            return self.inferer(inputs, network, *args, **kwargs)
        total = None
        for mirrored in (False, True):
            image = inputs.flip(-1) if mirrored else inputs
            for turns in range(4):
                view = torch.rot90(image, turns, (-2, -1)).contiguous()
                output = torch.rot90(self.inferer(view, network, *args, **kwargs), -turns, (-2, -1))
                output = output.flip(-1) if mirrored else output
                if total is not None and output.shape != total.shape:
                    raise InputError(
                        "--tta True: resized slices can be turned only onto a square. Cure: a square patch_size"
                    )
                total = output if total is None else total + output
        assert total is not None
        return total / 8
