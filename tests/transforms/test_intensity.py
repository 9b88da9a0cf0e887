"""What the intensity transforms do to values."""

from __future__ import annotations

import pytest
import torch

from monai_ext.ops.intensity_chain import intensity_chain
from monai_ext.transforms.brightness import RandBrightnessd
from monai_ext.transforms.contrast import RandContrastd
from monai_ext.transforms.gamma import RandGammad
from monai_ext.transforms.gaussian_blur import RandBlurd
from monai_ext.transforms.gaussian_noise import RandNoised
from monai_ext.transforms.low_resolution import RandLowResolutiond


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def add_noise(image: torch.Tensor, std: float, seed: int) -> torch.Tensor:
    return RandNoised().apply(image, {"std": std, "seed": seed})


def blur(channel: torch.Tensor, sigmas: tuple[float, ...]) -> torch.Tensor:
    return RandBlurd().apply(channel[None], {"channels": [0], "sigmas": [list(sigmas)]})[0]


def coarsen(channel: torch.Tensor, zooms: tuple[float, ...]) -> torch.Tensor:
    return RandLowResolutiond().apply(channel[None], {"channels": [0], "zooms": [list(zooms)]})[0]


def stretch(image: torch.Tensor, factors: list[float], about: str) -> torch.Tensor:
    return RandContrastd().apply(image, {"factors": factors, "about": about})


def gamma_curve(channel: torch.Tensor, gamma: float, invert: bool, keep_stats: bool) -> torch.Tensor:
    params = {"gammas": [gamma], "invert": invert, "keep_stats": keep_stats}
    return RandGammad().apply(channel[None], params)[0]


def test_noise_has_the_moments_asked_for() -> None:
    noise = add_noise(torch.zeros(1, 40, 50, 60), 0.25, seed=3)
    # standard errors 0.0007 (mean) and 0.0005 (std) of 120000 values; five of them
    assert abs(noise.mean()) < 0.0036
    assert abs(noise.std() - 0.25) < 0.0026
    assert not torch.equal(noise, add_noise(torch.zeros(1, 40, 50, 60), 0.25, seed=4))


def test_noise_std_is_uniform() -> None:
    transform = RandNoised(prob=1, std=(0, 0.33))
    transform.set_random_state(seed=0)
    drawn = torch.tensor([transform.draw(torch.zeros(1, 2, 2))["std"] for _ in range(2000)])
    # uniform: mean 0.165, std 0.0953; standard errors 0.0021 and 0.001, five of them
    assert abs(drawn.mean() - 0.165) < 0.011
    assert abs(drawn.std() - 0.0953) < 0.005


def test_blur_of_a_point_is_a_gaussian() -> None:
    image = torch.zeros(15, 15, 15)
    image[7, 7, 7] = 1
    out = blur(image, (1.0, 0.0, 0.5))
    # float32
    assert out.sum().item() == pytest.approx(1, abs=1e-6)
    assert out[6, 7, 7] / out[7, 7, 7] == pytest.approx(torch.tensor(-0.5).exp().item(), rel=1e-5)
    assert out[7, 7, 6] / out[7, 7, 7] == pytest.approx(torch.tensor(-2.0).exp().item(), rel=1e-5)
    assert torch.count_nonzero(out[:, :7]) == 0


def test_blur_keeps_constants_at_borders_and_takes_tiny_patches() -> None:
    # taps sum to 1 in float32
    torch.testing.assert_close(
        blur(torch.full((1, 2, 9), 3.0), (1.5, 1.5, 1.5)), torch.full((1, 2, 9), 3.0), atol=1e-5, rtol=0
    )


@pytest.mark.parametrize("kind", [RandBlurd, RandLowResolutiond])
def test_channels_are_drawn_one_by_one(kind) -> None:
    transform, image = kind(prob=1, channel_prob=0.5), normal(4, 8, 8, 8)
    transform.set_random_state(seed=2)
    seen = [0] * 4
    for _ in range(200):
        transform.randomize(image)
        for channel in transform.params.get("channels", []):
            seen[channel] += 1
    # binomial of 200 at 1/2, standard deviation 7: four of them
    assert all(abs(n - 100) < 29 for n in seen)
    transform.params = {}
    while len(transform.params.get("channels", [])) != 2:
        transform.randomize(image)
    out = transform.apply(image, transform.params)
    changed = [c for c in range(4) if not torch.equal(out[c], image[c])]
    assert changed == transform.params["channels"]


def test_one_sigma_for_all_if_asked() -> None:
    transform = RandBlurd(prob=1, per_axis=False)
    transform.set_random_state(seed=0)
    sigmas = transform.draw(normal(2, 4, 4, 4))["sigmas"]
    assert len({s for row in sigmas for s in row}) == 1


