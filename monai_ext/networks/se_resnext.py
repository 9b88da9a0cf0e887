"""ResNet, ResNeXt and SE-ResNeXt for images and volumes, composed of MONAI's blocks under MONAI's parameter names."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch
from monai.networks.layers.factories import Conv, Norm, Pool
from torch import nn

from monai_ext.networks.fused_batch_norm import norm_act
from monai_ext.networks.se_bottleneck import EXPANSION, BlockStyle, SeBottleneck
from monai_ext.planning.class_plan import STEM_POOLS, ClassPlan

CONV_INITS = ("fan_in", "fan_out", "truncated")


class SeResNeXt(nn.Module):
    """Residual network of bottlenecks with grouped convolutions and squeeze-and-excitation gates (Hu et al. 2018).

    With 2 dimensions, 3 channels, 1000 classes and the layers, widths and gates that
    `monai_ext.planning.class_plan.ARCHITECTURES` lists it is SE-ResNeXt101-32x4d (48,955,416 parameters),
    ResNeXt101-32x4d (44,177,704) or ResNet-50 (25,557,032). State dicts of `monai.networks.nets.SEResNext101` load
    strictly.

    Args:
        spatial_dims: 1, 2 or 3.
        in_channels: of the input.
        num_classes: outputs.
        layers: blocks of the four stages.
        base_features: channels of the stem and planes of the first stage; doubled per stage.
        groups, group_width: of the 3x3 convolutions, `floor(planes * group_width / 64)` channels a group.
        se_ratio: channels per hidden unit of a gate; 0: no gates.
        se_hidden: hidden units of every gate, whatever its channels; 0: by the ratio.
        stem_pool: `ceil` (3x3, stride 2, ceil mode, no padding: MONAI, Cadene), `pad1` (padding 1: timm, torchvision,
            NVIDIA) or `none`.
        zero_init_last_norm: the last norm of a block starts with weight 0, so that the block starts as its shortcut
            (Goyal et al. 2017).
        drop_path: chance that the last block is left out; rises from 0 at the first (Huang et al. 2016).
        dropout: chance that a feature is dropped before the head.
        conv_init: Kaiming normal by `fan_in` (MONAI) or `fan_out` (timm), or fan-in `truncated` at two deviations
            (the TensorFlow recipe).
        final_conv: a 1x1 convolution as the head instead of a linear layer.
        features_only: no head; `forward` returns feature maps.
        fused: run the fused ops `batch_norm_act` and `se_gate`; scripted and traced networks always are plain torch.

    Raises:
        ValueError: an option is unknown or out of range.
    """

    __constants__ = ["features_only", "final_conv", "fused"]  # noqa: RUF012 - TorchScript's spelling

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        num_classes: int,
        layers: Sequence[int],
        base_features: int,
        groups: int,
        group_width: int,
        se_ratio: int,
        se_hidden: int = 0,
        stem_pool: str = "ceil",
        zero_init_last_norm: bool = False,
        drop_path: float = 0.0,
        dropout: float = 0.0,
        conv_init: str = "fan_in",
        final_conv: bool = False,
        features_only: bool = False,
        fused: bool = True,
    ) -> None:
        super().__init__()
        for name, value, known in (("stem_pool", stem_pool, STEM_POOLS), ("conv_init", conv_init, CONV_INITS)):
            if value not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, got {value!r}")
        if len(layers) != 4 or min(layers) < 1:
            raise ValueError(f"layers must be the blocks of four stages, at least one each, got {list(layers)}")
        style = BlockStyle(spatial_dims, groups, group_width, se_ratio, se_hidden, fused)
        if style.width(base_features) < 1:
            raise ValueError(f"base_features {base_features} with group_width {group_width} leave no channel a group")
        self.features_only = features_only
        self.final_conv = final_conv
        self.fused = fused
        convolution: Any = Conv[Conv.CONV, spatial_dims]
        self.layer0 = nn.Sequential(
            OrderedDict(
                conv1=convolution(in_channels, base_features, 7, stride=2, padding=3, bias=False),
                bn1=Norm[Norm.BATCH, spatial_dims](base_features),
                relu1=nn.ReLU(inplace=True),
                pool=_pool(spatial_dims, stem_pool),
            )
        )
        chances = [drop_path * block / max(1, sum(layers) - 1) for block in range(sum(layers))]
        stages: list[nn.Module] = []
        channels = base_features
        for stage, depth in enumerate(layers):
            blocks = []
            for index in range(depth):
                stride = 2 if stage > 0 and index == 0 else 1
                blocks.append(SeBottleneck(style, channels, base_features * 2**stage, stride, chances.pop(0)))
                channels = base_features * 2**stage * EXPANSION
            stages.append(nn.Sequential(*blocks))
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.dropout = nn.Dropout(dropout)
        self.last_linear: nn.Module = nn.Identity()
        if not features_only:
            self.last_linear = convolution(channels, num_classes, 1) if final_conv else nn.Linear(channels, num_classes)
        self._initialise(conv_init, zero_init_last_norm)

    def _initialise(self, conv_init: str, zero_init_last_norm: bool) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d) and module is not self.last_linear:
                _start_convolution(module.weight, conv_init)
            elif isinstance(module, nn.Linear) or (module is self.last_linear and self.final_conv):
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]
            elif isinstance(module, SeBottleneck) and zero_init_last_norm:
                nn.init.zeros_(module.conv3.adn.N.weight)  # type: ignore[union-attr, arg-type]

    def forward(self, x: torch.Tensor):  # no return annotation: TorchScript infers Tensor or List[Tensor]
        """Map `[B, C, *S]` to logits `[B, K]`.

        With `features_only` to a list of five maps: after the stem, its pool included, and after every stage.
        """
        x = self._stem(x)
        if self.features_only:
            first = self.layer1(x)
            second = self.layer2(first)
            third = self.layer3(second)
            return [x, first, second, third, self.layer4(third)]
        return self.logits(self.layer4(self.layer3(self.layer2(self.layer1(x)))))

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """Map `[B, C, *S]` to the last feature map `[B, F, *S / 32]`."""
        return self.layer4(self.layer3(self.layer2(self.layer1(self._stem(x)))))

    def logits(self, features: torch.Tensor) -> torch.Tensor:
        """Map the last feature map `[B, F, *S]` to logits `[B, K]`."""
        pooled = self.dropout(features.flatten(2).mean(2))
        if self.final_conv:
            return self.last_linear(pooled.reshape(list(pooled.shape) + [1] * (features.dim() - 2))).flatten(1)
        return self.last_linear(pooled)

    def _stem(self, x: torch.Tensor) -> torch.Tensor:
        if torch.jit.is_scripting():
            return self.layer0(x)
        else:
            if not self.fused or torch.jit.is_tracing() or torch.onnx.is_in_onnx_export():
                return self.layer0(x)
            stem: Any = self.layer0
            return stem.pool(norm_act(stem.conv1(x), stem.bn1))


def _pool(spatial_dims: int, stem_pool: str) -> nn.Module:
    if stem_pool == "none":
        return nn.Identity()
    pool: Any = Pool[Pool.MAX, spatial_dims]
    return pool(3, stride=2, ceil_mode=True) if stem_pool == "ceil" else pool(3, stride=2, padding=1)


def _start_convolution(weight: torch.Tensor, conv_init: str) -> None:
    if conv_init == "truncated":
        # what is cut off takes deviation away: 0.8796 of it is left
        deviation = (2 / weight[0].numel()) ** 0.5 / 0.87962566
        nn.init.trunc_normal_(weight, std=deviation, a=-2 * deviation, b=2 * deviation)
    else:
        nn.init.kaiming_normal_(weight, mode=conv_init, nonlinearity="relu")  # type: ignore[arg-type]


def network_from_class_plan(plan: ClassPlan, **training: Any) -> SeResNeXt:
    """The network of a plan.

    Args:
        plan: decides the layers.
        training: options of `SeResNeXt` that change no parameter's shape: `zero_init_last_norm`, `drop_path`,
            `dropout`, `conv_init`, `features_only`, `fused`.
    """
    return SeResNeXt(
        spatial_dims=plan.spatial_dims,
        in_channels=plan.channels,
        num_classes=plan.num_classes,
        layers=plan.layers,
        base_features=plan.base_features,
        groups=plan.groups,
        group_width=plan.group_width,
        se_ratio=plan.se_ratio,
        se_hidden=plan.se_hidden,
        stem_pool=plan.stem_pool,
        final_conv=plan.final_conv,
        **training,
    )
