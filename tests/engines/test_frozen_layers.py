"""Frozen parts keep weights and batch-norm statistics through steps of MONAI's trainer."""

from __future__ import annotations

import copy

import pytest
import torch
from ignite.engine import Events
from monai.engines import SupervisedTrainer
from torch import nn

from monai_ext.engines.frozen_layers import FrozenLayers, frozen_parts, unwrapped
from monai_ext.engines.optimizers import make_optimizer
from monai_ext.engines.parameter_groups import parameter_groups
from monai_ext.errors import InputError
from monai_ext.losses.classification_loss import ClassificationLoss
from monai_ext.networks.se_resnext import SeResNeXt


class TwoStages(nn.Module):
    """Parts of the names and order of a classifier, small."""

    def __init__(self) -> None:
        super().__init__()
        self.layer0 = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
        self.layer1 = nn.Sequential(nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4)), nn.ReLU())
        self.last_linear = nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last_linear(self.layer1(self.layer0(x)).mean((2, 3)))


def train(network: nn.Module, freeze: str, handler: bool = True) -> list[bool]:
    """Three steps; returns whether layer0 was in training mode after each."""
    generator = torch.Generator().manual_seed(0)
    batches = [
        {"image": 5 + torch.randn(4, 1, 33, 33, generator=generator), "label": torch.tensor([0, 1, 0, 1])}
        for _ in range(3)
    ]
    trainer = SupervisedTrainer(
        torch.device("cpu"), 1, batches, network,
        make_optimizer(parameter_groups(network, 0.1, 0.01, freeze=freeze), "sgd"), ClassificationLoss(), amp=False,
    )  # fmt: skip
    modes: list[bool] = []
    if handler:
        FrozenLayers(network, freeze).attach(trainer)
    trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda _: modes.append(unwrapped(network).layer0.training))
    trainer.run()
    return modes


def changed(before: nn.Module, after: nn.Module) -> set[str]:
    """Top-level parts any tensor of which moved."""
    state = after.state_dict()
    return {name.split(".")[0] for name, value in before.state_dict().items() if not torch.equal(value, state[name])}


@pytest.mark.parametrize(
    ("freeze", "moved"),
    [("none", {"layer0", "layer1", "last_linear"}), ("stem", {"layer1", "last_linear"}), ("stage1", {"last_linear"})],
)
@pytest.mark.parametrize("wrap", [False, True])
def test_frozen_parts_stay_bit_for_bit(freeze: str, moved: set[str], wrap: bool) -> None:
    torch.manual_seed(0)
    network = TwoStages()
    before = copy.deepcopy(network)
    modes = train(nn.DataParallel(network) if wrap else network, freeze)
    assert changed(before, network) == moved
    assert modes == [freeze == "none"] * 3


@pytest.mark.parametrize("fused", [False, True])
def test_the_classifier_with_its_ops(fused: bool) -> None:
    """Its fused norms update statistics themselves; every norm of a frozen stage keeps them, shortcuts included."""
    torch.manual_seed(0)
    network = SeResNeXt(2, 1, 2, (1, 2, 1, 1), 8, 2, 16, 16, fused=fused)
    before = copy.deepcopy(network)
    train(network, "stage2")
    assert changed(before, network) == {"layer3", "layer4", "last_linear"}
    norms = {n.split(".")[0] for n, m in network.named_modules() if getattr(m, "num_batches_tracked", None) == 3}
    assert norms == {"layer3", "layer4"}


def test_without_the_handler_the_statistics_move() -> None:
    """What the handler is for: frozen weights alone do not keep batch norms."""
    torch.manual_seed(0)
    network = TwoStages()
    before = copy.deepcopy(network)
    train(network, "stem", handler=False)
    assert "layer0" in changed(before, network)


def test_parts_follow_again_after_the_run() -> None:
    network = TwoStages()
    train(network, "stem")
    assert network.train().layer0.training
    assert "train" not in vars(network.layer0)


def test_a_copy_made_meanwhile_is_whole() -> None:
    network = TwoStages()
    handler = FrozenLayers(network, "stem")
    handler.hold()
    other = copy.deepcopy(network)
    handler.release()
    network.train()
    assert network.layer0.training
    assert other.train() is other
    assert not other.layer0.training
    assert other.layer1.training


def test_unknown_parts_are_refused() -> None:
    assert frozen_parts(TwoStages(), "none") == []
    with pytest.raises(InputError, match="--freeze stage3: the network has no layer2, layer3"):
        FrozenLayers(TwoStages(), "stage3")
    with pytest.raises(InputError, match=r"--freeze 'all'.*Cure: one of none, stem, stage1, stage2, stage3, stage4"):
        FrozenLayers(TwoStages(), "all")
