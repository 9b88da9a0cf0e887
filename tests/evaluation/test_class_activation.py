"""Grad-CAM of a classifier."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from monai.visualize import GradCAM
from PIL import Image
from torch import nn

from monai_ext.errors import InputError
from monai_ext.evaluation.class_activation import (
    ActivationPicture,
    _cell_weights,
    class_activation,
    compose_activation,
    ramp,
)
from monai_ext.networks.ensemble import ProbabilityMean
from monai_ext.networks.se_resnext import SeResNeXt


class BrightOrDark(nn.Module):
    """Two features, brightness and darkness, pooled 2 x 2; a class follows each."""

    def __init__(self) -> None:
        super().__init__()
        self.layer4 = nn.Sequential(nn.Conv2d(1, 2, 2, stride=2), nn.ReLU())
        self.last_linear = nn.Linear(2, 2)
        with torch.no_grad():
            self.layer4[0].weight.copy_(torch.tensor([0.25, -0.25]).reshape(2, 1, 1, 1).expand(2, 1, 2, 2))
            self.layer4[0].bias.zero_()
            self.last_linear.weight.copy_(2 * torch.eye(2) - 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last_linear(self.layer4(x).mean((2, 3)))


def image() -> torch.Tensor:
    """Bright in the upper left corner, dark in the lower right one, grey else."""
    x = torch.zeros(1, 1, 16, 16)
    x[..., :6, :6], x[..., 10:, 10:] = 1, -1
    return x


def test_evidence_lies_where_it_was_put() -> None:
    x = torch.cat([image(), image(), image().flip(-1)])
    heat = class_activation(BrightOrDark(), x, [0, 1, 0], first_cell=0.5)
    assert heat.shape == (3, 16, 16)
    assert heat.dtype == torch.float32
    for found, corner in zip(heat, [(2, 2), (13, 13), (2, 13)], strict=True):
        assert found[corner] == 1 == found.max()
        assert found.min() == 0
        assert found[2:14, 2:14].sum() < 36  # nothing elsewhere
    assert (class_activation(BrightOrDark(), torch.zeros(1, 1, 16, 16), [0]) == 0).all()


@pytest.mark.filterwarnings("ignore:Full backward hook")  # of MONAI's GradCAM
@pytest.mark.parametrize("fused", [False, True])
def test_own_network_agrees_with_monai(fused: bool) -> None:
    """The last layer of the bundle's network, with and without fused ops; weights need no gradients."""
    torch.manual_seed(0)
    network = SeResNeXt(2, 1, 3, (1, 1, 1, 1), 32, 8, 8, 16, fused=fused).eval()
    x = torch.randn(1, 1, 96, 96)
    indices = [int(network(x).argmax())]
    expected = 1 - GradCAM(nn_module=network, target_layers="layer4")(x, class_idx=indices[0])[0, 0]
    found = class_activation(network.requires_grad_(False), x, indices, first_cell=None)[0]
    assert found.max() == 1
    low = found.min()
    torch.testing.assert_close((found - low) / (1 - low), expected, atol=1e-4, rtol=1e-4)  # sums in another order


@pytest.mark.filterwarnings("ignore:Full backward hook")  # of MONAI's GradCAM
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_agrees_with_monai(dims: int) -> None:
    torch.manual_seed(0)
    conv, norm, pool = ((getattr(nn, f"{n}{dims}d")) for n in ("Conv", "BatchNorm", "AdaptiveAvgPool"))
    network = nn.Sequential()
    network.add_module("layer4", nn.Sequential(conv(2, 6, 3, stride=2), norm(6), nn.SiLU()))
    network.add_module("head", nn.Sequential(pool(1), nn.Flatten(), nn.Linear(6, 3)))
    network.eval()
    x = torch.randn(2, 2, *[17] * dims)
    found = class_activation(network, x, torch.tensor([1, 2]), first_cell=None)
    inverted = GradCAM(nn_module=network, target_layers="layer4")  # 0 where the evidence is
    for i, index in enumerate((1, 2)):
        expected = 1 - inverted(x[i : i + 1], class_idx=index)[0, 0]
        low = found[i].min()
        assert found[i].max() == 1
        # MONAI also takes away the least evidence
        torch.testing.assert_close((found[i] - low) / (1 - low), expected, atol=1e-5, rtol=1e-5)


