"""Seeds: a function of (seed, index), unrelated for neighbours; a chain depends on nothing else."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from monai.transforms import Compose, RandGaussianNoised

from monai_ext.transforms.flips import RandMirrord
from monai_ext.transforms.foreground_crop import RandForegroundCropd
from monai_ext.transforms.gamma import RandGammad
from monai_ext.transforms.gaussian_noise import RandNoised
from monai_ext.transforms.sample_seed import sample_seed, seed_transforms
from monai_ext.transforms.spatial import SpatialDraw


def make_chain() -> Compose:
    return Compose(
        [
            RandForegroundCropd(patch_size=(8, 8, 8), spatial=SpatialDraw(rotation_prob=0.5, scale_prob=0.5)),
            RandNoised(prob=0.5),
            RandGaussianNoised("image", prob=0.5),  # a stock transform in the middle keeps the rule
            RandGammad(prob=0.5),
            RandMirrord(),
        ]
    )


def make_sample() -> dict:
    rng = np.random.default_rng(0)
    return {"image": rng.standard_normal((1, 14, 15, 16)).astype(np.float32), "label": np.ones((14, 15, 16), np.uint8)}


@given(st.integers(-(2**70), 2**70), st.integers(0, 2**70))
def test_range_and_repetition(seed: int, index: int) -> None:
    assert 0 <= sample_seed(seed, index) < 2**32
    assert sample_seed(seed, index) == sample_seed(seed, index)


def test_neighbours_are_unrelated() -> None:
    values = np.array([[sample_seed(seed, index) for index in range(256)] for seed in range(64)], np.uint32)
    # 16384 draws of 2^32 values collide 0.03 times on average; five would be a defect
    assert len(np.unique(values)) >= values.size - 4
    for other in (values[:, 1:] ^ values[:, :-1], values[1:] ^ values[:-1]):
        flipped = np.unpackbits(other.reshape(-1).view(np.uint8).reshape(-1, 4), axis=1).mean(0)
        # each bit flips with chance 1/2; standard error of 16000 tosses is 0.004, five of them 0.02
        assert np.all(np.abs(flipped - 0.5) < 0.02)


def test_same_index_same_sample_whatever_ran_before() -> None:
    fresh, used = make_chain(), make_chain()
    for index in (7, 3, 3):
        seed_transforms(used, 1, index)(make_sample())
    for index in (0, 5, 3):
        a = seed_transforms(fresh, 1, index)(make_sample())
        used(make_sample())  # an unseeded call in between must not matter
        b = seed_transforms(used, 1, index)(make_sample())
        assert torch.equal(torch.as_tensor(a["image"]), torch.as_tensor(b["image"]))
        assert torch.equal(a["label"], b["label"])


def test_another_index_or_seed_gives_another_sample() -> None:
    chain = make_chain()
    samples = [seed_transforms(chain, s, i)(make_sample())["image"] for s, i in ((1, 0), (1, 1), (2, 0), (2, 1))]
    for i, a in enumerate(samples):
        assert all(not torch.equal(torch.as_tensor(a), torch.as_tensor(b)) for b in samples[i + 1 :])


def test_seeding_in_place_equals_a_new_generator() -> None:
    transform = RandNoised()
    for seed in (5, 2**32 - 1, 5):
        transform.set_random_state(seed=seed)
        assert transform.R.random_sample() == np.random.RandomState(seed).random_sample()


def test_a_shared_generator_is_not_reseeded() -> None:
    shared = np.random.RandomState(3)
    transform = RandNoised()
    transform.set_random_state(seed=1)
    transform.set_random_state(state=shared)
    transform.set_random_state(seed=9)
    assert shared.random_sample() == np.random.RandomState(3).random_sample()
