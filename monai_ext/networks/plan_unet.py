"""U-Net whose levels, strides, kernels and widths come from a plan (nnU-Net topology, Isensee et al. 2021)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from monai_ext.networks.norm_act import FUSED_NORMS, NORMS, norm_act
from monai_ext.planning.plan import Plan

CONV: dict[int, Any] = {2: nn.Conv2d, 3: nn.Conv3d}
UP_INITS = ("pytorch", "kaiming")
TRANSPOSED: dict[int, Any] = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}


@dataclass(frozen=True)
class Style:
    """What all blocks of a network share.

    Attributes:
        dims: 2 or 3.
        norm: `instance`, `batch` or `group`.
        slope: of the LeakyReLU.
        keep_output: see `monai_ext.ops.instance_norm_act`.
    """

    dims: int
    norm: str
    slope: float
    keep_output: bool = False


class ConvNormAct(nn.Sequential):
    """Convolution without bias (the norm would remove it), norm with affine, LeakyReLU.

    Padding `(k - s + 1) // 2` per axis turns an edge of n voxels into n / s. A slope of 1 is no activation.
    """

    def __init__(
        self, style: Style, c_in: int, c_out: int, kernel: Sequence[int], stride: Sequence[int], slope: float
    ) -> None:
        padding = tuple((k - s + 1) // 2 for k, s in zip(kernel, stride, strict=True))
        convolution = CONV[style.dims](c_in, c_out, tuple(kernel), tuple(stride), padding, bias=False)
        super().__init__(convolution, *norm_act(style.norm, style.dims, c_out, slope, style.keep_output))


class ConvBlock(nn.Sequential):
    """Two convolutions, the first with the stride of the level."""

    def __init__(self, style: Style, c_in: int, c_out: int, kernel: Sequence[int], stride: Sequence[int]) -> None:
        super().__init__(
            ConvNormAct(style, c_in, c_out, kernel, stride, style.slope),
            ConvNormAct(style, c_out, c_out, kernel, (1,) * style.dims, style.slope),
        )


class ResidualBlock(nn.Module):
    """Two convolutions and a shortcut about them; the second LeakyReLU comes after the sum.

    The shortcut is the identity where shapes allow it, otherwise a convolution with the block's own kernel and stride,
    without bias, and a norm (nnU-Net in NVIDIA DeepLearningExamples, 2021; others use a kernel of 1 there).
    """

    __constants__ = ["fused"]  # noqa: RUF012 - TorchScript's spelling; it prunes the other branch

    def __init__(self, style: Style, c_in: int, c_out: int, kernel: Sequence[int], stride: Sequence[int]) -> None:
        super().__init__()
        ones = (1,) * style.dims
        self.fused = style.norm in FUSED_NORMS
        self.first = ConvNormAct(style, c_in, c_out, kernel, stride, style.slope)
        # fused: its norm adds the shortcut and activates
        self.second = ConvNormAct(style, c_out, c_out, kernel, ones, style.slope if self.fused else 1.0)
        same_shape = c_in == c_out and max(stride) == 1
        self.shortcut = nn.Identity() if same_shape else ConvNormAct(style, c_in, c_out, kernel, stride, 1.0)
        self.activation = nn.Identity() if self.fused else nn.LeakyReLU(style.slope, inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.fused:
            return self.second[1](self.second[0](self.first(x)), self.shortcut(x))
        return self.activation(self.second(self.first(x)) + self.shortcut(x))


class UpLevel(nn.Module):
    """Transposed convolution (kernel = stride), concatenation with the skip, two convolutions."""

    def __init__(self, style: Style, c_in: int, c_out: int, kernel: Sequence[int], stride: Sequence[int]) -> None:
        super().__init__()
        ones = (1,) * style.dims
        self.up = TRANSPOSED[style.dims](c_in, c_out, tuple(stride), tuple(stride))
        self.first = ConvNormAct(style, 2 * c_out, c_out, kernel, ones, style.slope)
        self.second = ConvNormAct(style, c_out, c_out, kernel, ones, style.slope)

    def forward(self, deep: torch.Tensor, skip: torch.Tensor) -> torch.Tensor:
        return self.second(self.first(torch.cat((self.up(deep), skip), dim=1)))


def _drop_unused_heads(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """A network built without deep supervision ignores the extra heads that a trained file holds."""
    for key in [k for k in state if k.startswith(f"{prefix}heads.")]:
        if int(key[len(prefix) :].split(".")[1]) >= len(module.heads):  # type: ignore[arg-type]
            del state[key]


class PlanUNet(nn.Module):
    """U-Net with strided convolutions down, transposed convolutions up and one 1x1 head per supervised level.

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of the input.
        out_channels: classes, background included.
        strides: per level, per axis; level 0 all ones.
        kernels: per level, per axis.
        features: channels per level.
        deep_supervision: return a list of logits instead of a tensor, see `forward`.
        norm: `instance`, `batch` or `group` (32 groups, fewer where 32 does not divide the channels).
        negative_slope: of the LeakyReLU.
        res_block: residual blocks in the encoder and the bottleneck.
        up_init: start of the transposed convolutions: `pytorch` (NVIDIA 2021) or `kaiming` (nnU-Net v2).
        keep_output: instance and group norms keep their output for the gradient instead of their input: about half of
            the memory for activations, at some precision (`monai_ext.ops.instance_norm_act`).

    Raises:
        ValueError: an option is unknown, levels differ in number, or `keep_output` cannot invert the activation.

    Where MONAI's `DynUNet` describes the same layers, parameters and outputs are the same. Initialisation: Kaiming
    normal (fan-in) for every convolution, zero biases in the heads. PyTorch's default for the transposed ones has a
    sixth of the Kaiming variance: what comes from below then starts weaker than the skip beside it.
    """

    __constants__ = ["deep_supervision"]  # noqa: RUF012 - TorchScript's spelling; it prunes the unused return type

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        strides: Sequence[Sequence[int]],
        kernels: Sequence[Sequence[int]],
        features: Sequence[int],
        deep_supervision: bool = False,
        norm: str = "instance",
        negative_slope: float = 0.01,
        res_block: bool = False,
        up_init: str = "pytorch",
        keep_output: bool = False,
    ) -> None:
        super().__init__()
        if up_init not in UP_INITS:
            raise ValueError(f"up_init must be one of {UP_INITS}, got {up_init!r}")
        if norm not in NORMS:
            raise ValueError(f"norm must be one of {sorted(NORMS)}, got {norm!r}")
        if keep_output and not negative_slope > 0:
            raise ValueError(f"keep_output needs a negative_slope above 0, got {negative_slope}")
        if not len(strides) == len(kernels) == len(features):
            raise ValueError(f"levels differ: {len(strides)} strides, {len(kernels)} kernels, {len(features)} features")
        self.deep_supervision = deep_supervision
        style = Style(spatial_dims, norm, negative_slope, keep_output)
        self.encoder = nn.ModuleList()
        previous = in_channels
        for stride, kernel, width in zip(strides, kernels, features, strict=True):
            block = ResidualBlock if res_block else ConvBlock
            self.encoder.append(block(style, previous, width, kernel, stride))
            previous = width
        self.decoder = nn.ModuleList(
            UpLevel(style, features[i], features[i - 1], kernels[i], strides[i])
            for i in range(len(features) - 1, 0, -1)
        )
        # The level just above the bottleneck gets no head: its weight in the loss is zero anyway.
        supervised = max(1, len(features) - 2) if deep_supervision else 1
        self.heads = nn.ModuleList(CONV[spatial_dims](features[i], out_channels, 1) for i in range(supervised))
        self.register_load_state_dict_pre_hook(_drop_unused_heads)
        self._initialise(negative_slope, up_init)

    def _initialise(self, negative_slope: float, up_init: str) -> None:
        convolutions: list[Any] = [m for m in self.modules() if isinstance(m, nn.Conv2d | nn.Conv3d)]
        if up_init == "kaiming":
            convolutions += [m for m in self.modules() if isinstance(m, nn.ConvTranspose2d | nn.ConvTranspose3d)]
        for module in convolutions:
            nn.init.kaiming_normal_(module.weight, a=negative_slope)
            if module.bias is not None:
                nn.init.zeros_(module.bias)

    def forward(self, x: torch.Tensor):  # no return annotation: TorchScript infers Tensor or List[Tensor]
        """Map `[B, C, *S]` to logits.

        Without deep supervision: `[B, K, *S]`. With it a list: in training one entry per head, finest first, entry i
        at the resolution of level i; in evaluation only the first.
        """
        skips: list[torch.Tensor] = []
        for level in self.encoder:
            x = level(x)
            skips.append(x)
        decoded: list[torch.Tensor] = []
        depth = len(skips) - 1
        for i, level in enumerate(self.decoder):
            x = level(x, skips[depth - 1 - i])
            decoded.append(x)
        if self.deep_supervision:
            outputs: list[torch.Tensor] = []
            for i, head in enumerate(self.heads):
                if i == 0 or self.training:
                    outputs.append(head(decoded[depth - 1 - i]))
            return outputs
        return self.heads[0](x)


def network_from_plan(
    plan: Plan, deep_supervision: bool = False, up_init: str = "pytorch", keep_output: bool = False
) -> PlanUNet:
    """Build the network that `plan` describes."""
    return PlanUNet(
        spatial_dims=plan.spatial_dims,
        in_channels=plan.num_channels,
        out_channels=plan.num_classes,
        strides=plan.strides,
        kernels=plan.kernels,
        features=plan.features,
        deep_supervision=deep_supervision,
        norm=plan.norm,
        negative_slope=plan.negative_slope,
        res_block=plan.res_block,
        up_init=up_init,
        keep_output=keep_output,
    )
