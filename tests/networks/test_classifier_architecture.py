"""Architectures told from tensors, those of the plan's names and some that no plan has."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from monai.networks.nets import SENet154

from foreign_weights import Foreign
from monai_ext.networks.classifier_architecture import architecture_of
from monai_ext.networks.se_resnext import SeResNeXt
from monai_ext.networks.weight_names import network_name
from monai_ext.planning.class_plan import ARCHITECTURES


@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_fields_of_a_plan_come_back(arch: str, dims: int) -> None:
    fields = ARCHITECTURES[arch]
    with torch.device("meta"):
        state = SeResNeXt(spatial_dims=dims, in_channels=2, num_classes=6, **fields).state_dict()
    found = architecture_of(state)
    assert found is not None
    assert {key: getattr(found, key) for key in fields} == fields
    assert (found.spatial_dims, found.channels, found.num_classes, found.se_hidden) == (dims, 2, 6, 0)
    assert found.bottleneck
    expected = "se-resnext20-8x8d of 32 features" if arch == "se-resnext-narrow" else arch
    assert found.name == expected


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"layers": (3, 4, 6, 3), "groups": 32, "group_width": 4}, "resnext50-32x4d"),
        ({"layers": (3, 4, 23, 3), "groups": 32, "group_width": 8}, "resnext101-32x8d"),
        ({"layers": (3, 8, 36, 3), "groups": 1, "group_width": 64}, "resnet152"),
        ({"layers": (3, 4, 6, 3), "groups": 1, "group_width": 128}, "wide-resnet50-2"),
    ],
)
def test_names_of_others(options: dict[str, Any], name: str) -> None:
    foreign = Foreign("torchvision", planes=64, **options)
    found = architecture_of({network_name(k): v for k, v in foreign.state(numbered=True).items()})
    assert found is not None
    assert found.name == name


def test_width_of_gates() -> None:
    state = Foreign("nvidia", hidden=16).state(numbered=True)
    found = architecture_of({network_name(k): v for k, v in state.items()})
    assert found is not None
    assert (found.se_hidden, found.se_ratio) == (16, 0)
    assert "16 hidden units a gate" in found.describe()


def test_two_convolutions_a_block() -> None:
    """ResNet-18: names as torchvision has them, shapes of its blocks."""
    state: dict[str, torch.Tensor] = {
        "layer0.conv1.weight": torch.empty(64, 3, 7, 7),
        "last_linear.weight": torch.empty(9, 512),
    }
    for stage in range(4):
        for block in range(2):
            width = 64 * 2**stage
            for conv in (1, 2):
                state[f"layer{stage + 1}.{block}.conv{conv}.conv.weight"] = torch.empty(width, width, 3, 3)
    found = architecture_of(state)
    assert found is not None
    assert (found.name, found.bottleneck, found.num_classes) == ("resnet18", False, 9)


def test_other_networks_are_not_named() -> None:
    with torch.device("meta"):
        deep_stem = SENet154(spatial_dims=2, in_channels=3, layers=(1, 1, 1, 1)).state_dict()
    found = architecture_of(deep_stem)
    assert found is None or found.shortcuts == 3
    whole = {network_name(k): v for k, v in Foreign("timm", (1, 2, 1, 1)).state().items()}
    assert architecture_of(whole) is not None
    assert architecture_of({}) is None
    for gone in ("layer4.", "layer2.0.", "layer0.", "layer1.0.conv2."):
        assert architecture_of({k: v for k, v in whole.items() if not k.startswith(gone)}) is None
