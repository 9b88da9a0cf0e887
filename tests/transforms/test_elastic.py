"""Elastic deformation, rotation and scaling in one resampling."""

from __future__ import annotations

import json
import math
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from scipy.ndimage import map_coordinates

from monai_ext.errors import InputError
from monai_ext.transforms import elastic
from monai_ext.transforms.elastic import (
    RandElasticd,
    control_points,
    displacement_field,
    sample_bilinear,
    source_positions,
)

CPU = torch.device("cpu")


def make_sample(height: int = 48, width: int = 61) -> dict:
    generator = torch.Generator().manual_seed(0)
    return {
        "image": torch.rand(1, height, width, generator=generator) * 2 - 1,
        "label": torch.randint(0, 2, (1, height, width), generator=generator),
    }


def params(control=None, angle: float = 0.0, scale: float = 1.0, border: str = "mirror", spacing: float = 16.0) -> dict:
    return {"control": control, "spacing": spacing, "angle": angle, "scale": scale, "border": border}


def constant_control(shape: tuple[int, ...], down: float, across: float) -> list:
    points = [control_points(edge, 16.0) for edge in shape]
    return torch.tensor([down, across]).view(2, 1, 1).expand(2, *points).tolist()


@pytest.mark.parametrize("shape", [(48, 48), (33, 50), (7, 130), (1, 9), (9, 1)], ids=str)
@pytest.mark.parametrize("border", ["mirror", "edge"])
def test_nothing_moved_is_the_identity(shape: tuple[int, int], border: str) -> None:
    sample, transform = make_sample(*shape), RandElasticd()
    still = params(constant_control(shape, 0, 0), border=border)
    assert torch.equal(transform.apply(sample["image"], still), sample["image"])
    assert torch.equal(transform.apply_label(sample["label"], still), sample["label"])


@pytest.mark.parametrize("turns", [1, 2, 3, -1])
@pytest.mark.parametrize("edge", [32, 33])
def test_right_angles_are_those_of_rot90(turns: int, edge: int) -> None:
    sample, transform = make_sample(edge, edge), RandElasticd()
    turned = transform.apply(sample["image"], params(angle=90.0 * turns))
    # cosines of right angles are 1e-16 instead of 0
    torch.testing.assert_close(turned, torch.rot90(sample["image"], turns, (1, 2)), atol=1e-6, rtol=0)
    label = transform.apply_label(sample["label"], params(angle=90.0 * turns))
    assert torch.equal(label, torch.rot90(sample["label"], turns, (1, 2)))


@pytest.mark.parametrize("shape", [(40, 40), (33, 50)], ids=str)
def test_constant_displacement_shifts_and_mirrors(shape: tuple[int, int]) -> None:
    image, transform = make_sample(*shape)["image"], RandElasticd()
    moved = transform.apply(image, params(constant_control(shape, 3, -5)))
    padded = F.pad(image, (5, 5, 3, 3), mode="reflect")
    # the weights of the cubic interpolation sum to 1 up to float32 rounding: 3e-6 pixels
    torch.testing.assert_close(moved, padded[:, 6:, :-10], atol=2e-5, rtol=0)
    half = transform.apply(image, params(constant_control(shape, 0.5, 0)))
    torch.testing.assert_close(half[:, :-1], (image[:, 1:] + image[:, :-1]) / 2, atol=2e-5, rtol=0)


def test_edge_border_repeats_the_outermost_pixel() -> None:
    image = make_sample(20, 20)["image"]
    moved = RandElasticd().apply(image, params(constant_control((20, 20), 0, 4), border="edge"))
    # as above
    torch.testing.assert_close(moved[..., -4:], image[..., -1:].expand(1, 20, 4), atol=2e-5, rtol=0)


