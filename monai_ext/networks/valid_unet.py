"""U-Net of unpadded convolutions: every output pixel has seen its whole surrounding, none of it made up."""

from __future__ import annotations

import torch
from torch import nn

from monai_ext.errors import InputError
from monai_ext.planning.em_plan import UPSAMPLINGS, EmPlan
from monai_ext.planning.valid_sizes import check_input_size

INITIALIZATIONS = ("glorot", "he")


class ValidUNet(nn.Module):
    """U-Net with unpadded 3x3 convolutions (Ronneberger et al. 2015, arXiv 1505.04597); 572 x 572 gives 388 x 388.

    With `upsampling="conv3"` and `init="glorot"` it is the network of NVIDIA's UNet Medical (2021): up-convolutions are
    3x3 transposed convolutions with ReLU whose last row and column are dropped, which is what "same" padding means in
    TensorFlow, so that imported weights fit; the first row and column of each lack a neighbour, which the output shows
    faintly along its upper and left edge. With `conv2` and `he` it is the paper's: 2x2 up-convolutions without
    activation, normal weights of standard deviation sqrt(2 / fan-in); moving its input by a multiple of 2^levels moves
    its output and changes nothing.

    Args:
        in_channels, out_channels: of image and logits.
        base_features: channels of the first level, doubled at every further one; 64 in both publications.
        levels: poolings.
        upsampling: `conv3` or `conv2`.
        dropout: chance that a channel value of the bottleneck is dropped, in training only.
        init: `glorot` (uniform, Keras' default) or `he` (normal); biases begin at 0.

    Raises:
        InputError: an unknown name; in `forward`, an input whose sizes the arithmetic does not allow.
    """

    def __init__(
        self,
        in_channels: int = 1,
        out_channels: int = 2,
        base_features: int = 64,
        levels: int = 4,
        upsampling: str = "conv3",
        dropout: float = 0.5,
        init: str = "glorot",
    ) -> None:
        super().__init__()
        for name, value, known in (("upsampling", upsampling, UPSAMPLINGS), ("init", init, INITIALIZATIONS)):
            if value not in known:
                raise InputError(f"--{name} {value!r}: is not known. Cure: one of {', '.join(known)}")
        features = [base_features * 2**level for level in range(levels + 1)]
        self.levels = levels
        self.encoder = nn.ModuleList(
            _two_convolutions(before, after)
            for before, after in zip([in_channels, *features[:-2]], features[:-1], strict=True)
        )
        self.pool = nn.MaxPool2d(2)
        self.bottleneck = nn.Sequential(_two_convolutions(features[-2], features[-1]), nn.Dropout(dropout))
        make_up = _UpConv3 if upsampling == "conv3" else _up_conv2
        self.up = nn.ModuleList(make_up(2 * n, n) for n in reversed(features[:-1]))
        self.decoder = nn.ModuleList(_two_convolutions(2 * n, n) for n in reversed(features[:-1]))
        self.head = nn.Conv2d(base_features, out_channels, 1)
        self.apply(_glorot if init == "glorot" else _he)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Map `[B, C, H, W]` to logits `[B, K, H - 2m, W - 2m]`, m = `border(levels)`."""
        if not torch.jit.is_scripting() and not torch.jit.is_tracing():
            check_input_size(image.shape[-2], image.shape[-1], self.levels, "network input")
        skips: list[torch.Tensor] = []
        x = image
        for block in self.encoder:
            x = block(x)
            skips.append(x)
            x = self.pool(x)
        x = self.bottleneck(x)
        level = len(skips)
        for up, block in zip(self.up, self.decoder):  # noqa: B905  TorchScript knows no `strict`
            level -= 1
            x = up(x)
            x = block(torch.cat([x, _centre(skips[level], x.shape[-2], x.shape[-1])], dim=1))
        return self.head(x)


class _UpConv3(nn.Module):
    """Doubles the size by a 3x3 transposed convolution and ReLU."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.ConvTranspose2d(in_channels, out_channels, 3, stride=2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map `[B, C, h, w]` to `[B, C', 2h, 2w]`: the first 2n of 2n + 1 samples."""
        return torch.relu(self.conv(x)[..., :-1, :-1])


def _up_conv2(in_channels: int, out_channels: int) -> nn.Module:
    return nn.ConvTranspose2d(in_channels, out_channels, 2, stride=2)


def _two_convolutions(in_channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 3),
        nn.ReLU(inplace=True),
        nn.Conv2d(out_channels, out_channels, 3),
        nn.ReLU(inplace=True),
    )


def _centre(image: torch.Tensor, height: int, width: int) -> torch.Tensor:
    top, left = (image.shape[-2] - height) // 2, (image.shape[-1] - width) // 2
    return image[..., top : top + height, left : left + width]


def _glorot(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.xavier_uniform_(module.weight)
        nn.init.zeros_(module.bias)  # type: ignore[arg-type]


def _he(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        # inputs that reach one output: of a transposed convolution with stride 2, kernel area / 4 of every channel
        taps = module.kernel_size[0] * module.kernel_size[1] / (module.stride[0] * module.stride[1])
        nn.init.normal_(module.weight, std=(2 / (taps * module.in_channels)) ** 0.5)
        nn.init.zeros_(module.bias)  # type: ignore[arg-type]


def network_from_em_plan(plan: EmPlan, dropout: float = 0.5, init: str = "glorot") -> ValidUNet:
    """The network of a plan; `dropout` and `init` matter in training only."""
    return ValidUNet(1, 2, plan.base_features, plan.levels, plan.upsampling, dropout, init)
