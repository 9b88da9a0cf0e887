"""What every transform of the package keeps: names, identity, purity, JSON parameters, warnings, errors."""

from __future__ import annotations

import importlib
import json
import pkgutil
import re
import warnings

import monai.transforms
import pytest
import torch
from monai.data import MetaTensor

import monai_ext.transforms
from monai_ext.errors import InputError
from monai_ext.transforms.brightness import RandBrightnessd
from monai_ext.transforms.contrast import RandContrastd
from monai_ext.transforms.drawn_transform import DrawnTransform, IntensityTransform, run_steps
from monai_ext.transforms.factor_law import draw_factor
from monai_ext.transforms.flips import RandMirrord
from monai_ext.transforms.gamma import RandGammad
from monai_ext.transforms.gaussian_blur import RandBlurd
from monai_ext.transforms.gaussian_noise import RandNoised
from monai_ext.transforms.low_resolution import RandLowResolutiond
from monai_ext.transforms.spatial import SpatialDraw
from monai_ext.transforms.zoom import RandZoomInd

INTENSITY = (RandNoised, RandBlurd, RandBrightnessd, RandContrastd, RandLowResolutiond, RandGammad)
SPATIAL = (RandMirrord, RandZoomInd)


def make_sample(channels: int = 2, shape: tuple[int, ...] = (10, 12, 11)) -> dict:
    generator = torch.Generator().manual_seed(0)
    return {
        "image": torch.randn((channels, *shape), generator=generator),
        "label": torch.randint(0, 3, (1, *shape), generator=generator, dtype=torch.uint8),
    }


def always(kind: type[DrawnTransform]) -> DrawnTransform:
    extra = {"channel_prob": 1.0} if kind is RandLowResolutiond else {}
    return kind(prob=1.0, **extra)


def test_no_class_has_a_name_of_monai() -> None:
    names = set()
    for module in pkgutil.iter_modules(monai_ext.transforms.__path__, "monai_ext.transforms."):
        content = vars(importlib.import_module(module.name))
        names |= {n for n, v in content.items() if isinstance(v, type) and v.__module__ == module.name}
    assert {"RandForegroundCropd", "RandMirrord", "RandZoomInd"} <= names
    assert not [name for name in names if hasattr(monai.transforms, name)]


@pytest.mark.parametrize("kind", INTENSITY + SPATIAL)
@pytest.mark.parametrize("shape", [(10, 12, 11), (13, 9)], ids=["3d", "2d"])
def test_prob_1_changes_the_image_and_leaves_the_input(kind: type[DrawnTransform], shape: tuple[int, ...]) -> None:
    sample = make_sample(shape=shape)
    before = sample["image"].clone()
    transform = always(kind) if kind is not RandMirrord else RandMirrord(axes=(0, 1), prob=1.0)
    transform.set_random_state(seed=4)
    out = transform(sample)
    assert out["image"].shape == before.shape
    assert out["image"].dtype == torch.float32
    assert type(out["image"]) is torch.Tensor
    assert not torch.equal(out["image"], before)
    assert torch.equal(sample["image"], before)


@pytest.mark.parametrize("kind", INTENSITY)
def test_intensity_leaves_the_label(kind: type[DrawnTransform]) -> None:
    sample = make_sample()
    transform = always(kind)
    transform.set_random_state(seed=4)
    assert transform(sample)["label"] is sample["label"]


@pytest.mark.parametrize("kind", INTENSITY + SPATIAL)
def test_prob_0_is_identity_and_warns(kind: type[DrawnTransform]) -> None:
    with pytest.warns(UserWarning, match=rf"{kind.__name__} does nothing.*[Ss]et"):
        transform = kind(prob=0.0)
    sample = make_sample()
    assert transform(sample)["image"] is sample["image"]
    assert transform.params == {}


@pytest.mark.parametrize("kind", INTENSITY + SPATIAL)
def test_parameters_are_json_and_repeat_the_result(kind: type[DrawnTransform]) -> None:
    sample, transform = make_sample(), always(kind)
    transform.set_random_state(seed=4)
    out = transform(sample)["image"]
    params = json.loads(json.dumps(transform.params))
    assert params
    assert torch.equal(always(kind).apply(sample["image"], params), out)


@pytest.mark.parametrize("kind", INTENSITY)
def test_the_step_is_json_and_alone_it_is_the_transform(kind: type[IntensityTransform]) -> None:
    sample, transform = make_sample(), always(kind)
    transform.set_random_state(seed=4)
    out = transform(sample)["image"]
    step = json.loads(json.dumps(transform.step(sample["image"], transform.params)))
    assert torch.equal(run_steps(sample["image"], [step]), out)


@pytest.mark.parametrize("kind", INTENSITY)
def test_a_meta_tensor_stays_one(kind: type[IntensityTransform]) -> None:
    image = make_sample()["image"]
    transform = always(kind)
    transform.set_random_state(seed=4)
    out = transform({"image": MetaTensor(image, affine=torch.eye(4) * 2)})["image"]
    assert type(out) is MetaTensor
    assert out.affine[0, 0] == 2
    assert torch.equal(out.as_tensor(), transform.apply(image, transform.params))