def test_cells_of_padded_convolutions_are_where_they_look() -> None:
    """A spot on pixel 64 is found on pixel 64; drawn as if cells tiled the image it would be half a stride beside."""
    network = nn.Sequential()
    halve = [nn.Conv2d(1, 1, 3, stride=2, padding=1, bias=False) for _ in range(5)]
    for conv in halve:
        nn.init.constant_(conv.weight, 1 / 9)
    network.add_module("layer4", nn.Sequential(*halve))
    network.add_module("head", nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()))
    x = torch.zeros(1, 1, 160, 160)
    x[..., 63:66, 95:98] = 1
    heat = class_activation(network, x, [0])[0]
    assert divmod(int(heat.argmax()), 160) == (64, 96)
    tiled = class_activation(network, x, [0], first_cell=None)[0]
    assert divmod(int(tiled.argmax()), 160) in [(y, x) for y in (79, 80) for x in (111, 112)]


@pytest.mark.parametrize(("length", "cells"), [(224, 7), (96, 3), (100, 4), (40, 2), (32, 32), (16, 1)])
def test_pixels_outside_of_cells_take_the_nearest(length: int, cells: int) -> None:
    weights = _cell_weights(length, cells, 0.0)
    torch.testing.assert_close(weights.sum(1), torch.ones(length))
    stride = 1 if cells == length else 32 if cells > 1 else 16
    assert weights.argmax(1)[::stride].tolist() == list(range(cells))


def test_network_is_left_as_it_was() -> None:
    network = BrightOrDark().requires_grad_(False).train()
    with torch.inference_mode():
        x = image() * 1.0
    class_activation(network, x, [0])
    assert network.training
    assert all(p.grad is None and not p.requires_grad for p in network.parameters())
    assert not network.layer4._forward_hooks
    with torch.no_grad():
        assert not network(image()).requires_grad


def test_maps_of_an_ensemble_are_averaged() -> None:
    """The second network sees darkness as brightness: evidence for class 0 is half here and half there."""
    other = BrightOrDark()
    with torch.no_grad():
        other.layer4[0].weight.neg_()
    heat = class_activation(ProbabilityMean([BrightOrDark(), other]), image(), [0], first_cell=0.5)[0]
    assert heat[2, 2] == pytest.approx(0.5)
    assert heat[13, 13] == pytest.approx(0.5)


def test_unknown_layer_is_refused() -> None:
    with pytest.raises(InputError, match=r"'layer9'.*Cure: one of layer4, last_linear"):
        class_activation(BrightOrDark(), image(), [0], layer="layer9")


def test_picture_shows_image_and_evidence(tmp_path: Path) -> None:
    ActivationPicture(BrightOrDark(), (0.5,), (0.25,))(image()[0], 0, "bright 98.0 %", tmp_path / "val" / "a.jpg.png")
    picture = np.asarray(Image.open(tmp_path / "val" / "a.jpg.png")).astype(int)
    half = picture.shape[1] // 2
    spread = picture.max(-1) - picture.min(-1)
    assert spread[20:300, 12 : half - 10].max() == 0  # the image itself is grey
    overlay = spread[20:300, half + 10 :]
    assert overlay[20, 20] > 45
    assert overlay[20, 20] > 2 * overlay[-20, -20]


def test_volume_shows_its_hottest_slice() -> None:
    volume, heat = np.zeros((1, 6, 8, 8), np.float32), np.zeros((6, 8, 8), np.float32)
    volume[0, 4], heat[4, :, :4] = 1, 1
    picture = compose_activation(volume, heat, "x", (0.0,), (1.0,))
    assert (picture[30:200, 30:200] == 255).all()
    with pytest.raises(ValueError, match="size"):
        compose_activation(volume, heat[1:], "x", (0.0,), (1.0,))
    signal = compose_activation(np.zeros((1, 32)), np.linspace(0, 1, 32), "x", (0.0,), (1.0,))
    assert signal.shape[1] == picture.shape[1]


def test_ramp_grows_lighter() -> None:
    light = ramp(np.linspace(0, 1, 50)) @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(light) > 0).all()


def test_normalisation_is_undone(tmp_path: Path) -> None:
    """Another mean gives another shade of the same values."""
    shades = []
    for mean in (0.25, 0.75):
        ActivationPicture(BrightOrDark(), (mean,), (0.25,))(image()[0], 0, "x", tmp_path / "a.png")
        shades.append(int(np.asarray(Image.open(tmp_path / "a.png"))[170, 170, 0]))
    assert shades == [64, 191]
