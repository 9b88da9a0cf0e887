"""Statistics of batch norms for what is predicted, not for what was augmented and mixed in training."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events
from torch import distributed, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.data import Dataset, default_collate

from monai_ext.engines import process_group
from monai_ext.engines.frozen_layers import frozen_parts
from monai_ext.networks.shared_batch_norm import SharedBatchNorm

# Images a batch: the batch of all processes together is counted by every one of them, and the memory of one process
# must not grow with their number. Without gradients 64 images need less than a few in training.
LARGEST_BATCH = 64


class NormRecalibration:
    """Before every validation, measures the running statistics of batch norms anew on plain training images.

    Running statistics are those of augmented, perhaps mixed images, and lag behind the weights. Where grey values tell
    classes apart that costs much: with mixup, cutmix and jitter a class of MedNIST fell from 99 to 73 % sensitivity
    (Touvron et al. 2019 describe the gap between images of training and test, Wu and Johnson 2021 the remedy).

    Several processes share the batches; all get the mean over all of them, as one process would.

    Args:
        network: that is validated and saved.
        images: samples with `image`, as they are validated.
        prepare_batch: of the validation engine.
        num_images: drawn once, seeded; 0 changes nothing.
        batch_size: images whose statistics are averaged, at most `LARGEST_BATCH`.
        device: of the network.
        inferer: calls the network as in validation.
        freeze: parts that keep their statistics, see `frozen_parts`.
        seed: of the draw.
    """

    def __init__(
        self,
        network: nn.Module,
        images: Dataset[Mapping[str, Any]],
        prepare_batch: Callable[..., tuple[torch.Tensor, Any]],
        num_images: int,
        batch_size: int,
        device: torch.device | str,
        inferer: Callable[..., Any],
        freeze: str = "none",
        seed: int = 0,
    ) -> None:
        self.network = network
        self.images = images
        self.prepare_batch = prepare_batch
        self.num_images = num_images
        self.batch_size = min(batch_size, LARGEST_BATCH)
        self.device = torch.device(device)
        self.inferer = inferer
        self.frozen = frozen_parts(network, freeze)
        self.seed = seed

    def attach(self, engine: Engine) -> None:
        """Attach to the validation engine."""
        if self.num_images > 0:
            engine.add_event_handler(Events.STARTED, lambda _: self.measure())

    @torch.no_grad()
    def measure(self) -> None:
        """Replace the statistics; leaves the network in evaluation mode."""
        frozen = {id(module) for part in self.frozen for module in part.modules()}
        norms: list[Any] = [m for m in self.network.modules() if isinstance(m, _BatchNorm) and id(m) not in frozen]
        norms = [norm for norm in norms if norm.track_running_stats]
        batches = self._batches()
        if not norms or not batches:
            return
        kept = [norm.momentum for norm in norms]
        self.network.eval()
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # a plain mean over batches
            norm.train()
            for child in norm.children():  # ranges of quantisation-aware training stay
                child.eval()
        shared = [norm for norm in norms if isinstance(norm, nn.SyncBatchNorm | SharedBatchNorm)]
        for norm in shared:  # every process has its own batches here, perhaps more of them than others
            norm.__dict__["forward"] = partial(_BatchNorm.forward, norm)
        own = batches[process_group.rank() :: process_group.world_size()]
        try:
            self._pass(own)
            _average(norms, len(own), len(batches))
        finally:
            for norm in shared:
                del norm.__dict__["forward"]
            for norm, momentum in zip(norms, kept, strict=True):
                norm.momentum = momentum
                norm.eval()

    def _pass(self, batches: Sequence[Sequence[int]]) -> None:
        # a signal must not end this on one process while the others wait for its share: hooks of the network, by which
        # `Interruption` leaves a validation, are called by a process that is alone only
        network = self.network if process_group.world_size() == 1 else self.network.forward
        for chosen in batches:
            batch = default_collate([{"image": self.images[i]["image"]} for i in chosen])
            image, _ = self.prepare_batch(batch, self.device)
            self.inferer(image, network)

    def _batches(self) -> list[Sequence[int]]:
        """Indices of images, several in every batch."""
        total = len(self.images)  # type: ignore[arg-type]
        order = np.random.default_rng(self.seed).permutation(total)[: self.num_images].tolist()
        # batches of nearly equal size: a small last one would weigh as much as the others
        count = -(-len(order) // max(1, self.batch_size))
        parts = [part.tolist() for part in np.array_split(order, count)] if count else []
        return [part for part in parts if len(part) > 1]


def _average(norms: Sequence[Any], own: int, total: int) -> None:
    """Statistics of norms over the batches of all processes, from those over this one's `own` of `total` batches."""
    if process_group.world_size() == 1:
        return
    values = [values for norm in norms for values in (norm.running_mean, norm.running_var)]
    sums = torch.cat([value.double() for value in values]) * own
    distributed.all_reduce(sums)
    for value, mean in zip(values, (sums / total).split([len(value) for value in values]), strict=True):
        value.copy_(mean)
    for norm in norms:
        norm.num_batches_tracked.fill_(total)