@pytest.mark.parametrize("shape", [(30, 30), (21, 44)], ids=str)
@pytest.mark.parametrize("slab", [1, 60, 1 << 16], ids=["lines", "few lines", "whole"])
def test_interpolation_is_that_of_scipy_everywhere(
    shape: tuple[int, int], slab: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(elastic, "_SLAB", slab)
    image = make_sample(*shape)["image"].expand(2, -1, -1) * torch.tensor([1.0, 3.0]).view(2, 1, 1)
    generator = torch.Generator().manual_seed(1)
    # up to three slices away: repeated reflection
    positions = (torch.rand(2, 17, 19, generator=generator) * 6 - 2.5) * torch.tensor(shape).view(2, 1, 1)
    before = positions.clone()
    out = sample_bilinear(image, positions, "mirror")
    expected = [map_coordinates(x, positions.double().numpy(), order=1, mode="mirror") for x in image.double().numpy()]
    # positions up to 150 are folded in float32, 1.5e-5 pixels, and neighbours differ by up to 6
    torch.testing.assert_close(out.double(), torch.from_numpy(np.stack(expected)), atol=2e-4, rtol=0)
    assert torch.equal(positions, before)


def test_scale_above_1_shows_more() -> None:
    image = torch.zeros(1, 65, 65)
    image[:, 22:43, 22:43] = 1
    transform = RandElasticd()
    # an object of 21 pixels becomes 10.5 or 42 of them; linear interpolation smears its border by a pixel
    assert transform.apply(image, params(scale=2.0, border="edge")).sum().sqrt().item() == pytest.approx(10.5, abs=0.5)
    assert transform.apply(image, params(scale=0.5, border="edge")).sum().sqrt().item() == pytest.approx(42, abs=0.5)


def test_the_field_is_a_cubic_convolution_of_the_control_points() -> None:
    shape, spacing = (41, 71), 10.0
    points = [control_points(edge, spacing) for edge in shape]
    control = torch.randn(2, *points, generator=torch.Generator().manual_seed(0))
    field = displacement_field(control, spacing, shape)
    # a point lies at the centre (20, 35) of the slice and every 10 pixels from there; one more on each side
    assert field.shape == (2, *shape)
    # float32 products of values around 1, here and below
    torch.testing.assert_close(field[:, ::10, 5::10], control[:, 1:-1, 2:-2], atol=1e-5, rtol=0)
    # Keys (1981), a = -1/2, at the midpoint of four points: (-1, 9, 9, -1) / 16
    weights = torch.tensor([-1.0, 9, 9, -1]) / 16
    torch.testing.assert_close(field[:, 20, 20], (control[:, 3, 2:6] * weights).sum(-1), atol=1e-5, rtol=0)


def test_control_points_suffice_at_every_size() -> None:
    for edge in (1, 2, 100, 256, 257, 258, 385, 388, 512, 513):
        last = (edge - 1) / 2 / 128 + (control_points(edge, 128) - 1) / 2
        # the two points to the right exist unless their weight is 0
        assert math.ceil(last) + 1 <= control_points(edge, 128) - 1


def test_displacements_are_normal_and_independent_of_the_size() -> None:
    transform = RandElasticd(sigma=7.0, grid_spacing=32)
    transform.set_random_state(seed=0)
    for shape in ((100, 164), (300, 100)):
        drawn = []
        for _ in range(60):
            transform.randomize(torch.zeros(1, *shape))
            drawn.append(np.array(transform.params["control"]))
        values = np.stack(drawn, 1).reshape(2, -1)
        # at least 60 * 7 * 9 draws: the deviation has a standard error of 7 / sqrt(7560) = 0.08, the mean 0.11
        assert np.all(np.abs(values.std(1) - 7) < 0.35)
        assert np.all(np.abs(values.mean(1)) < 0.45)
        assert abs(np.corrcoef(values)[0, 1]) < 0.08
        # in pixels at the points inside, whatever the size: the one at the centre
        field = source_positions(shape, {**transform.params, "angle": 0.0, "scale": 1.0}, CPU)
        still = source_positions(shape, params(), CPU)
        assert 3 < (field - still).std() < 9


def smooth_image(height: int, width: int) -> torch.Tensor:
    noise = torch.randn(1, 1, height // 10, width // 10, generator=torch.Generator().manual_seed(3))
    return F.interpolate(noise, (height, width), mode="bicubic", align_corners=True)[0]


@pytest.mark.parametrize("shape", [(200, 200), (151, 240)], ids=str)
def test_image_and_label_move_together(shape: tuple[int, int]) -> None:
    image = smooth_image(*shape)
    cell_range = (F.max_pool2d(image, 2, 1) + F.max_pool2d(-image, 2, 1)).max()
    transform = RandElasticd(grid_spacing=64, rotation=(-180, 180), scale=(0.7, 1.3))
    for seed in range(3):
        transform.set_random_state(seed=seed)
        out = transform({"image": image, "label": (image >= 0).long()})
        differs = (out["image"] >= 0).long() != out["label"]
        # they can differ only in cells whose corners lie on both sides of 0: the value is within the range of a cell
        assert out["image"][differs].abs().max() <= cell_range
        assert differs.float().mean() < 0.03
        assert ((image >= 0).long() != out["label"]).float().mean() > 0.2  # it did move


def test_chances_and_ranges_of_the_draws() -> None:
    transform = RandElasticd(
        prob=0.8, elastic_prob=0.5, rotation=(-20, 40), rotation_prob=0.25, scale=(0.9, 1.3), scale_prob=0.75
    )
    transform.set_random_state(seed=0)
    rows = []
    for _ in range(3000):
        transform.randomize(torch.zeros(1, 20, 20))
        p = transform.params or params()
        rows.append((p["control"] is not None, p["angle"] != 0, p["scale"] != 1, p["angle"], p["scale"]))
    drawn = np.array(rows)
    # shares 0.4, 0.2 and 0.6 of 3000, standard errors at most 0.009: four of them
    assert np.all(np.abs(drawn[:, :3].mean(0) - [0.4, 0.2, 0.6]) < 0.036)
    angles, scales = drawn[drawn[:, 1] > 0, 3], drawn[drawn[:, 2] > 0, 4]
    assert -20 <= angles.min() < -17
    assert 37 < angles.max() <= 40
    assert 0.9 <= scales.min() < 0.91
    assert 1.29 < scales.max() <= 1.3
    # uniform: deviations 17.3 and 0.115, standard errors 0.71 and 0.0027; four of them
    assert abs(angles.mean() - 10) < 2.9
    assert abs(scales.mean() - 1.1) < 0.011


def test_same_seed_same_result_and_json_parameters() -> None:
    sample = make_sample()
    transform = RandElasticd(rotation=(0, 90), scale=(0.8, 1.2))
    outs = []
    for seed in (1, 2, 1):
        transform.set_random_state(seed=seed)
        outs.append(transform(sample))
    assert torch.equal(outs[0]["image"], outs[2]["image"])
    assert torch.equal(outs[0]["label"], outs[2]["label"])
    assert not torch.equal(outs[0]["image"], outs[1]["image"])
    drawn = json.loads(json.dumps(transform.params))
    assert torch.equal(RandElasticd().apply(sample["image"], drawn), outs[2]["image"])
    assert torch.equal(sample["image"], make_sample()["image"])


def test_prob_0_hands_the_sample_on() -> None:
    with pytest.warns(UserWarning, match="prob is 0"):
        transform = RandElasticd(prob=0.0, rotation=(0, 90))
    sample = make_sample()
    out = transform(sample)
    assert all(out[key] is sample[key] for key in sample)
    never = RandElasticd(elastic_prob=0.0, rotation=(0, 0), scale=(1, 1.1), scale_prob=1e-9)
    assert never(sample)["image"] is sample["image"]


@pytest.mark.parametrize("extra", [{"sigma": 0}, {"elastic_prob": 0}, {"sigma": 0, "rotation_prob": 0}], ids=str)
def test_what_does_nothing_warns(extra: dict) -> None:
    with pytest.warns(UserWarning, match="neither bends nor turns nor scales.*Set"):
        RandElasticd(**extra)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        RandElasticd()
        RandElasticd(**{"rotation": (0, 9), **extra, "rotation_prob": 1.0})


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"scale": (0, 1)}, "scale must be above 0"),
        ({"scale": (2, 1)}, "scale must be two numbers"),
        ({"rotation": (20, -20)}, "rotation must be two numbers"),
        ({"grid_spacing": 0}, "grid_spacing must be at least 1"),
        ({"sigma": -1}, "sigma must not be negative"),
        ({"elastic_prob": 2}, r"elastic_prob must be in \[0, 1\]"),
        ({"border": "zeros"}, "border must be of"),
    ],
)
def test_wrong_arguments_are_refused_with_a_cure(wrong: dict, words: str) -> None:
    with pytest.raises(InputError, match=f"{words}.*Cure: "):
        RandElasticd(**wrong)
