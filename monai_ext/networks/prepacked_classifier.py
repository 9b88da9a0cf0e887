"""The classifier as it is fastest on a CPU: norms folded, weights in oneDNN's own layout, activations inside."""

from __future__ import annotations

import logging
from collections import OrderedDict
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from monai.networks.blocks.convolutions import Convolution
from torch import nn

from monai_ext.networks.folded_norm import fold_norms
from monai_ext.networks.fused_batch_norm import gate_act
from monai_ext.networks.se_bottleneck import SeBottleneck
from monai_ext.networks.se_resnext import SeResNeXt

logger = logging.getLogger(__name__)

_CONVOLVE: dict[int, Any] = {2: F.conv2d, 3: F.conv3d}
_LAYOUTS = {2: torch.channels_last, 3: torch.channels_last_3d}
# the last batch of a dataset is smaller than the others
_KEPT_SHAPES = 2
# of the largest output; oneDNN sums in another order, a wrong result differs by its own size
_TOLERANCE = 1e-3


def prepacked_classifier(network: SeResNeXt) -> nn.Module:
    """A copy for inference on a CPU, in evaluation mode and float32.

    Norms are folded into the convolutions, the ReLU (and the sum with the shortcut, where there is no gate) is computed
    by oneDNN with the convolution, weights are brought into oneDNN's layout once per shape of the input instead of at
    every call, and tensors are channels last. The first call with a shape is slow. Each convolution is compared with
    torch's own there; one that differs runs as torch's, and a warning is logged.

    Returns:
        Module that maps `[B, C, *S]` to the logits of `network`, equal up to rounding, without gradients. Where
        oneDNN's convolutions do not serve (other processors, 1D, `features_only`, weights on another device) it is
        `fold_norms(network)`.
    """
    folded = fold_norms(network)
    stem: Any = folded.layer0
    weight = stem.conv1.weight
    fits = weight.device.type == "cpu" and weight.dtype == torch.float32 and weight.ndim - 2 in _LAYOUTS
    if not fits or folded.features_only or not packing_available():
        return folded
    return PrepackedClassifier(folded)


def packing_available() -> bool:
    """Whether this build of torch packs and runs oneDNN's convolutions."""
    if not torch.backends.mkldnn.is_available():
        return False
    return all(hasattr(torch.ops.mkldnn, name) for name in ("_convolution_pointwise", "_reorder_convolution_weight"))


