"""The training step whose scaling is measured: network, loss and optimiser of a bundle on one random batch."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import torch
from torch import nn

from monai_ext.benchmark.timing import synchronize
from monai_ext.engines.optimizers import make_optimizer
from monai_ext.errors import Problems
from monai_ext.losses.deep_supervision import DeeplySupervised
from monai_ext.losses.dice_cross_entropy import DiceCrossEntropy
from monai_ext.losses.squared_dice_cross_entropy import SquaredDiceCrossEntropy
from monai_ext.networks.plan_unet import PlanUNet
from monai_ext.networks.valid_unet import ValidUNet
from monai_ext.planning.patch_size import level_features
from monai_ext.planning.topology import msd_topology
from monai_ext.planning.valid_sizes import valid_output_size

# patch, samples per rank and base features: on a processor those of the bundle's default there, on a GPU the published
# ones
SIZES: dict[str, dict[str, tuple[tuple[int, ...], int, int]]] = {
    "nnunet": {"cpu": ((40, 56, 40), 2, 16), "cuda": ((128, 128, 128), 2, 32)},
    "unet_em": {"cpu": ((572, 572), 2, 16), "cuda": ((572, 572), 8, 64)},
}
CHANNELS, CLASSES, EM_LEVELS = 4, 4, 4


@dataclass(frozen=True)
class StepSize:
    """What one rank does in a step.

    Attributes:
        bundle: `nnunet` (3D) or `unet_em`.
        patch_size: voxels `(z, y, x)` or pixels `(y, x)` of the network's input.
        batch_size: samples per rank, the same for any number of ranks.
        base_features: channels of the first level.
        amp: bfloat16 autocast.
    """

    bundle: str
    patch_size: tuple[int, ...] = ()
    batch_size: int = 0
    base_features: int = 0
    amp: bool = False

    def checked(self, device: torch.device) -> StepSize:
        """With the default sizes of that device where a size is empty or 0.

        Raises:
            InputError: an unknown bundle or an impossible size; all of them at once.
        """
        problems = Problems("benchmark scaling")
        if self.bundle not in SIZES:
            problems.add(f"--bundle {self.bundle}", "unknown", f"one of {', '.join(SIZES)}")
            problems.raise_if_any()
        patch, batch, features = SIZES[self.bundle]["cuda" if device.type == "cuda" else "cpu"]
        size = replace(
            self,
            patch_size=tuple(self.patch_size) or patch,
            batch_size=self.batch_size or batch,
            base_features=self.base_features or features,
        )
        dims = len(patch)
        whole = all(isinstance(edge, int) and edge >= 8 for edge in size.patch_size)
        if len(size.patch_size) != dims or not whole:
            example = ",".join(map(str, patch))
            problems.add(
                f"--patch_size {size.patch_size}", f"is not {dims} whole numbers from 8 on", f"such as {example}"
            )
        elif self.bundle == "unet_em" and not all(valid_output_size(edge, EM_LEVELS) for edge in size.patch_size):
            problems.add(f"--patch_size {size.patch_size}", "the valid convolutions do not allow it", "such as 572,572")
        for name in ("batch_size", "base_features"):
            value = getattr(size, name)
            if not isinstance(value, int) or value < 1:
                problems.add(f"--{name} {value}", "is no whole number from 1 on", "change it")
        problems.raise_if_any()
        return size


class ScaledStep:
    """Trains its own copy of a network on one random batch.

    Args:
        size: checked.
        device: of network and batch.
        wrap: makes of the network what is called, `data_parallel` as a rule.
        seed: of weights and batch; ranks should differ in it, as their samples do.

    Attributes:
        network: as wrapped.
    """

    def __init__(
        self, size: StepSize, device: torch.device, wrap: Callable[[nn.Module], nn.Module] | None = None, seed: int = 0
    ) -> None:
        torch.manual_seed(seed)
        self.device = device
        self.amp = size.amp
        bare, self.loss, self.images, self.labels = _parts(size, device, wrap is not None)
        self.network = wrap(bare) if wrap is not None else bare
        self.network.train()
        self.optimizer = make_optimizer(bare.parameters(), "adamw")

    def __call__(self) -> None:
        self.forward().backward()
        self.update()

    def forward(self) -> torch.Tensor:
        """The loss of the batch."""
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.amp):
            value: torch.Tensor = self.loss(self.network(self.images), self.labels)
        return value

    def update(self) -> None:
        """Let the optimiser use the gradients."""
        self.optimizer.step()

    def seconds(self, steps: int) -> tuple[float, float]:
        """Mean seconds of some steps, one after the other as in training: of the clock, and of the processor.

        The second counts all threads of this process and no waiting, so that other programs disturb it less.
        """
        synchronize(self.device)
        start, used = time.perf_counter(), time.process_time()
        for _ in range(steps):
            self()
        synchronize(self.device)
        return (time.perf_counter() - start) / steps, (time.process_time() - used) / steps

    def phases(self) -> tuple[float, float, float]:
        """Seconds of one step: forward pass and loss, backward pass, optimiser."""
        times = [self._now()]
        value = self.forward()
        times.append(self._now())
        value.backward()
        times.append(self._now())
        self.update()
        times.append(self._now())
        forward, backward, update = (b - a for a, b in pairwise(times))
        return forward, backward, update

    def _now(self) -> float:
        synchronize(self.device)
        return time.perf_counter()


def _parts(size: StepSize, device: torch.device, batch_dice: bool) -> tuple[nn.Module, Any, torch.Tensor, torch.Tensor]:
    """Network, loss, images `[B, C, *S]` float32 and labels `[B, 1, *S']` int64.

    Batch Dice waits for the other ranks, which one that steps alone must not.
    """
    network: nn.Module
    loss: nn.Module
    if size.bundle == "unet_em":
        network = ValidUNet(1, 2, size.base_features, EM_LEVELS)
        channels, classes = 1, 2
        loss = SquaredDiceCrossEntropy()
        outputs = tuple(valid_output_size(edge, EM_LEVELS) for edge in size.patch_size)
        patch = size.patch_size
    else:
        topology = msd_topology((1.0,) * len(size.patch_size), size.patch_size)
        features = level_features(len(topology.strides), size.base_features, len(size.patch_size))
        network = PlanUNet(
            len(size.patch_size), CHANNELS, CLASSES, topology.strides, topology.kernels, features, deep_supervision=True
        )
        channels, classes = CHANNELS, CLASSES
        loss = DeeplySupervised(DiceCrossEntropy(batch_dice=batch_dice))
        patch = outputs = tuple(topology.patch_size)
    images = torch.randn(size.batch_size, channels, *patch, device=device)
    labels = torch.randint(0, classes, (size.batch_size, 1, *outputs), device=device)
    return network.to(device), loss.to(device), images, labels
