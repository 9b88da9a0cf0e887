"""Quantisation-aware training: convolutions and linear layers compute with values rounded to 8 bits.

Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference" (CVPR
2018). A layer's input is rounded in steps of a range observed in training (moving average of the batches' extremes),
its weights in steps of the largest weight of each output channel. Gradients pass the rounding unchanged, apart from
inputs outside of the range, which get none.

Norms stay in float while training. That is no approximation of what is exported: a norm that follows a convolution
scales each output channel, and so does the step of its weights; rounding and scaling commute, so folding afterwards
gives the very integers that were trained.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import nn

from monai_ext.errors import InputError
from monai_ext.networks.quantisation_ranges import FixedRange, ObservedRange, rounded_weight, weight_steps

INPUT_RANGE, OUTPUT_RANGE = "input_range", "output_range"  # submodules, and by them keys of a state dict


class _ObservedConvolution:
    """Forward of a convolution with `input_range`, before the layer's own in the order of base classes."""

    def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
        x = self.input_range(x)
        return self._conv_forward(x, rounded_weight(self.weight) if self.input_range.active else self.weight, self.bias)


class _FixedConvolution:
    def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
        weight = torch.fake_quantize_per_channel_affine(self.weight, self.weight_step, self.weight_zero, 0, -128, 127)
        return self._conv_forward(self.input_range(x), weight, self.bias)


class ObservedConv1d(_ObservedConvolution, nn.Conv1d):
    """`nn.Conv1d` with an `ObservedRange` of its input."""


class ObservedConv2d(_ObservedConvolution, nn.Conv2d):
    """`nn.Conv2d` with an `ObservedRange` of its input."""


class ObservedConv3d(_ObservedConvolution, nn.Conv3d):
    """`nn.Conv3d` with an `ObservedRange` of its input."""


class ObservedLinear(nn.Linear):
    """`nn.Linear` with an `ObservedRange` of its input."""

    input_range: ObservedRange

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.input_range(x)
        weight = rounded_weight(self.weight) if self.input_range.active else self.weight
        return nn.functional.linear(x, weight, self.bias)


class _ObservedNorm:
    """Forward of a batch norm with `output_range`."""

    def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
        return self.output_range(super().forward(x))  # type: ignore[misc]


class ObservedBatchNorm1d(_ObservedNorm, nn.BatchNorm1d):
    """`nn.BatchNorm1d` with an `ObservedRange` of its output."""


class ObservedBatchNorm2d(_ObservedNorm, nn.BatchNorm2d):
    """`nn.BatchNorm2d` with an `ObservedRange` of its output."""


class ObservedBatchNorm3d(_ObservedNorm, nn.BatchNorm3d):
    """`nn.BatchNorm3d` with an `ObservedRange` of its output."""


class FixedConv1d(_FixedConvolution, nn.Conv1d):
    """`nn.Conv1d` with a `FixedRange` of its input."""


class FixedConv2d(_FixedConvolution, nn.Conv2d):
    """`nn.Conv2d` with a `FixedRange` of its input."""


class FixedConv3d(_FixedConvolution, nn.Conv3d):
    """`nn.Conv3d` with a `FixedRange` of its input."""


class FixedLinear(nn.Linear):
    """`nn.Linear` with a `FixedRange` of its input."""

    def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
        weight = torch.fake_quantize_per_channel_affine(self.weight, self.weight_step, self.weight_zero, 0, -128, 127)
        return nn.functional.linear(self.input_range(x), weight, self.bias)


OBSERVED: dict[type[nn.Module], type[nn.Module]] = {
    nn.Conv1d: ObservedConv1d,
    nn.Conv2d: ObservedConv2d,
    nn.Conv3d: ObservedConv3d,
    nn.Linear: ObservedLinear,
}
OBSERVED_NORMS: dict[type[nn.Module], type[nn.Module]] = {
    nn.BatchNorm1d: ObservedBatchNorm1d,
    nn.BatchNorm2d: ObservedBatchNorm2d,
    nn.BatchNorm3d: ObservedBatchNorm3d,
}
PLAIN = {observed: plain for plain, observed in (OBSERVED | OBSERVED_NORMS).items()}
FIXED: dict[type[nn.Module], type[nn.Module]] = {
    nn.Conv1d: FixedConv1d,
    nn.Conv2d: FixedConv2d,
    nn.Conv3d: FixedConv3d,
    nn.Linear: FixedLinear,
}


def with_fake_quantisation(
    network: nn.Module, symmetric: bool = True, momentum: float = 0.01, skip: str = "", norms: str = ""
) -> nn.Module:
    """Give every convolution and linear layer of a network a range of its input, not active yet.

    Parameters keep their names and identities, so weights load and optimisers go on as before. Transposed convolutions
    and layers of subclassed types stay as they are.

    Args:
        network: changed in place, also returned.
        symmetric: see `ObservedRange`; weights are always symmetric.
        momentum: of the moving average of ranges.
        skip: regular expression; layers whose name it is found in stay in float. Such are layers whose parameters are
            used by other code than their own forward, which would pass by the rounding.
        norms: regular expression; batch norms whose name it is found in round their output. That lets runtimes
            compute a convolution in integers whose folded output no rounded input follows, at the end of a residual
            branch for example.

    Raises:
        ValueError: no layer is left to quantise.
    """
    layers = [m for name, m in network.named_modules() if type(m) in OBSERVED and not _found(skip, name)]
    if not layers:
        raise ValueError(f"no convolution or linear layer to quantise (skip {skip!r})")
    layers += [m for name, m in network.named_modules() if type(m) in OBSERVED_NORMS and _found(norms, name)]
    for module in layers:
        _observe(module, symmetric, momentum)
    return network


