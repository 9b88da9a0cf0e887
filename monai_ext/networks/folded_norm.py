"""Batch norms folded into the convolutions before them, for inference."""

from __future__ import annotations

import copy
import itertools
from typing import TypeVar

from monai.networks.blocks.convolutions import Convolution
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
Network = TypeVar("Network", bound=nn.Module)


def fold_norms(network: Network) -> Network:
    """A copy for inference, in evaluation mode, whose convolutions hold the batch norms that followed them.

    Found are norms behind a convolution in a `torch.nn.Sequential` and in MONAI's `Convolution`; identities take their
    place, so the names of what is left stay as they are. `w' = w g / sqrt(v + eps)` and
    `b' = (b - m) g / sqrt(v + eps) + beta` (Jacob et al. 2018): outputs are equal up to rounding. A norm without
    running statistics stays.
    """
    folded = copy.deepcopy(network).eval()
    for module in list(folded.modules()):
        if isinstance(module, Convolution):
            _fold_pair(module, "conv", getattr(module, "adn", None), "N")
        elif isinstance(module, nn.Sequential):
            names = list(module._modules)
            for first, second in itertools.pairwise(names):
                _fold_pair(module, first, module, second)
    return folded


def _fold_pair(owner: nn.Module, convolution: str, norm_owner: nn.Module | None, norm: str) -> None:
    before, after = getattr(owner, convolution, None), getattr(norm_owner, norm, None)
    if not isinstance(before, _CONVOLUTIONS) or not isinstance(after, _NORMS) or after.running_mean is None:
        return
    # MONAI's order of norm, activation and dropout may put the norm behind the activation
    if norm_owner is not owner and next(iter(norm_owner._modules)) != norm:  # type: ignore[union-attr]
        return
    setattr(owner, convolution, fuse_conv_bn_eval(before, after))
    setattr(norm_owner, norm, nn.Identity())