class PackedConvolution(nn.Module):
    """Convolution with bias whose output may get a residual and be rectified, by oneDNN in one go; has no gradient.

    Args:
        convolution: 2D or 3D, float32, on the CPU; its parameters are shared.
        relu: whether the ReLU follows.
    """

    def __init__(self, convolution: Any, relu: bool) -> None:
        super().__init__()
        self.plain = convolution
        self.relu = relu
        self._packed: OrderedDict[tuple[int, ...], torch.Tensor | None] = OrderedDict()

    def forward(self, x: torch.Tensor, residual: torch.Tensor | None = None) -> torch.Tensor:
        """Map `[B, C, *S]` in channels last to the same layout; `residual` is like the output."""
        shape = tuple(x.shape)
        if shape not in self._packed:
            self._pack(x, shape, residual)
        weight = self._packed[shape]
        return self._run_plain(x, residual) if weight is None else self._run(x, weight, residual)

    def _pack(self, x: torch.Tensor, shape: tuple[int, ...], residual: torch.Tensor | None) -> None:
        plain = self.plain
        packed: torch.Tensor | None = None
        try:
            packed = torch.ops.mkldnn._reorder_convolution_weight(
                plain.weight.detach(), plain.padding, plain.stride, plain.dilation, plain.groups, shape
            )
            found, expected = self._run(x, packed, residual), self._run_plain(x, residual)
            difference = float((found - expected).abs().max())
            # not `>`: NaN of one side only must not pass, and NaN in the input must not fail
            if not difference <= _TOLERANCE * max(1.0, float(expected.abs().max())) and expected.isfinite().all():
                raise RuntimeError(f"differs by {difference:.3g}")
        except RuntimeError as error:
            packed = None
            logger.warning("convolution %s of %s runs unpacked: %s", tuple(plain.weight.shape), shape, error)
        self._packed[shape] = packed
        while len(self._packed) > _KEPT_SHAPES:
            self._packed.popitem(last=False)

    def _run(self, x: torch.Tensor, weight: Any, residual: torch.Tensor | None) -> torch.Tensor:
        plain = self.plain
        shape = (plain.padding, plain.stride, plain.dilation, plain.groups)
        if residual is None:
            attribute = "relu" if self.relu else "none"
            return torch.ops.mkldnn._convolution_pointwise(x, weight, plain.bias, *shape, attribute, [], "")
        unary = "relu" if self.relu else None
        return torch.ops.mkldnn._convolution_pointwise.binary(
            x, residual, weight, plain.bias, *shape, "add", 1.0, unary, [], ""
        )

    def _run_plain(self, x: torch.Tensor, residual: torch.Tensor | None) -> torch.Tensor:
        plain = self.plain
        convolve = _CONVOLVE[x.ndim - 2]
        y = convolve(x, plain.weight, plain.bias, plain.stride, plain.padding, plain.dilation, plain.groups)
        y = y if residual is None else y.add_(residual)
        return y.relu_() if self.relu else y

    def __getstate__(self) -> dict[str, Any]:
        # packed tensors are opaque: they can neither be copied nor stored
        return {**self.__dict__, "_packed": OrderedDict()}


class _PackedBlock(nn.Module):
    """A bottleneck of packed convolutions."""

    def __init__(self, block: SeBottleneck) -> None:
        super().__init__()
        folded: Any = block
        self.conv1 = PackedConvolution(folded.conv1.conv, relu=True)
        self.conv2 = PackedConvolution(folded.conv2.conv, relu=True)
        self.conv3 = PackedConvolution(folded.conv3.conv, relu=not block.gated)
        self.gate = folded.se_layer.fc if block.gated else None
        self.norm = folded.conv3.adn.N
        self.project = (
            PackedConvolution(folded.project.conv, relu=False) if isinstance(block.project, Convolution) else None
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        residual = x if self.project is None else self.project(x)
        y = self.conv2(self.conv1(x))
        return self.conv3(y, residual) if self.gate is None else gate_act(self.conv3(y), self.norm, self.gate, residual)


class PrepackedClassifier(nn.Module):
    """What `prepacked_classifier` gives where oneDNN's convolutions serve.

    Args:
        folded: network without norms, float32, on the CPU; its parameters are shared.
    """

    def __init__(self, folded: SeResNeXt) -> None:
        super().__init__()
        stem: Any = folded.layer0
        stages: Any = (folded.layer1, folded.layer2, folded.layer3, folded.layer4)
        self.stem = PackedConvolution(stem.conv1, relu=True)
        self.pool = stem.pool
        self.blocks = nn.Sequential(*(_PackedBlock(block) for stage in stages for block in stage))
        self.last_linear: Any = folded.last_linear
        self.layout = _LAYOUTS[stem.conv1.weight.ndim - 2]
        self.eval()

    @torch.inference_mode()
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map `[B, C, *S]` float32 on the CPU to logits `[B, K]`.

        Raises:
            ValueError: another type or device.
        """
        if x.dtype != torch.float32 or x.device.type != "cpu":
            raise ValueError(f"a prepacked classifier takes float32 on the CPU, got {x.dtype} on {x.device}")
        features = self.blocks(self.pool(self.stem(x.contiguous(memory_format=self.layout))))
        # the head may be a 1x1 convolution
        return F.linear(features.flatten(2).mean(2), self.last_linear.weight.flatten(1), self.last_linear.bias)
