"""Images brought to the network's pixels and values: against numpy and against sums by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from monai_ext.errors import InputError
from monai_ext.planning.instance_plan import InstancePlan, architecture
from monai_ext.preprocessing.instance_image import (
    network_size,
    percentiles,
    read_image,
    read_plan_image,
    scaled_to_network,
    to_unit,
    unit_limits,
)

ARCH = "resnet-tiny"
ANCHORS = ((16.0,), (32.0,), (64.0,), (128.0,), (256.0,))
PLAN = InstancePlan(
    "d", ("a",), (1,), 1, (0.25,), (0.5,), (64, 96), ARCH, **architecture(ARCH), anchor_sizes=ANCHORS, scale=2.0
)
RANGE = replace(PLAN, normalisation="range")


@pytest.mark.parametrize("shares", [(1.0, 99.8), (0.0, 100.0), (50.0, 51.3)])
def test_percentiles_are_those_of_numpy(shares: tuple[float, float]) -> None:
    random = np.random.default_rng(0)
    for values in (
        random.integers(3, 40, (3, 17, 23)).astype(np.uint8),
        random.normal(size=(1, 31, 9)),
        np.ones((1, 1, 1)),
    ):
        wanted = np.percentile(values, shares)
        image = torch.from_numpy(values if values.dtype == np.uint8 else values.astype(np.float32))
        # float32 values, interpolated in float64
        assert percentiles(image, shares) == pytest.approx(wanted, abs=1e-6)


def test_percentiles_leave_out_what_is_no_number() -> None:
    image = torch.tensor([[[1.0, float("nan"), 3.0, float("inf")]]])
    assert percentiles(image, (0, 50, 100)) == (1, 2, 3)
    assert percentiles(torch.full((1, 2, 2), float("nan")), (1, 99)) == (0, 0)
    unit = to_unit(image, (1, 3))
    assert unit.tolist() == [[[0, 0, 1, 1]]]


def test_percentiles_of_large_images_are_close() -> None:
    image = torch.from_numpy(np.random.default_rng(0).random((1, 2200, 2000), dtype=np.float32))
    # of 2.2 million uniform numbers: standard error of the median 0.0003
    assert percentiles(image, (50,))[0] == pytest.approx(0.5, abs=0.002)


def test_an_image_of_one_value_becomes_0() -> None:
    image = torch.full((1, 8, 8), 77, dtype=torch.uint8)
    assert unit_limits(image, PLAN) == (77, 78)
    out, _, _ = scaled_to_network(image, PLAN)
    assert torch.equal(out, torch.full((1, 16, 16), -0.5))


def test_values_and_factors_when_enlarged() -> None:
    image = torch.tensor([[[0, 255], [51, 102]]], dtype=torch.uint8)
    out, along_y, along_x = scaled_to_network(image, RANGE)
    assert (along_y, along_x) == (2, 2)
    # linear between pixel centres: at a quarter of the way, and constant beyond the outer centres
    rows = torch.tensor([[0, 0.25, 0.75, 1], [0.05, 0.1375, 0.3125, 0.4]])
    rows[1] = torch.tensor([0.2, 0.25, 0.35, 0.4])
    wanted = torch.stack([rows[0], 0.75 * rows[0] + 0.25 * rows[1], 0.25 * rows[0] + 0.75 * rows[1], rows[1]])
    assert torch.allclose(out[0], (wanted - 0.25) / 0.5, atol=1e-6)


def test_shrinking_takes_means() -> None:
    image = torch.zeros(1, 32, 32, dtype=torch.uint8)
    image[:, ::2, ::2] = 255  # without antialiasing, all or nothing
    out, _, _ = scaled_to_network(image, replace(RANGE, scale=0.25))
    assert torch.allclose(out[:, 1:-1, 1:-1], torch.full((1, 6, 6), (0.25 - 0.25) / 0.5), atol=0.02)


def test_sizes() -> None:
    assert network_size((100, 51), replace(PLAN, scale=1.5)) == (150, 76)
    fit = replace(PLAN, resize="fit")
    assert network_size((640, 480), fit) == (64, 48)
    assert network_size((100, 300), fit) == (32, 96)
    assert network_size((10, 12), fit) == (64, 77)
    assert network_size((5000, 2), fit) == (64, 1)
    out, along_y, along_x = scaled_to_network(torch.zeros(1, 10, 12, dtype=torch.uint8), fit)
    assert (out.shape, along_y, along_x) == ((1, 64, 77), 6.4, 77 / 12)


def test_files_of_8_and_16_bits_become_the_same(tmp_path: Path) -> None:
    eight = np.random.default_rng(0).integers(0, 256, (12, 9)).astype(np.uint8)
    Image.fromarray(eight).save(tmp_path / "8.png")
    Image.fromarray(eight.astype(np.uint16) * 257).save(tmp_path / "16.png")
    for plan in (PLAN, RANGE, replace(RANGE, value_range=(-10.0, 10.0))):
        narrow = read_plan_image(tmp_path / "8.png", plan)
        wide = read_plan_image(tmp_path / "16.png", plan)
        if plan.value_range == (0.0, 255.0):
            # one step of float32 around 1, after two roundings of values to 65535
            assert torch.allclose(scaled_to_network(narrow, plan)[0], scaled_to_network(wide, plan)[0], atol=1e-5)
    assert read_image(tmp_path / "16.png", 1).max() == 257 * int(eight.max())
    assert read_plan_image(tmp_path / "8.png", replace(RANGE, value_range=(-10.0, 10.0))).min() >= -10


def test_channels_are_those_of_the_plan(tmp_path: Path) -> None:
    colours = np.random.default_rng(0).integers(0, 256, (5, 7, 3)).astype(np.uint8)
    Image.fromarray(colours).save(tmp_path / "rgb.png")
    Image.fromarray(colours[..., 0]).save(tmp_path / "grey.png")
    assert read_image(tmp_path / "rgb.png", 1).shape == (1, 5, 7)
    grey = read_image(tmp_path / "grey.png", 3)
    assert torch.equal(grey, torch.from_numpy(colours[..., 0]).expand(3, 5, 7))
    with pytest.raises(InputError, match=r"gone\.png: file does not exist"):
        read_image(tmp_path / "gone.png", 3)
