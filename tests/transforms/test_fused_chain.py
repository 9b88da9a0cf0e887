"""`FusedCompose` does what `Compose` does, with fewer passes."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, RandGaussianNoised, RandScaleIntensityd, RandSpatialCropSamplesd

from monai_ext.transforms import drawn_transform
from monai_ext.transforms.brightness import RandBrightnessd
from monai_ext.transforms.contrast import RandContrastd
from monai_ext.transforms.drawn_transform import IntensityTransform
from monai_ext.transforms.flips import RandMirrord
from monai_ext.transforms.fused_chain import FusedCompose, IntensityRun, fuse
from monai_ext.transforms.gamma import RandGammad
from monai_ext.transforms.gaussian_blur import RandBlurd
from monai_ext.transforms.gaussian_noise import RandNoised
from monai_ext.transforms.low_resolution import RandLowResolutiond
from monai_ext.transforms.sample_seed import seed_transforms


def intensity(prob: float = 0.5) -> list:
    return [
        RandNoised(prob=prob),
        RandBlurd(prob=prob, channel_prob=0.5),
        RandBrightnessd(prob=prob),
        RandContrastd(prob=prob),
        RandLowResolutiond(prob=prob),
        RandGammad(prob=prob, invert=True),
        RandContrastd(prob=prob, about="zero"),
        RandGammad(prob=prob),
    ]


def chain(prob: float = 0.5) -> list:
    head, tail = intensity(prob)[:4], intensity(prob)[4:]
    return [*head, RandMirrord(("image", "label"), axes=(0, 1), prob=0.5), *tail]


def make_sample(channels: int = 2, shape: tuple[int, ...] = (9, 10, 8)) -> dict:
    generator = torch.Generator().manual_seed(1)
    image = torch.randn((channels, *shape), generator=generator)
    return {"image": image, "label": (image[:1] > 0).to(torch.uint8), "case": "a"}


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Numbers of steps of the calls of the op."""
    calls: list[int] = []
    real = drawn_transform.intensity_chain

    def count(images, chains):
        calls.append(len(chains[0]))
        return real(images, chains)

    monkeypatch.setattr(drawn_transform, "intensity_chain", count)
    return calls


@pytest.mark.parametrize("shape", [(9, 10, 8), (21, 17)])
def test_equals_one_by_one_for_many_seeds(shape: tuple[int, ...]) -> None:
    fused, plain = FusedCompose(chain()), Compose(chain())
    changed = 0
    for index in range(60):
        sample = make_sample(shape=shape)
        before = sample["image"].clone()
        a, b = seed_transforms(fused, 3, index)(sample), seed_transforms(plain, 3, index)(sample)
        # statistics are carried from step to step instead of computed again, in float32
        torch.testing.assert_close(a["image"], b["image"], atol=2e-5, rtol=0)
        assert torch.equal(a["label"], b["label"])
        assert a.keys() == b.keys()
        assert type(a["image"]) is torch.Tensor
        assert torch.equal(sample["image"], before)
        for one, other in zip(fused.transforms, plain.transforms, strict=True):
            assert one.params == other.params
        changed += not torch.equal(a["image"], before)
    assert changed > 50


def test_a_run_is_one_call(counted: list[int]) -> None:
    compose = FusedCompose(chain(prob=1.0))
    compose.transforms[1].channel_prob = compose.transforms[5].channel_prob = 1.0
    compose(make_sample())
    assert counted == [4, 4]


def test_nothing_drawn_is_no_call(counted: list[int]) -> None:
    compose = FusedCompose(intensity(prob=1e-12))
    sample = make_sample()
    assert compose(sample)["image"] is sample["image"]
    assert counted == []


def test_stock_transforms_are_called_as_they_are() -> None:
    def build(kind: type[Compose]) -> Compose:
        stock = [RandGaussianNoised("image", prob=1.0), RandScaleIntensityd("image", 0.1, prob=1.0)]
        return kind([*intensity()[:3], stock[0], *intensity()[3:6], stock[1], RandGammad(prob=0.5)])

    fused, plain = build(FusedCompose), build(Compose)
    for index in range(20):
        a, b = (seed_transforms(c, 5, index)(make_sample())["image"] for c in (fused, plain))
        assert type(a) is type(b)
        torch.testing.assert_close(torch.as_tensor(a), torch.as_tensor(b), atol=2e-5, rtol=0)


def test_meta_tensor_stays_one() -> None:
    image = MetaTensor(make_sample()["image"], affine=torch.eye(4) * 3)
    out = FusedCompose(intensity(prob=1.0))({"image": image})["image"]
    assert type(out) is MetaTensor
    assert out.affine[0, 0] == 3
    assert not torch.equal(out.as_tensor(), image.as_tensor())


