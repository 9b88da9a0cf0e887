"""The form of a trained classifier that predicts fastest on a device."""

from __future__ import annotations

import torch
from torch import nn

from monai_ext.networks.ensemble import ProbabilityMean
from monai_ext.networks.fake_quantisation import is_fake_quantised
from monai_ext.networks.folded_norm import fold_norms
from monai_ext.networks.prepacked_classifier import prepacked_classifier
from monai_ext.networks.se_resnext import SeResNeXt


def for_inference(
    network: nn.Module, device: torch.device | str, compile: bool = False, bfloat16: bool = False, plain: bool = False
) -> nn.Module:
    """A network with the outputs of `network` up to rounding, in evaluation mode.

    On a processor in float32 norms are folded, ReLUs computed with the convolutions and weights packed once. Elsewhere,
    and in bfloat16, norms are folded. Networks that round to 8 bits in training are left as they are: their ranges
    belong to their own layers.

    Args:
        network: on the device; ensembles are treated network by network.
        device: where it will run.
        compile: by torch.compile, instead of packing.
        bfloat16: will be called in mixed precision.
        plain: leave it as it is, because gradients through its layers are wanted.
    """
    if isinstance(network, SeResNeXt) and not plain and not is_fake_quantised(network):
        on_cpu = torch.device(device).type == "cpu"
        network = prepacked_classifier(network) if on_cpu and not (bfloat16 or compile) else fold_norms(network)
    elif isinstance(network, ProbabilityMean) and not plain:
        network.networks = nn.ModuleList(for_inference(n, device, False, bfloat16) for n in network.networks)
    network = network.eval()
    return torch.compile(network) if compile else network  # type: ignore[return-value]
