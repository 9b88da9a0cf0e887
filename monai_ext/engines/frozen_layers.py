"""First parts of a classifier that keep their weights and their batch-norm statistics during fine-tuning."""

from __future__ import annotations

from functools import partial
from typing import Any

from ignite.engine import Engine, Events
from torch import nn

from monai_ext.errors import InputError

PARTS = {"none": (), "stem": ("layer0",), "stage1": ("layer0", "layer1"), "stage2": ("layer0", "layer1", "layer2")}
PARTS["stage3"] = (*PARTS["stage2"], "layer3")
PARTS["stage4"] = (*PARTS["stage3"], "layer4")


def unwrapped(network: nn.Module) -> nn.Module:
    """The network itself out of `DistributedDataParallel`, `DataParallel` and `torch.compile`."""
    while True:
        if isinstance(network, nn.DataParallel | nn.parallel.DistributedDataParallel):
            network = network.module
        elif "_orig_mod" in network._modules:
            network = network.get_submodule("_orig_mod")
        else:
            return network


def frozen_parts(network: nn.Module, freeze: str) -> list[nn.Module]:
    """Modules that `freeze` names.

    Args:
        network: with the parts `layer0` (stem) and `layer1` to `layer4` (stages), as MONAI's SENet has them.
        freeze: `none`, `stem`, or `stage1` to `stage4`: the stem and every stage up to that one. `stage4` leaves only
            the classifying layer.

    Raises:
        InputError: the name is unknown, or the network lacks such a part.
    """
    if freeze not in PARTS:
        raise InputError(f"--freeze {freeze!r}: is not known. Cure: one of {', '.join(PARTS)}")
    children = dict(unwrapped(network).named_children())
    missing = [name for name in PARTS[freeze] if name not in children]
    if missing:
        raise InputError(f"--freeze {freeze}: the network has no {', '.join(missing)}. Cure: --freeze none")
    return [children[name] for name in PARTS[freeze]]


class FrozenLayers:
    """Keeps frozen parts in evaluation mode during training, so that their batch norms use and keep their statistics.

    MONAI's trainer switches the whole network to training mode before every step; the frozen parts refuse that from the
    start of a run to its end. Their parameters are frozen by `parameter_groups`.

    Args:
        network: being trained; may be wrapped.
        freeze: see `frozen_parts`.

    Raises:
        InputError: see `frozen_parts`.
    """

    def __init__(self, network: nn.Module, freeze: str = "none") -> None:
        self.parts = frozen_parts(network, freeze)

    def attach(self, engine: Engine) -> None:
        if self.parts:
            engine.add_event_handler(Events.STARTED, lambda _: self.hold())
            engine.add_event_handler(Events.COMPLETED, lambda _: self.release())

    def hold(self) -> None:
        """Put the parts in evaluation mode and keep them there."""
        for part in self.parts:
            part.eval()
            # an attribute of the instance: a forward hook would be traced by torch.compile, a subclass would change
            # what the module is
            part.__dict__["train"] = partial(_stay, part)

    def release(self) -> None:
        """Let the parts follow `network.train()` again."""
        for part in self.parts:
            part.__dict__.pop("train", None)


def _stay(part: nn.Module, mode: Any = True) -> nn.Module:
    """Stands in for `part.train`."""
    return part