def match_fake_quantisation(network: nn.Module, state: Mapping[str, Any]) -> nn.Module:
    """Give the layers ranges that have them in a state dict, so that it loads strictly; nothing else changes.

    Raises:
        InputError: the file quantises layers that the network does not have.
    """
    modules = dict(network.named_modules())
    for key in state:
        name, _, rest = key.rpartition(".")
        name, _, kind = name.rpartition(".")
        if rest != "low" or kind not in (INPUT_RANGE, OUTPUT_RANGE):
            continue
        module = modules.get(name)
        if type(module) in OBSERVED or type(module) in OBSERVED_NORMS:
            _observe(module, True, 0.01)
        elif type(module) not in PLAIN:
            raise InputError(
                f"weights: quantise {name!r}, which the network does not have or cannot quantise. "
                "Cure: build the network of the plan that was trained with these weights"
            )
    return network


def ranges(network: nn.Module) -> Iterator[tuple[str, ObservedRange]]:
    """Name of the quantised layer and its range, in the order of the network."""
    for name, module in network.named_modules():
        if isinstance(module, ObservedRange):
            yield name.rpartition(".")[0], module


def is_fake_quantised(network: nn.Module) -> bool:
    """Whether any layer has a range."""
    return next(ranges(network), None) is not None


def set_quantising(network: nn.Module, active: bool = True) -> None:
    """Switch rounding on or off in all layers that have a range."""
    for _, found in ranges(network):
        found.active = active


def without_fake_quantisation(network: nn.Module) -> nn.Module:
    """Copy with plain layers and the weights before rounding."""
    network = copy.deepcopy(network)
    for module in [m for m in network.modules() if type(m) in PLAIN]:
        delattr(module, _range_name(module))
        module.__class__ = PLAIN[type(module)]
    return network


def fixed_quantisation(network: nn.Module, fold: Callable[[nn.Module], nn.Module] | None = None) -> nn.Module:
    """Copy for inference whose steps are constants, for TorchScript and ONNX.

    Args:
        network: with observed ranges; its rounding is taken as active.
        fold: called with the copy, plain layers and rounded weights inside, and returns it with norms folded into the
            layers before, identities in their place; for example `monai_ext.networks.folded_norm.fold_norms`.

    Raises:
        InputError: a range was never observed, or there is none.
    """
    unobserved = [name for name, found in ranges(network) if not found.is_observed()]
    if unobserved or not is_fake_quantised(network):
        what = f"{len(unobserved)} layers never saw a batch, the first is {unobserved[0]!r}" if unobserved else "none"
        raise InputError(f"quantised layers: {what}. Cure: train with quantize qat before exporting")
    fixed = {name: _fixed_range(found) for name, found in ranges(network)}
    norms = {name for name, module in network.named_modules() if _range_name(module) == OUTPUT_RANGE and name in fixed}
    plain = without_fake_quantisation(network).eval()
    with torch.no_grad():
        for name in fixed.keys() - norms:
            weight = plain.get_submodule(name).weight
            # rounded before norms are folded: whole steps stay whole steps when a channel is scaled
            weight.copy_(rounded_weight(weight))  # type: ignore[operator, arg-type]
    plain = plain if fold is None else fold(plain)
    for name, found in fixed.items():
        module = plain.get_submodule(name)
        if name in norms:
            parent, _, child = name.rpartition(".")
            # an identity would only lengthen the graph
            folded = isinstance(module, nn.Identity)
            setattr(plain.get_submodule(parent), child, found if folded else nn.Sequential(module, found))
        elif type(module) in FIXED:
            _fix(module, found)
        else:
            raise ValueError(f"folding replaced {name!r} by {type(module).__name__}, which cannot be quantised")
    return plain.requires_grad_(False).eval()


def _found(pattern: str, name: str) -> bool:
    return bool(pattern) and re.search(pattern, name) is not None


def _range_name(module: nn.Module) -> str:
    return OUTPUT_RANGE if isinstance(module, _ObservedNorm) or type(module) in OBSERVED_NORMS else INPUT_RANGE


def _observe(module: Any, symmetric: bool, momentum: float) -> None:
    found = ObservedRange(symmetric, momentum).to(module.weight.device).train(module.training)
    setattr(module, _range_name(module), found)
    # the module itself changes its class: whoever holds it, or its parameters, goes on holding the right one
    module.__class__ = (OBSERVED | OBSERVED_NORMS)[type(module)]


def _fixed_range(found: ObservedRange) -> FixedRange:
    step, zero = found.step_and_zero()
    return FixedRange(float(step), int(zero), found.symmetric)


def _fix(module: Any, found: FixedRange) -> None:
    step = weight_steps(module.weight)
    module.__class__ = FIXED[type(module)]
    module.input_range = found
    module.register_buffer("weight_step", step)
    module.register_buffer("weight_zero", torch.zeros_like(step, dtype=torch.int32))
