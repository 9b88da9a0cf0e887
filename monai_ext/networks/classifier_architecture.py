"""What residual network a state dict belongs to, read from the shapes of its tensors."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch

EXPANSION = 4
_BLOCK = re.compile(r"layer(\d+)\.(\d+)\.")


@dataclass(frozen=True)
class Architecture:
    """Shape of a residual classifier; the fields are those of `ClassPlan`.

    Attributes:
        bottleneck: blocks of three convolutions; else of two (ResNet-18, ResNet-34).
        se_ratio: channels per hidden unit of the gates, 0 without gates or with `se_hidden`.
        se_hidden: hidden units of every gate where they do not grow with the channels.
        num_classes: rows of the classifying layer, 0 without one.
        shortcuts: kernel size of the shortcuts' convolutions, 1 but in SENet-154.
    """

    spatial_dims: int
    channels: int
    num_classes: int
    layers: tuple[int, ...]
    base_features: int
    groups: int
    group_width: int
    se_ratio: int
    se_hidden: int
    bottleneck: bool = True
    shortcuts: int = 1

    @property
    def depth(self) -> int:
        """Layers with weights on the longest path, as architectures are numbered."""
        return (3 if self.bottleneck else 2) * sum(self.layers) + 2

    @property
    def name(self) -> str:
        """Common name, such as `resnet50` or `se-resnext101-32x4d`."""
        gates = "se-" if self.se_ratio or self.se_hidden else ""
        if self.groups > 1:
            kind = f"resnext{self.depth}-{self.groups}x{self.group_width}d"
        elif self.group_width == 128:
            kind = f"wide-resnet{self.depth}-2"
        else:
            kind = f"resnet{self.depth}"
        return gates + kind + ("" if self.base_features == 64 else f" of {self.base_features} features")

    def describe(self) -> str:
        """Name and what it does not say."""
        hidden = f", {self.se_hidden} hidden units a gate" if self.se_hidden else ""
        ratio = f", gates by ratio {self.se_ratio}" if self.se_ratio not in (0, 16) else ""
        return (
            f"{self.name}{hidden}{ratio}, blocks {list(self.layers)}, {self.spatial_dims}D, {self.channels} channels, "
            f"{self.num_classes} classes"
        )

    def body(self) -> tuple[object, ...]:
        """What the stages' shapes depend on: everything but channels, classes and dimensions."""
        return (self.layers, self.base_features, self.groups, self.group_width, self.se_ratio, self.se_hidden,
                self.bottleneck, self.shortcuts)  # fmt: skip


def architecture_of(state: Mapping[str, torch.Tensor]) -> Architecture | None:
    """The architecture of tensors under the names of `SeResNeXt`, or None where it is no residual network.

    Deep stems (three 3x3 convolutions: ResNet-D, SENet-154) and files that lack blocks give None.
    """
    blocks: dict[int, set[int]] = {}
    for name in state:
        if match := _BLOCK.match(name):
            blocks.setdefault(int(match[1]), set()).add(int(match[2]))
    layers = tuple(len(blocks[stage]) for stage in sorted(blocks))
    whole = sorted(blocks) == [1, 2, 3, 4] and all(blocks[s] == set(range(len(blocks[s]))) for s in blocks)
    stem, first, second = (
        state.get(f"{name}.weight") for name in ("layer0.conv1", "layer1.0.conv1.conv", "layer1.0.conv2.conv")
    )
    if not whole or stem is None or first is None or second is None:
        return None
    third = state.get("layer1.0.conv3.conv.weight")
    planes = second.shape[0] if third is None else third.shape[0] // EXPANSION
    if planes < 1 or min(stem.ndim, second.ndim) < 3 or not second.shape[1]:
        return None
    gate, last_gate = (state.get(f"layer{stage}.0.se_layer.fc.0.weight") for stage in (1, 4))
    ratio = hidden = 0
    if gate is not None and last_gate is not None and len(gate):
        same = len(gate) == len(last_gate)
        ratio, hidden = (0, len(gate)) if same else (gate.shape[1] // len(gate), 0)
    head, shortcut = state.get("last_linear.weight"), state.get("layer2.0.project.conv.weight")
    return Architecture(
        spatial_dims=stem.ndim - 2,
        channels=stem.shape[1],
        num_classes=0 if head is None else len(head),
        layers=layers,
        base_features=planes,
        groups=first.shape[0] // second.shape[1] if third is not None else 1,
        group_width=second.shape[1] * 64 // planes,
        se_ratio=ratio,
        se_hidden=hidden,
        bottleneck=third is not None,
        shortcuts=1 if shortcut is None else shortcut.shape[-1],
    )
