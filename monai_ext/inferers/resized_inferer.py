"""Prediction of whole slices that are resized to the network instead of cut."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from monai.data.meta_tensor import MetaTensor
from monai.inferers import Inferer

from monai_ext.inferers.bfloat16_inferer import BFloat16Inferer
from monai_ext.planning.valid_sizes import border, valid_output_size
from monai_ext.preprocessing.slice_resize import on_canvas


class ResizedInferer(Inferer):
    """Class probabilities at the resolution of the network's output, from one call per slice.

    The slice is resized to the output and laid on a zero border, as NVIDIA's UNet Medical (2021) does; nothing is
    resized back here.

    Args:
        input_size: of the network, (y, x) in pixels.
        levels: of the network.
        cpu_bfloat16: call the network in mixed precision on a CPU.
    """

    def __init__(self, input_size: Sequence[int], levels: int = 4, cpu_bfloat16: bool = False) -> None:
        super().__init__()
        height, width = (valid_output_size(int(size), levels) for size in input_size)
        self.output_size = (height, width)
        self.margin = border(levels)
        self._call = BFloat16Inferer(cpu_bfloat16)

    def __call__(self, inputs: torch.Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> torch.Tensor:
        """Map slices `[B, C, H, W]` to probabilities `[B, K, h, w]` float32, (h, w) the output size of the network."""
        image = inputs.as_tensor() if isinstance(inputs, MetaTensor) else inputs
        canvas = on_canvas(image, self.output_size, self.margin)
        return self._call(canvas, network, *args, **kwargs).float().softmax(1)
