"""The U-Net of unpadded convolutions: parameters, every stage's shape, up-convolution, initial weights, export."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from monai_ext.errors import InputError
from monai_ext.networks.ensemble import ProbabilityMean
from monai_ext.networks.valid_unet import ValidUNet, network_from_em_plan
from monai_ext.planning.em_plan import EmPlan


@pytest.mark.parametrize(("upsampling", "parameters"), [("conv3", 34_512_258), ("conv2", 31_030_658)])
def test_published_parameter_counts(upsampling: str, parameters: int) -> None:
    with torch.device("meta"):
        network = ValidUNet(upsampling=upsampling)
    assert sum(p.numel() for p in network.parameters()) == parameters


def test_published_parameters_of_every_stage() -> None:
    with torch.device("meta"):
        network = ValidUNet()

    def count(*modules: nn.Module) -> int:
        return sum(p.numel() for module in modules for p in module.parameters())

    assert [count(block) for block in network.encoder] == [37_568, 221_440, 885_248, 3_539_968]
    assert count(network.bottleneck, network.up[0]) == 18_876_928
    assert [count(network.decoder[i], network.up[i + 1]) for i in range(3)] == [8_258_816, 2_065_024, 516_416]
    assert count(network.decoder[3], network.head) == 110_850


def test_shapes_of_every_stage() -> None:
    """572 pixels: the sizes after every block and up-convolution, as published."""
    with torch.device("meta"):
        network = ValidUNet(base_features=4)
        shapes: list[tuple[int, int]] = []
        blocks = [*network.encoder, network.bottleneck]
        blocks += [module for pair in zip(network.up, network.decoder, strict=True) for module in pair]
        for block in blocks:
            block.register_forward_hook(lambda _m, _i, out: shapes.append((out.shape[1], out.shape[2])))
        output = network(torch.empty(2, 1, 572, 572))
    encoder = [(4, 568), (8, 280), (16, 136), (32, 64), (64, 28)]
    decoder = [(32, 56), (32, 52), (16, 104), (16, 100), (8, 200), (8, 196), (4, 392), (4, 388)]
    assert shapes == encoder + decoder
    assert output.shape == (2, 2, 388, 388)


def test_sizes_other_than_the_published_ones() -> None:
    network = ValidUNet(base_features=2, levels=3)
    assert network(torch.zeros(1, 1, 92, 100)).shape == (1, 2, 4, 12)
    with pytest.raises(InputError, match=r"network input: 96 x 92 pixels.*96: 92 or 100"):
        network(torch.zeros(1, 1, 96, 92))


def test_output_pixel_sees_its_surrounding_and_nothing_else() -> None:
    """Moving the window by a multiple of 2^levels moves the output: no border effect anywhere."""
    torch.manual_seed(0)
    network = ValidUNet(base_features=2, levels=2, dropout=0, upsampling="conv2").eval().double()
    image = torch.randn(1, 1, 60, 60, dtype=torch.float64)
    whole = network(image)
    part = network(image[..., 8:52, 4:48])
    torch.testing.assert_close(part, whole[..., 8 : 8 + part.shape[2], 4 : 4 + part.shape[3]], rtol=0, atol=1e-12)


def test_up_convolution_is_the_first_samples_of_the_full_one() -> None:
    """TensorFlow's "same": of the 2n + 1 samples of the full transposed convolution the first 2n."""
    torch.manual_seed(0)
    up = ValidUNet(base_features=2, levels=1).up[0].double()
    x = torch.randn(1, 4, 3, 3, dtype=torch.float64)
    full = torch.zeros(1, 2, 7, 7, dtype=torch.float64) + up.conv.bias[:, None, None]
    for row in range(3):
        for column in range(3):
            taps = torch.einsum("c,cokl->okl", x[0, :, row, column], up.conv.weight)
            full[0, :, 2 * row : 2 * row + 3, 2 * column : 2 * column + 3] += taps
    torch.testing.assert_close(up(x), full[..., :6, :6].relu())


def test_glorot_and_he_weights() -> None:
    torch.manual_seed(0)
    convolution = ValidUNet(base_features=16).encoder[3][2]
    bound = math.sqrt(6 / (9 * 128 + 9 * 128))
    assert convolution.weight.abs().max() <= bound
    assert convolution.weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.01)  # 147456 draws
    network = ValidUNet(base_features=16, init="he", upsampling="conv2")
    assert network.encoder[3][2].weight.std().item() == pytest.approx(math.sqrt(2 / (9 * 128)), rel=0.01)
    assert network.up[0].weight.std().item() == pytest.approx(math.sqrt(2 / 256), rel=0.01)  # one tap a channel
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            assert not module.bias.any()


def test_activity_neither_dies_nor_explodes_with_he_weights() -> None:
    """What the paper's initial weights are for: about unit variance after every stage."""
    torch.manual_seed(0)
    network = ValidUNet(base_features=16, init="he", upsampling="conv2", dropout=0)
    spread = network(torch.randn(1, 1, 220, 220)).std()
    assert 0.2 < spread < 5


def test_dropout_in_training_only() -> None:
    torch.manual_seed(0)
    network = ValidUNet(base_features=2, levels=2)
    x = torch.randn(1, 1, 60, 60)
    assert not torch.equal(network(x), network(x))
    network.eval()
    assert torch.equal(network(x), network(x))


def test_scripted_and_traced_networks_agree() -> None:
    network = ValidUNet(base_features=2, levels=2).eval()
    x = torch.randn(1, 1, 60, 76)
    torch.testing.assert_close(torch.jit.script(network)(x), network(x))
    torch.testing.assert_close(torch.jit.trace(network, x)(x), network(x))


def test_unknown_names_are_refused() -> None:
    with pytest.raises(InputError, match=r"--upsampling 'bilinear'.*conv3, conv2"):
        ValidUNet(upsampling="bilinear")
    with pytest.raises(InputError, match=r"--init 'zero'.*glorot, he"):
        ValidUNet(init="zero")


def test_network_of_a_plan() -> None:
    plan = EmPlan("stack", "tile", (60, 60), (0.0, 255.0), 3, 2, "conv2")
    network = network_from_em_plan(plan, dropout=0.25, init="he")
    assert network.levels == 2
    assert network.head.in_channels == 3
    assert network.bottleneck[1].p == 0.25
    assert isinstance(network.up[0], nn.ConvTranspose2d)


def test_ensemble_is_the_mean_of_probabilities() -> None:
    torch.manual_seed(0)
    networks = [ValidUNet(base_features=2, levels=2).eval() for _ in range(3)]
    x = torch.randn(2, 1, 60, 60)
    expected = torch.stack([network(x).softmax(1) for network in networks]).mean(0)
    torch.testing.assert_close(ProbabilityMean(networks)(x).softmax(1), expected)
    with pytest.raises(ValueError, match="at least one"):
        ProbabilityMean([])