def test_every_item_of_a_list_goes_through() -> None:
    def build(kind: type[Compose]) -> Compose:
        crop = RandSpatialCropSamplesd(["image", "label"], (6, 6, 6), num_samples=3, random_size=False)
        return kind([crop, *intensity()])

    fused, plain = build(FusedCompose), build(Compose)
    a, b = (seed_transforms(c, 1, 4)(make_sample()) for c in (fused, plain))
    # every transform has a state of its own and meets the items in the same order
    assert len(a) == len(b) == 3
    for one, other in zip(a, b, strict=True):
        torch.testing.assert_close(torch.as_tensor(one["image"]), torch.as_tensor(other["image"]), atol=2e-5, rtol=0)


def test_missing_key_raises_or_is_skipped_before_anything_is_drawn() -> None:
    # MONAI's words, as for any transform of a Compose
    with pytest.raises(RuntimeError, match=r"applying transform IntensityRun\(RandNoised, RandBlurd"):
        FusedCompose(intensity())({"label": torch.zeros(1, 2, 2)})
    lenient = FusedCompose(
        [RandNoised(prob=1.0, allow_missing_keys=True), RandGammad(prob=1.0, allow_missing_keys=True)]
    )
    seed_transforms(lenient, 0, 0)
    state = lenient.transforms[0].R.get_state()[1].copy()
    assert lenient({"case": "a"}) == {"case": "a"}
    assert np.array_equal(lenient.transforms[0].R.get_state()[1], state)


class Doubled(RandNoised):
    def apply(self, image, params):
        return super().apply(image, params) * 2


class Shifted(IntensityTransform):
    def __call__(self, data):
        return {**data, "image": data["image"] + 1}


@pytest.mark.parametrize(
    "odd",
    [
        lambda: Doubled(prob=1.0),
        lambda: Shifted("image", 1.0),
        lambda: RandNoised(["image", "other"], prob=1.0),
        lambda: RandNoised("other", prob=1.0),
        lambda: RandNoised(prob=1.0, allow_missing_keys=True),
        lambda: RandMirrord(),
    ],
)
def test_only_plain_neighbours_on_one_key_are_joined(odd) -> None:
    one, two, three = RandNoised(), RandGammad(), odd()
    assert fuse([one, three, two]) == (one, three, two)
    fused = fuse([three, one, two, three])
    assert [type(t) for t in fused] == [type(three), IntensityRun, type(three)]
    assert fused[1].transforms == (one, two)


def test_slices_and_tracing_run_one_by_one(counted: list[int]) -> None:
    compose = FusedCompose(intensity(prob=1.0)[2:4])
    sample = make_sample()
    expected = compose(sample)["image"]
    assert counted == [2]
    compose.set_random_state(seed=1)
    whole = compose(sample)["image"]
    compose.set_random_state(seed=1)
    halves = compose(compose(sample, end=1), start=1)["image"]
    torch.testing.assert_close(halves, whole, atol=1e-5, rtol=0)
    compose.set_random_state(seed=1)
    torch.testing.assert_close(compose(sample, threading=True)["image"], whole, atol=1e-5, rtol=0)
    assert counted == [2, 2, 1, 1, 1, 1]
    assert expected.shape == whole.shape


def test_new_transforms_are_seen() -> None:
    compose = FusedCompose(intensity(prob=1.0))
    compose(make_sample())
    compose.transforms = (RandBrightnessd(prob=1.0, factor=(2.0, 2.0)), RandBrightnessd(prob=1.0, factor=(3.0, 3.0)))
    sample = make_sample()
    assert torch.equal(compose(sample)["image"], sample["image"] * 2 * 3)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda c: pickle.loads(pickle.dumps(c))])
def test_copies_have_a_state_of_their_own(duplicate) -> None:
    compose = FusedCompose(chain())
    compose(make_sample())
    twin = duplicate(compose)
    a = seed_transforms(compose, 2, 6)(make_sample())["image"]
    state = compose.transforms[0].R.get_state()[1].copy()
    b = seed_transforms(twin, 2, 6)(make_sample())["image"]
    assert torch.equal(a, b)
    assert np.array_equal(compose.transforms[0].R.get_state()[1], state)


def test_it_is_a_compose() -> None:
    compose = FusedCompose(chain())
    assert isinstance(compose, Compose)
    assert len(compose) == 9
    assert compose.get_index_of_first(lambda t: isinstance(t, RandMirrord)) == 4
    assert isinstance(compose.flatten(), Compose)
    shared = np.random.RandomState(3)
    compose.set_random_state(state=shared)
    compose.set_random_state(seed=8)
    plain = Compose(chain())
    plain.set_random_state(seed=8)
    drawn = [[t.R.random_sample() for t in c.transforms] for c in (compose, plain)]
    assert drawn[0] == drawn[1]
