"""What is special to `intensity_chain`: its random numbers, steps in any order, statistics carried on, errors."""

from __future__ import annotations

import re
import shutil

import numpy as np
import pytest
import torch
from scipy import ndimage, stats

from monai_ext.ops.forms import forced
from monai_ext.ops.intensity_chain import intensity_chain
from monai_ext.ops.intensity_chain.axis_maps import gaussian_matrix, linear_places, nearest_voxels
from monai_ext.ops.intensity_chain.cases import (
    blur,
    brightness,
    contrast,
    gamma,
    low_resolution,
    noise,
    whole_chain,
)
from monai_ext.ops.intensity_chain.counter_noise import philox, standard_normals

has_compiler = any(map(shutil.which, ("g++", "clang++", "c++")))
FORMS = ["torch", pytest.param("c++", marks=pytest.mark.skipif(not has_compiler, reason="no C++ compiler"))]


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("counter", "seed", "words"),
    [
        ([0] * 4, 0, [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
        ([0xFFFFFFFF] * 4, 2**64 - 1, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
        (
            [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
            0x299F31D0A4093822,
            [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
        ),
    ],
)
def test_philox_gives_the_words_published_with_it(counter, seed, words):
    assert [int(w) for w in philox([torch.tensor(c) for c in counter], seed)] == words


@pytest.mark.parametrize("form", FORMS)
def test_noise_is_a_function_of_seed_channel_and_voxel(form):
    with forced(form):
        out = intensity_chain(torch.zeros(2, 2, 9, 10, 11), [[noise(1, 3)], [noise(1, 4)]]).reshape(2, 2, -1)
        alone = intensity_chain(torch.zeros(1, 1, 5, 7), [[noise(1, 4)]]).reshape(-1)
    assert torch.equal(out[1, 0, :35], alone)
    assert not torch.equal(out[0], out[1])
    assert not torch.equal(out[0, 0], out[0, 1])


@pytest.mark.parametrize("form", FORMS)
def test_noise_is_standard_normal_and_without_correlation(form):
    with forced(form):
        z = intensity_chain(torch.zeros(1, 2, 50, 60, 70), [[noise(1.0, 11)]]).reshape(2, -1).double()
    n = z.shape[1]
    # five standard errors each: of mean, variance, skewness, kurtosis and correlations of n values
    for sample in z:
        assert abs(sample.mean()) < 5 / n**0.5
        assert abs(sample.var() - 1) < 5 * (2 / n) ** 0.5
        assert abs((sample**3).mean()) < 5 * (15 / n) ** 0.5
        assert abs((sample**4).mean() - 3) < 5 * (96 / n) ** 0.5
        for lag in (1, 15, 16, 32, 64, 70):
            assert abs((sample[lag:] * sample[:-lag]).mean()) < 5 / n**0.5
        assert stats.kstest(sample[:20000].numpy(), "norm").pvalue > 1e-4
    assert abs((z[0] * z[1]).mean()) < 5 / n**0.5


def test_largest_and_smallest_words_give_finite_numbers():
    for n in (1, 63, 64, 65, 4096):
        assert standard_normals(1, 2, n, torch.float32).shape == (2, n)
    assert standard_normals(1, 1, 2**16, torch.float32).isfinite().all()


@pytest.mark.skipif(not has_compiler, reason="no C++ compiler")
def test_compiled_power_is_accurate():
    t = torch.linspace(0, 1, 100001).view(1, 1, 1, -1)
    for exponent in (0.3, 0.7, 1.0, 1.5, 3.0):
        with forced("c++"):
            found = intensity_chain(t, [[gamma(exponent, keep_stats=False)]]).double()
        expected = t.double() ** exponent
        seen = expected > 1e-4
        # logarithm and power 3e-7 each; rounding of t scaled and of the exponent times a logarithm of at most 17 bits
        assert ((found - expected)[seen].abs() / expected[seen]).max() < 1.5e-6
        assert found.min() == 0
        assert found.max() == 1


@pytest.mark.parametrize("sigma", [0.5, 0.8, 1.5])
@pytest.mark.parametrize("size", [1, 3, 20])
def test_blur_is_that_of_scipy(sigma, size):
    radius = int(np.ceil(3 * sigma))
    expected = ndimage.gaussian_filter1d(np.eye(size), sigma, axis=0, mode="nearest", radius=radius)
    np.testing.assert_allclose(gaussian_matrix(size, sigma).numpy(), expected, atol=1e-14)
    x = normal(1, 1, 6, size, 5)
    found = intensity_chain(x, [[blur([0.0, sigma, 0.0])]])[0, 0].double().numpy()
    # float32 sums of at most eleven products
    np.testing.assert_allclose(
        found, ndimage.gaussian_filter1d(x[0, 0].double().numpy(), sigma, 1, mode="nearest", radius=radius), atol=2e-6
    )


@pytest.mark.parametrize(("size", "coarse"), [(9, 5), (64, 33), (7, 7), (6, 1), (50, 49)])
def test_coarse_places_are_those_of_torch(size, coarse):
    line = normal(1, 1, size).double()
    down = torch.nn.functional.interpolate(line, coarse, mode="nearest-exact")
    assert torch.equal(line[..., nearest_voxels(size, coarse)], down)
    left, right, weight = linear_places(size, coarse)
    expected = torch.nn.functional.interpolate(down, size, mode="linear")
    torch.testing.assert_close(torch.lerp(down[..., left], down[..., right], weight), expected)


def random_chain(random: np.random.Generator, channels: int, axes: int) -> list[dict]:
    def values(low: float, high: float) -> list[float]:
        return random.uniform(low, high, channels).tolist()

    def rows(low: float, high: float, rest: float) -> list[list[float]]:
        return [
            random.uniform(low, high, axes).tolist() if random.random() < 0.7 else [rest] * axes for _ in values(0, 1)
        ]

    makers = [
        lambda: noise(float(random.uniform(0, 0.3)), int(random.integers(2**32))),
        lambda: blur(*rows(0.3, 2.0, 0.0)),
        lambda: brightness(*values(0.5, 1.5)),
        lambda: contrast(*values(0.5, 1.5)),
        lambda: contrast(*values(0.5, 1.5), about="zero"),
        lambda: low_resolution(*rows(0.2, 1.0, 1.0)),
        lambda: gamma(*values(0.6, 1.6), invert=bool(random.integers(2)), keep_stats=bool(random.integers(2))),
    ]
    return [makers[random.integers(len(makers))]() for _ in range(random.integers(7))]


@pytest.mark.skipif(not has_compiler, reason="no C++ compiler")
@pytest.mark.parametrize("seed", range(60))
def test_any_order_of_steps_gives_what_the_reference_gives(seed):
    random = np.random.default_rng(seed)
    axes, channels, samples = int(random.integers(2, 4)), int(random.integers(1, 4)), int(random.integers(1, 4))
    shape = random.integers(1, 24, axes).tolist() if axes == 3 else random.integers(1, 80, axes).tolist()
    images = normal(samples, channels, *shape, seed=seed) * 10 ** random.uniform(-2, 2) + random.normal()
    chains = [random_chain(random, channels, axes) for _ in range(samples)]
    with forced("torch"):
        expected = intensity_chain(images.double(), chains)
    with forced("c++"):
        found = intensity_chain(images, chains)
    # up to six steps, each within 2e-6 of the largest value
    assert (found - expected).abs().max() <= 1.2e-5 * expected.abs().max()


@pytest.mark.parametrize("form", FORMS)
def test_a_chain_is_its_steps_one_by_one(form):
    images = normal(2, 2, 13, 12, 11)
    chains = [
        whole_chain(2, 3),
        [contrast(0.7, 1.3, about="zero"), gamma(0.8, 1.3, keep_stats=False), contrast(0.9, 1.2)],
    ]
    with forced(form):
        together = intensity_chain(images, chains)
        for image, chain, expected in zip(images, chains, together, strict=True):
            for step in chain:
                image = intensity_chain(image[None], [[step]])[0]
            # rounding of statistics that are carried on instead of computed again
            torch.testing.assert_close(image, expected, atol=1e-5, rtol=0)


@pytest.mark.skipif(not has_compiler, reason="no C++ compiler")
def test_bits_do_not_depend_on_threads_or_batch():
    images = normal(3, 2, 20, 21, 22)
    chains = [whole_chain(2, 3, seed) for seed in range(3)]
    before = torch.get_num_threads()
    with forced("c++"):
        try:
            torch.set_num_threads(1)
            one = intensity_chain(images, chains)
            torch.set_num_threads(3)
            assert torch.equal(intensity_chain(images, chains), one)
        finally:
            torch.set_num_threads(before)
        assert torch.equal(intensity_chain(images[1:2], chains[1:2])[0], one[1])


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last_3d])
def test_input_stays_and_output_is_contiguous(form, layout):
    images = normal(1, 2, 6, 7, 8).contiguous(memory_format=layout)
    before = images.clone()
    with forced(form):
        out = intensity_chain(images, [[gamma(0.7, 1.4)]])
        empty = intensity_chain(images, [[]])
    assert torch.equal(images, before)
    assert out.is_contiguous()
    assert torch.equal(empty, images)
    assert empty.data_ptr() != images.data_ptr()


@pytest.mark.parametrize("form", FORMS)
def test_keep_stats_keeps_them(form):
    x = normal(1, 1, 30, 31, 32) * 3 + 100
    with forced(form):
        y = intensity_chain(x, [[gamma(0.7, invert=True), brightness(1.0), gamma(1.4)]]).double()
    assert y.mean().item() == pytest.approx(x.double().mean().item(), rel=1e-6)
    assert y.std().item() == pytest.approx(x.double().std().item(), rel=1e-5)


@pytest.mark.parametrize(
    ("images", "chains", "words"),
    [
        (torch.zeros(1, 1, 4), [[]], "[B, C, H, W]"),
        (torch.zeros(1, 1, 4, 4, dtype=torch.int64), [[]], "floating point"),
        (torch.zeros(2, 1, 4, 4), [[]], "one per sample, 2, found 1"),
        (torch.zeros(1, 1, 4, 4), [[{"name": "sharpen"}]], "name must be one of noise, blur"),
        (torch.zeros(1, 1, 4, 4), [[{"name": "noise", "std": 1.0}]], "'seed' is missing"),
        (torch.zeros(1, 1, 4, 4), [[noise(seed=-1)]], "seed must be an integer in [0, 2^64), found -1"),
        (torch.zeros(1, 1, 4, 4), [[noise(std=float("nan"))]], "std must be finite"),
        (torch.zeros(1, 2, 4, 4), [[brightness(1.0)]], "factor needs 2 values, found 1"),
        (torch.zeros(1, 2, 4, 4), [[blur([1, 1])]], "sigma needs a list for each of 2 channels"),
        (torch.zeros(1, 1, 4, 4), [[blur([1, 1, 1])]], "sigma needs 2 values, found 3"),
        (torch.zeros(1, 1, 4, 4), [[blur([1, -1])]], "sigma must be at least 0, found -1"),
        (torch.zeros(1, 1, 4, 4), [[low_resolution([1, 1.5])]], "zoom must be in (0, 1], found 1.5"),
        (torch.zeros(1, 1, 4, 4), [[gamma(0.0)]], "exponent must be above 0"),
        (torch.zeros(1, 1, 4, 4), [[contrast(1.0, about="median")]], "about must be 'mean' or 'zero'"),
    ],
)
def test_wrong_arguments_are_refused(images, chains, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        intensity_chain(images, chains)
