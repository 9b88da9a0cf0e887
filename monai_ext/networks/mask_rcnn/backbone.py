"""Residual network with a feature pyramid: what the detector sees of an image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from monai_ext.networks.mask_rcnn.norm import conv_norm_act, make_norm
from monai_ext.planning.instance_plan import BLOCKS, NORMS

EXPANSION = 4
STAGES = 4


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut (He et al. 2016, left of figure 5); the first has the stride.

    Args:
        in_channels, channels: of input and output.
        stride: of the block.
        norm: see `make_norm`.
        fused: see `conv_norm_act`.
    """

    def __init__(self, in_channels: int, channels: int, stride: int, norm: str, fused: bool = True) -> None:
        super().__init__()
        self.fused = fused
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, 1, bias=False)
        self.bn1 = make_norm(norm, channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = make_norm(norm, channels)
        self.downsample = _make_shortcut(in_channels, channels, stride, norm)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = conv_norm_act(self.conv1, self.bn1, x, fused=self.fused)
        return conv_norm_act(self.conv2, self.bn2, y, _shortcut(self.downsample, x, self.fused), fused=self.fused)


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions and a shortcut (He et al. 2016, right of figure 5).

    Args:
        in_channels: of the input.
        width: of the 3x3 convolution; the output has four times as many channels.
        stride: of the block.
        norm: see `make_norm`.
        stride_in_1x1: the first convolution has the stride (Caffe), not the second (torchvision, "v1.5").
        fused: see `conv_norm_act`.
    """

    def __init__(
        self, in_channels: int, width: int, stride: int, norm: str, stride_in_1x1: bool = False, fused: bool = True
    ) -> None:
        super().__init__()
        self.fused = fused
        first, second = (stride, 1) if stride_in_1x1 else (1, stride)
        channels = EXPANSION * width
        self.conv1 = nn.Conv2d(in_channels, width, 1, first, bias=False)
        self.bn1 = make_norm(norm, width)
        self.conv2 = nn.Conv2d(width, width, 3, second, 1, bias=False)
        self.bn2 = make_norm(norm, width)
        self.conv3 = nn.Conv2d(width, channels, 1, bias=False)
        self.bn3 = make_norm(norm, channels)
        self.downsample = _make_shortcut(in_channels, channels, stride, norm)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = conv_norm_act(self.conv1, self.bn1, x, fused=self.fused)
        y = conv_norm_act(self.conv2, self.bn2, y, fused=self.fused)
        return conv_norm_act(self.conv3, self.bn3, y, _shortcut(self.downsample, x, self.fused), fused=self.fused)


class ResNetBody(nn.Module):
    """Stem and four stages of residual blocks; parameters are named as torchvision's, whatever the norm.

    Args: see `ResNetFPN`.
    """

    def __init__(
        self,
        in_channels: int,
        block: str,
        layers: Sequence[int],
        base_features: int,
        norm: str,
        stem_stride: int,
        stride_in_1x1: bool,
        fused: bool,
    ) -> None:
        super().__init__()
        self.fused = fused
        self.conv1 = nn.Conv2d(in_channels, base_features, 7, stem_stride, 3, bias=False)
        self.bn1 = make_norm(norm, base_features)
        channels, self.out_channels = base_features, list[int]()
        for stage, count in enumerate(layers):
            width, blocks = base_features * 2**stage, list[nn.Module]()
            for index in range(count):
                stride = 2 if stage > 0 and index == 0 else 1
                if block == "bottleneck":
                    blocks.append(Bottleneck(channels, width, stride, norm, stride_in_1x1, fused))
                    channels = EXPANSION * width
                else:
                    blocks.append(BasicBlock(channels, width, stride, norm, fused))
                    channels = width
            self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))
            self.out_channels.append(channels)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def stages(self) -> list[nn.Module]:
        """The four, finest first."""
        return [self.get_submodule(f"layer{stage + 1}") for stage in range(STAGES)]

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Features C2 to C5 of `[B, C, H, W]`; each stage's size is that of its predecessor halved, rounded up."""
        x = conv_norm_act(self.conv1, self.bn1, x, fused=self.fused)
        x = F.max_pool2d(x, 3, 2, 1)
        features = []
        for stage in self.stages():
            x = stage(x)
            features.append(x)
        return features


class FeaturePyramid(nn.Module):
    """Features of all levels with the same number of channels, coarse ones added to fine ones (Lin et al. 2017).

    Args:
        in_channels: of C2 to C5.
        channels: of every level.
        norm: see `make_norm`; with `none` the convolutions have biases.
        fused: see `conv_norm_act`.
    """

    def __init__(self, in_channels: Sequence[int], channels: int, norm: str = "none", fused: bool = True) -> None:
        super().__init__()
        self.fused = fused
        self.inner = nn.ModuleList(_pyramid_conv(count, channels, 1, norm) for count in in_channels)
        self.outer = nn.ModuleList(_pyramid_conv(channels, channels, 3, norm) for _ in in_channels)

    def forward(self, features: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """P2 to P6 of C2 to C5; P6 is every second cell of P5."""
        coarse: torch.Tensor | None = None
        levels = []
        for inner, outer, x in zip(reversed(self.inner), reversed(self.outer), reversed(features), strict=True):
            # to the exact size: twice the coarse one is a cell too many where the fine one is odd
            size = (x.shape[2], x.shape[3])
            above = None if coarse is None else F.interpolate(coarse, size=size, mode="nearest")
            coarse = _applied(inner, x, above, self.fused)
            levels.append(_applied(outer, coarse, None, self.fused))
        levels.reverse()
        return [*levels, F.max_pool2d(levels[-1], 1, 2)]


class ResNetFPN(nn.Module):
    """Residual network (He et al. 2016) with a feature pyramid (Lin et al. 2017).

    Args:
        in_channels: of the image.
        block: `basic` or `bottleneck`.
        layers: blocks of each of the four stages.
        base_features: of the stem and of the first stage's 3x3 convolutions; doubled per stage.
        fpn_channels: of every level of the pyramid.
        norm: `group`, `batch` or `frozen_batch`.
        stem_stride: of the first convolution, 2 or 1; the pyramid's strides are `strides`.
        stride_in_1x1: see `Bottleneck`; basic blocks have no such choice.
        freeze_at: how many of stem and stages are fixed, from 0 to 5: without gradients, and batch norms in them with
            their running statistics also in training. 2 is usual for a pretrained file.
        fpn_norm: of the pyramid; `none` gives its convolutions biases. Default: `group` with `group`, else `none`.
        fused: see `conv_norm_act`.

    Raises:
        ValueError: an argument is none of those named.
    """

    def __init__(
        self,
        in_channels: int,
        block: str = "bottleneck",
        layers: Sequence[int] = (3, 4, 6, 3),
        base_features: int = 64,
        fpn_channels: int = 256,
        norm: str = "group",
        stem_stride: int = 2,
        stride_in_1x1: bool = False,
        freeze_at: int = 0,
        fpn_norm: str | None = None,
        fused: bool = True,
    ) -> None:
        super().__init__()
        if block not in BLOCKS:
            raise ValueError(f"block {block!r} is not one of {', '.join(BLOCKS)}")
        if norm not in NORMS:
            raise ValueError(f"norm {norm!r} is not one of {', '.join(NORMS)}")
        if len(layers) != STAGES or min(layers) < 1:
            raise ValueError(f"layers must be {STAGES} numbers of at least 1, got {list(layers)}")
        if stem_stride not in (1, 2):
            raise ValueError(f"stem_stride must be 1 or 2, got {stem_stride}")
        if not 0 <= freeze_at <= STAGES + 1:
            raise ValueError(f"freeze_at must be from 0 to {STAGES + 1}, got {freeze_at}")
        if fpn_norm is None:
            fpn_norm = "group" if norm == "group" else "none"
        self.body = ResNetBody(in_channels, block, layers, base_features, norm, stem_stride, stride_in_1x1, fused)
        self.fpn = FeaturePyramid(self.body.out_channels, fpn_channels, fpn_norm, fused)
        self.out_channels, self.freeze_at = fpn_channels, freeze_at
        self.strides = tuple(2 * stem_stride * 2**level for level in range(STAGES + 1))
        for module in self._frozen():
            module.requires_grad_(False)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Feature maps P2 to P6, `[B, fpn_channels, h, w]`, of images `[B, in_channels, H, W]` of any size.

        h of P2 to P5 is `ceil(H / stride)`, that of P6 is `ceil` of half of P5's.
        """
        return self.fpn(self.body(x))

    def train(self, mode: bool = True) -> ResNetFPN:
        super().train(mode)
        for module in self._frozen():
            module.eval()
        return self

    def _frozen(self) -> list[nn.Module]:
        parts = [nn.ModuleList([self.body.conv1, self.body.bn1]), *self.body.stages()]
        return parts[: self.freeze_at]


def _make_shortcut(in_channels: int, channels: int, stride: int, norm: str) -> nn.Sequential | None:
    if stride == 1 and in_channels == channels:
        return None
    return nn.Sequential(nn.Conv2d(in_channels, channels, 1, stride, bias=False), make_norm(norm, channels))


def _shortcut(downsample: Any, x: torch.Tensor, fused: bool) -> torch.Tensor:
    return x if downsample is None else conv_norm_act(downsample[0], downsample[1], x, relu=False, fused=fused)


def _pyramid_conv(in_channels: int, channels: int, kernel: int, norm: str) -> nn.Sequential:
    conv = nn.Conv2d(in_channels, channels, kernel, padding=kernel // 2, bias=norm == "none")
    nn.init.kaiming_uniform_(conv.weight, a=1)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    return nn.Sequential(conv, make_norm(norm, channels))


def _applied(pair: Any, x: torch.Tensor, residual: torch.Tensor | None, fused: bool) -> torch.Tensor:
    return conv_norm_act(pair[0], pair[1], x, residual, relu=False, fused=fused)