def test_brightness_multiplies_each_channel() -> None:
    image = normal(3, 4, 5, 6)
    out = RandBrightnessd().apply(image, {"factors": [0.5, 1.0, 2.0]})
    assert torch.equal(out, torch.stack([image[0] * 0.5, image[1], image[2] * 2]))
    shared = RandBrightnessd(prob=1, per_channel=False)
    shared.set_random_state(seed=0)
    assert len(set(shared.draw(image)["factors"])) == 1


def test_contrast_about_the_mean() -> None:
    x = normal(6, 7, 8) + 5
    weaker = stretch(x[None], [0.8], "mean")[0]
    # float32 of values near 5
    torch.testing.assert_close(weaker, (x - x.mean()) * 0.8 + x.mean(), atol=1e-5, rtol=0)
    stronger = stretch(x[None], [1.25], "mean")[0]
    assert stronger.min() == x.min()
    assert stronger.max() == x.max()
    assert stronger.std() > x.std()


def test_contrast_about_zero_clamps_to_the_range_of_all_channels() -> None:
    image = torch.tensor([[[-1.0, 0.5]], [[2.0, -0.8]]])
    assert stretch(image, [1.5, 1.5], "zero").tolist() == [[[-1.0, 0.75]], [[2.0, -1.0]]]


def test_low_resolution_is_nearest_then_linear() -> None:
    import torch.nn.functional as F  # noqa: N812

    x = normal(1, 1, 10, 12, 9)
    down = F.interpolate(x, (6, 7, 5), mode="nearest-exact")
    expected = F.interpolate(down, (10, 12, 9), mode="trilinear")
    # torch computes its positions in float32
    torch.testing.assert_close(coarsen(x[0, 0], (0.6, 0.6, 0.6)), expected[0, 0], atol=1e-5, rtol=0)
    assert torch.equal(coarsen(x[0, 0], (1.0, 1.0, 1.0)), x[0, 0])


def test_low_resolution_may_spare_the_first_axis() -> None:
    transform = RandLowResolutiond(prob=1, channel_prob=1, zoom=(0.5, 0.5), skip_axis_0=True)
    transform.set_random_state(seed=0)
    zooms = transform.draw(normal(1, 8, 8, 8))["zooms"][0]
    assert zooms == [1.0, 0.5, 0.5]
    ramp = torch.arange(8.0).view(8, 1, 1).expand(8, 8, 8)
    # float32 of values up to 7
    torch.testing.assert_close(coarsen(ramp, zooms), ramp.contiguous(), atol=1e-5, rtol=0)


@pytest.mark.parametrize("invert", [False, True])
@pytest.mark.parametrize("gamma", [0.7, 1.0, 1.5])
def test_gamma_curve(gamma: float, invert: bool) -> None:
    x = normal(9, 9, 9).double().mul(3).add(-2)
    low, high = x.min(), x.max()
    t = (high - x) / (high - low) if invert else (x - low) / (high - low)
    plain = t**gamma * (low - high) + high if invert else t**gamma * (high - low) + low
    # float32 of values up to 12, through a logarithm and an exponential
    torch.testing.assert_close(gamma_curve(x.float(), gamma, invert, False).double(), plain, atol=2e-5, rtol=0)
    kept = gamma_curve(x.float(), gamma, invert, True).double()
    expected = (plain - plain.mean()) / plain.std() * x.std() + x.mean()
    torch.testing.assert_close(kept, expected, atol=2e-5, rtol=0)


@pytest.mark.parametrize("keep_stats", [False, True])
def test_gamma_of_a_constant_is_that_constant(keep_stats: bool) -> None:
    x = torch.full((3, 3, 3), 2.5)
    assert torch.equal(gamma_curve(x, 0.7, False, keep_stats), x)


def test_channels_that_are_not_drawn_stay_bit_by_bit() -> None:
    image = normal(3, 5, 6, 7)
    for transform, name, row in ((RandBlurd(), "sigmas", [1.0] * 3), (RandLowResolutiond(), "zooms", [0.5] * 3)):
        out = transform.apply(image, {"channels": [1], name: [row]})
        assert [torch.equal(out[c], image[c]) for c in range(3)] == [True, False, True]


def test_steps_are_those_of_the_op() -> None:
    image = normal(2, 5, 6)
    step = RandContrastd().step(image, {"factors": [0.8, 1.2], "about": "zero"})
    expected = intensity_chain(image[None], [[step]])[0]
    assert torch.equal(stretch(image, [0.8, 1.2], "zero"), expected)
