"""Names of residual classifiers in the backbone."""

from __future__ import annotations

import pytest

from monai_ext.networks.mask_rcnn.residual_names import name_of_classifier


@pytest.mark.parametrize(
    ("name", "own"),
    [
        ("conv1.weight", "conv1.weight"),
        ("bn1.num_batches_tracked", "bn1.num_batches_tracked"),
        ("layer3.22.bn3.running_var", "layer3.22.bn3.running_var"),
        ("layer4.0.downsample.1.bias", "layer4.0.downsample.1.bias"),
        ("layers.0.0.downsample.0.weight", "layer1.0.downsample.0.weight"),  # NVIDIA counts from 0
        ("layers.3.12.conv2.weight", "layer4.12.conv2.weight"),
        ("layer0.conv1.weight", "conv1.weight"),  # MONAI
        ("layer0.bn1.weight", "bn1.weight"),
        ("layer2.11.conv3.conv.weight", "layer2.11.conv3.weight"),
        ("layer2.11.conv3.adn.N.running_mean", "layer2.11.bn3.running_mean"),
        ("layer2.0.project.conv.weight", "layer2.0.downsample.0.weight"),
        ("layer2.0.project.adn.N.bias", "layer2.0.downsample.1.bias"),
    ],
)
def test_names(name: str, own: str) -> None:
    assert name_of_classifier(name) == f"backbone.body.{own}"


def test_classifying_layers_and_what_is_not_known() -> None:
    assert {name_of_classifier(n) for n in ("fc.weight", "fc.bias", "last_linear.weight")} == {None}
    # gates, deep stems and fifth stages are no parts of the backbone: the names stay, and have no place there
    for name in ("layer1.0.se.fc1.weight", "conv1.0.weight", "layer5.0.conv1.weight", "head.fc.weight"):
        assert name_of_classifier(name) == name
