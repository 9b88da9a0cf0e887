"""Bottleneck block of ResNet, ResNeXt and SE-ResNeXt: three convolutions, a gate and a shortcut."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from monai.networks.blocks.convolutions import Convolution
from monai.networks.blocks.squeeze_and_excitation import SEBlock
from torch import nn

from monai_ext.networks.drop_path import DropPath
from monai_ext.networks.fused_batch_norm import gate_act, norm_act

EXPANSION = 4
_RELU = ("relu", {"inplace": True})


@dataclass(frozen=True)
class BlockStyle:
    """What the blocks of a network share.

    Attributes:
        dims: 1, 2 or 3.
        groups, group_width: of the 3x3 convolution, see `SeBottleneck`.
        se_ratio: output channels per hidden unit of the gate; 0: no gate.
        se_hidden: hidden units of the gate, whatever the channels; 0: by the ratio.
        fused: run `monai_ext.ops.batch_norm_act` and `se_gate`.
    """

    dims: int
    groups: int
    group_width: int
    se_ratio: int
    se_hidden: int = 0
    fused: bool = True

    def width(self, planes: int) -> int:
        """Channels of the 3x3 convolution: `floor(planes * group_width / 64) * groups` (Xie et al. 2017, type C)."""
        return planes * self.group_width // 64 * self.groups

    def hidden(self, channels: int) -> int:
        """Hidden units of a gate; 0: no gate."""
        return self.se_hidden or (max(1, channels // self.se_ratio) if self.se_ratio else 0)


class SeBottleneck(SEBlock):
    """1x1, grouped 3x3 (with the stride) and 1x1 convolution with batch norms, gate, sum with the shortcut, ReLU.

    Parameters and their names are those of `monai.networks.blocks.SEResNeXtBottleneck`; without a gate there is no
    `se_layer`, which is torchvision's bottleneck. He et al. 2016, Xie et al. 2017, Hu et al. 2018. The gate takes its
    mean by `Tensor.mean`, whose gradient on CUDA is deterministic, unlike that of adaptive pooling.

    Args:
        style: what all blocks share.
        in_channels: of the input.
        planes: a quarter of the output channels.
        stride: of the 3x3 convolution and of the shortcut, which is a 1x1 convolution with norm where shapes change.
        drop_path: chance that the branch is left out, see `DropPath`.
    """

    __constants__ = ["fused", "gated"]  # noqa: RUF012 - TorchScript's spelling; it prunes the other branch

    def __init__(
        self, style: BlockStyle, in_channels: int, planes: int, stride: int = 1, drop_path: float = 0.0
    ) -> None:
        out_channels, width, dims = planes * EXPANSION, style.width(planes), style.dims
        plain: dict[str, Any] = {"kernel_size": 1, "norm": "batch", "bias": False}
        middle: dict[str, Any] = {**plain, "kernel_size": 3, "strides": stride, "groups": style.groups}
        project = None
        if stride != 1 or in_channels != out_channels:
            project = Convolution(dims, in_channels, out_channels, strides=stride, act=None, **plain)
        super().__init__(
            dims,
            in_channels,
            width,
            width,
            out_channels,
            {**plain, "act": _RELU},
            {**middle, "act": _RELU},
            {**plain, "act": None},
            project=project,
            r=out_channels,
        )
        hidden = style.hidden(out_channels)
        self.gated = hidden > 0
        self.fused = style.fused
        if self.gated:
            # MONAI knows a ratio only, and files with a width exist
            self.se_layer.fc[0] = nn.Linear(out_channels, hidden)
            self.se_layer.fc[2] = nn.Linear(hidden, out_channels)
        else:
            self.se_layer = nn.Identity()  # type: ignore[assignment]
        self.drop_path = DropPath(drop_path)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map `[B, C, *S]` to `[B, 4 * planes, *S / stride]`."""
        if torch.jit.is_scripting():
            return self._plain(x)
        else:
            if not self.fused or torch.jit.is_tracing() or torch.onnx.is_in_onnx_export():
                return self._plain(x)
            return self._with_ops(x)

    def _plain(self, x: torch.Tensor) -> torch.Tensor:
        residual = self.project(x)
        x = self.drop_path(self.gate(self.conv3(self.conv2(self.conv1(x)))))
        return self.act(x + residual)

    def gate(self, x: torch.Tensor) -> torch.Tensor:
        """Multiply every channel of `[B, C, *S]` by a number between 0 and 1 that all channels' means decide."""
        if self.gated:
            scale = self.se_layer.fc(x.flatten(2).mean(2))
            return x * scale.reshape(list(scale.shape) + [1] * (x.dim() - 2))
        return x

    def _with_ops(self, x: torch.Tensor) -> torch.Tensor:
        first: Any = self.conv1
        second: Any = self.conv2
        third: Any = self.conv3
        residual = x
        if isinstance(self.project, Convolution):
            project: Any = self.project
            residual = norm_act(project.conv(x), project.adn.N, relu=False)
        y = norm_act(first.conv(x), first.adn.N)
        y = third.conv(norm_act(second.conv(y), second.adn.N))
        if self.training and self.drop_path.chance > 0:
            return self.act(self.drop_path(self.gate(third.adn(y))) + residual)
        if self.gated:
            return gate_act(y, third.adn.N, self.se_layer.fc, residual)
        return norm_act(y, third.adn.N, residual)