@pytest.mark.parametrize("kind", INTENSITY)
def test_prob_is_the_share_of_samples_changed(kind: type[DrawnTransform]) -> None:
    extra = {"channel_prob": 1.0} if kind is RandLowResolutiond else {}
    transform = kind(prob=0.3, **extra)
    transform.set_random_state(seed=1)
    image = torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    drawn = 0
    for _ in range(1000):
        transform.randomize(image)
        drawn += bool(transform.params)
    # binomial, standard deviation 14.5: four of them
    assert abs(drawn - 300) < 58


@pytest.mark.parametrize(
    ("build", "why"),
    [
        (lambda: RandNoised(std=(0, 0)), "std is 0"),
        (lambda: RandBlurd(sigma=(0, 0)), "sigma is 0"),
        (lambda: RandBlurd(channel_prob=0), "channel_prob is 0"),
        (lambda: RandBrightnessd(factor=(1, 1)), "factor is 1"),
        (lambda: RandContrastd(factor=(1, 1)), "factor is 1"),
        (lambda: RandLowResolutiond(zoom=(1, 1)), "zoom is 1"),
        (lambda: RandLowResolutiond(channel_prob=0), "channel_prob is 0"),
        (lambda: RandGammad(gamma=(1, 1)), "gamma is 1"),
        (lambda: RandZoomInd(scale=(1, 1)), "scale is 1"),
        (lambda: RandMirrord(axes=()), "no axis"),
        (lambda: SpatialDraw(rotation_prob=0, scale_prob=0), "neither rotates nor scales"),
        (lambda: SpatialDraw(rotation_range=0, scale_range=(1, 1)), "neither rotates nor scales"),
    ],
)
def test_a_transform_that_does_nothing_warns(build, why: str) -> None:
    with pytest.warns(UserWarning, match=why):
        build()


@pytest.mark.parametrize("kind", INTENSITY + SPATIAL)
def test_defaults_do_not_warn(kind: type[DrawnTransform]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        kind()


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: RandNoised(prob=1.5), "prob must be in [0, 1], found 1.5"),
        (lambda: RandNoised(std=(0.2, 0.1)), "std must be two numbers"),
        (lambda: RandBlurd(channel_prob=-1), "channel_prob must be in [0, 1]"),
        (lambda: RandBrightnessd(law="normal"), "law must be one of"),
        (lambda: RandContrastd(about="median"), "about must be"),
        (lambda: RandLowResolutiond(zoom=(0.5, 2)), "zoom must be in (0, 1]"),
        (lambda: RandGammad(gamma=(0, 1)), "gamma must be two numbers"),
        (lambda: RandZoomInd(scale=(0, 1)), "scale must be in (0, 1]"),
        (lambda: RandZoomInd(mode=("cubic", "lanczos")), "mode must be of"),
        (lambda: RandMirrord(axes=(0, 1), prob=(0.5,)), "1 values of prob for 2 axes"),
        (lambda: SpatialDraw(scale_range=(0, 1)), "scale_range must be above 0"),
    ],
)
def test_wrong_arguments_are_refused_with_a_cure(build, words: str) -> None:
    with pytest.raises(InputError, match=re.escape(words)) as caught:
        build()
    assert "Cure: " in str(caught.value)


def test_missing_key_only_where_allowed() -> None:
    with pytest.raises(KeyError):
        RandMirrord(("image", "label"))({"image": torch.zeros(1, 2, 2, 2)})
    out = RandMirrord(("image", "label"), prob=1.0, allow_missing_keys=True)(
        {"image": torch.arange(8.0).view(1, 2, 2, 2)}
    )
    assert out["image"].reshape(-1).tolist() == [7, 6, 5, 4, 3, 2, 1, 0]


def test_coin_flip_takes_each_side_half_of_the_time() -> None:
    import numpy as np

    random = np.random.RandomState(0)
    values = np.array([draw_factor(random, 0.7, 1.5, "coin_flip") for _ in range(4000)])
    assert values.min() >= 0.7
    assert values.max() <= 1.5
    # standard error of a share of 4000 is 0.008; four of them
    assert abs((values < 1).mean() - 0.5) < 0.032
    # within a side uniform: means 0.85 and 1.25, standard errors 0.002 and 0.0033, five of them
    assert abs(values[values < 1].mean() - 0.85) < 0.01
    assert abs(values[values > 1].mean() - 1.25) < 0.017
    flat = np.array([draw_factor(random, 0.7, 1.5, "uniform") for _ in range(4000)])
    assert abs((flat < 1).mean() - 0.375) < 0.032
    assert all(1.1 <= draw_factor(random, 1.1, 1.5, "coin_flip") <= 1.5 for _ in range(20))
