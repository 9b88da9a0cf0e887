"""Names of other libraries to those of the network, one by one."""

from __future__ import annotations

import pytest
from monai.networks.nets import SEResNext101

from monai_ext.networks import weight_names
from monai_ext.networks.weight_names import network_name, source_of


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("conv1.weight", "layer0.conv1.weight"),
        ("layer0.conv1.weight", "layer0.conv1.weight"),
        ("bn1.running_var", "layer0.bn1.running_var"),
        ("layer0.bn1.num_batches_tracked", "layer0.bn1.num_batches_tracked"),
        ("layer3.22.conv2.weight", "layer3.22.conv2.conv.weight"),
        ("layer3.10.bn3.bias", "layer3.10.conv3.adn.N.bias"),
        ("layer2.0.downsample.0.weight", "layer2.0.project.conv.weight"),
        ("layer2.0.downsample.1.running_mean", "layer2.0.project.adn.N.running_mean"),
        ("layer4.2.se.fc1.bias", "layer4.2.se_layer.fc.0.bias"),
        ("layer4.2.se_module.fc2.weight", "layer4.2.se_layer.fc.2.weight"),
        ("layers.0.0.conv1.weight", "layer1.0.conv1.conv.weight"),
        ("layers.3.2.squeeze.squeeze.weight", "layer4.2.se_layer.fc.0.weight"),
        ("layers.2.22.squeeze.expand.bias", "layer3.22.se_layer.fc.2.bias"),
        ("layer1.0.squeeze.expand.bias", "layer1.0.se_layer.fc.2.bias"),
        ("layers.1.0.downsample.1.num_batches_tracked", "layer2.0.project.adn.N.num_batches_tracked"),
        ("fc.bias", "last_linear.bias"),
        ("last_linear.weight", "last_linear.weight"),
        # of no pattern
        ("conv1.0.weight", "conv1.0.weight"),
        ("aux.fc.weight", "aux.fc.weight"),
        ("layer1.0.conv1.conv.weight", "layer1.0.conv1.conv.weight"),
        ("layer1.0.downsample.2.weight", "layer1.0.downsample.2.weight"),
    ],
)
def test_names(theirs: str, ours: str) -> None:
    assert network_name(theirs) == ours


def test_own_names_stay() -> None:
    names = SEResNext101(spatial_dims=1, in_channels=1, num_classes=2, layers=(1, 1, 1, 1)).state_dict()
    assert [network_name(name) for name in names] == list(names)


@pytest.mark.parametrize(
    ("names", "source"),
    [
        (["conv1.weight", "layer1.0.conv1.weight", "fc.weight"], weight_names.TORCHVISION),
        (["conv1.weight", "layer1.0.conv1.weight", "layer1.0.se.fc1.weight"], weight_names.TIMM),
        (["layer0.conv1.weight", "layer1.0.conv1.weight", "layer1.0.se_module.fc1.weight"], weight_names.LEGACY),
        (["conv1.weight", "layers.0.0.conv1.weight"], weight_names.NVIDIA),
        (["conv1.weight", "layer1.0.conv1.weight", "layer1.0.squeeze.squeeze.weight"], weight_names.NVIDIA),
        (["layer0.conv1.weight", "layer1.0.conv1.conv.weight", "layer1.0.conv1.adn.N.bias"], weight_names.MONAI),
        (["encoder.weight"], None),
        ([], None),
    ],
)
def test_sources(names: list[str], source: weight_names.WeightSource | None) -> None:
    assert source_of(names) == source
