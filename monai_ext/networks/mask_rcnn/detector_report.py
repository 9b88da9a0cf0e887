"""What became of every tensor of a weight file and of a detector."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from monai_ext.networks.classifier_weights import WeightReport
from monai_ext.networks.mask_rcnn.residual_names import BODY

_BLOCK = re.compile(rf"^{re.escape(BODY)}layer(\d)\.(\d+)\.")


@dataclass(frozen=True)
class DetectorWeightReport(WeightReport):
    """`WeightReport` of a detector; `replaced_head` is for the layers of `new_layers`.

    Attributes:
        new_parts: of the network, such as `rpn`, that the file has nothing of; they keep their initial values.
        new_layers: that keep their initial values since classes or anchors are others.
        adaptations: what was done to the file's tensors.
        dropped: tensors of the file that are no weights of a detector (counters of batch norms, anchors, pixel
            statistics, a classifying layer), under the file's names.
        other_settings: of the network, where it does not compute what the file's did, as `name (file, network)`.
    """

    new_parts: tuple[str, ...] = ()
    new_layers: tuple[str, ...] = ()
    adaptations: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()
    other_settings: tuple[str, ...] = ()

    def describe(self) -> str:
        """Text for the log."""
        place = f", from its {self.place}" if self.place else ""
        lines = [f"weights of {self.path}{place}: {self.architecture} ({self.source} names)"]
        counts = {
            "skipped": self.skipped,
            "of another shape": self.mismatched,
            "missing": self.missing,
            "not needed": self.dropped,
        }
        others = "".join(f", {len(names)} {what} ({first(names)})" for what, names in counts.items() if names)
        lines.append(f"{len(self.loaded)} tensors loaded{others}")
        if self.new_parts:
            lines.append(f"not in the file, so new: {', '.join(self.new_parts)}")
        if self.new_layers:
            lines.append(f"of other classes or anchors, so new: {', '.join(self.new_layers)}")
        if self.adapted_stem:
            lines.append(f"first convolution: {self.adapted_stem}")
        lines.extend(self.adaptations)
        if self.other_settings:
            lines.append(f"trained with other settings: {', '.join(self.other_settings)}")
        return "\n".join(lines)


@dataclass(frozen=True)
class Body:
    """Shape of a backbone, read from a state dict under this package's names; the fields are those of `InstancePlan`.

    Attributes:
        norm: `group`, `batch` (also frozen), `affine` (statistics merged), or `none`.
    """

    block: str
    layers: tuple[int, ...]
    base_features: int
    channels: int
    norm: str

    def describe(self) -> str:
        """For messages."""
        norm = {"affine": "merged batch norm", "none": "no norm"}.get(self.norm, f"{self.norm} norm")
        return (
            f"{self.block} blocks {list(self.layers)} from {self.base_features} features, {norm}, "
            f"{self.channels} channels"
        )


def body_of(state: Mapping[str, torch.Tensor], affine: bool = False) -> Body | None:
    """Backbone of a state dict, None without one.

    Args:
        state: under this package's names.
        affine: norms without statistics are batch norms merged into scale and shift, not group norms.
    """
    stem = state.get(f"{BODY}conv1.weight")
    blocks = [(int(m[1]), int(m[2])) for m in map(_BLOCK.match, state) if m]
    if stem is None or stem.ndim != 4 or not blocks:
        return None
    layers = tuple(1 + max((i for s, i in blocks if s == stage), default=-1) for stage in range(1, 5))
    norm = "none"
    if f"{BODY}bn1.weight" in state:
        norm = "batch" if f"{BODY}bn1.running_mean" in state else "affine" if affine else "group"
    block = "bottleneck" if any(name.endswith(".conv3.weight") for name in state if _BLOCK.match(name)) else "basic"
    return Body(block, layers, stem.shape[0], stem.shape[1], norm)


def first(names: tuple[str, ...] | list[str], count: int = 3) -> str:
    """The first names, and whether there are more."""
    return ", ".join(names[:count]) + (", ..." if len(names) > count else "")
