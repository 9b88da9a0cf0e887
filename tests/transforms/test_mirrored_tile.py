"""Tiles of unpadded networks against numpy's reflection."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from monai_ext.errors import InputError
from monai_ext.transforms.mirrored_tile import RandMirroredTiled, mirror_indices


def make_sample(height: int, width: int) -> dict:
    """Unique pixel values."""
    image = torch.arange(float(height * width)).view(1, height, width)
    return {"image": image, "label": image.long()}


@settings(max_examples=100, deadline=None)
@given(st.integers(-40, 40), st.integers(1, 50), st.integers(1, 12))
def test_indices_are_those_of_numpy(start: int, length: int, size: int) -> None:
    pad = 100
    line = np.pad(np.arange(size), pad, mode="reflect")
    index = mirror_indices(start, length, size)
    assert index.dtype == torch.int64
    assert index.tolist() == line[pad + start : pad + start + length].tolist()


@pytest.mark.parametrize("shape", [(20, 26), (9, 21), (9, 7), (5, 5), (1, 30)], ids=str)
@pytest.mark.parametrize("margin", [(3, 4), (13, 0), 25], ids=str)
@pytest.mark.parametrize("output", [(8, 6), (9, 9)], ids=str)
def test_windows_of_the_padded_slice(shape: tuple[int, int], margin, output: tuple[int, int]) -> None:
    sample = make_sample(*shape)
    transform = RandMirroredTiled(output_size=output, margin=margin)
    pad = 60
    mirrored = np.pad(sample["image"][0].numpy(), pad, mode="reflect")
    ignored = np.pad(sample["label"][0].numpy(), pad, constant_values=-1)
    rows, columns = (margin, margin) if isinstance(margin, int) else margin
    for seed in range(5):
        transform.set_random_state(seed=seed)
        out = transform(sample)
        top, left = (pad + s for s in json.loads(json.dumps(transform.params))["start"])
        window = mirrored[top - rows : top + output[0] + rows, left - columns : left + output[1] + columns]
        assert np.array_equal(out["image"][0].numpy(), window)
        assert np.array_equal(out["label"][0].numpy(), ignored[top : top + output[0], left : left + output[1]])
        assert out["label"].dtype == torch.int64


def test_every_place_inside_has_the_same_chance() -> None:
    transform = RandMirroredTiled(output_size=(4, 6), margin=2)
    transform.set_random_state(seed=0)
    counts = np.zeros((4, 3))
    for _ in range(2400):
        transform.randomize(torch.zeros(1, 7, 8))
        counts[tuple(transform.params["start"])] += 1
    # 12 places, 200 each; chi-square of 11 degrees of freedom exceeds 34.5 with a chance of 3e-4
    assert ((counts - 200) ** 2 / 200).sum() < 34.5


@pytest.mark.parametrize(("edge", "start"), [(10, 0), (9, 0), (8, -1), (7, -1), (6, -2)])
def test_a_short_slice_lies_in_the_middle_and_the_rest_is_ignored(edge: int, start: int) -> None:
    transform = RandMirroredTiled(output_size=(10, 4), margin=0, ignore_label=-7)
    out = transform(make_sample(edge, 4))
    assert transform.params["start"][0] == start
    outside = (out["label"][0] == -7).all(1)
    assert (~outside).sum() == edge
    assert not outside[-start : edge - start].any()
    assert not (out["image"] == -7).any()


def test_the_tile_is_a_copy() -> None:
    sample = make_sample(6, 6)
    out = RandMirroredTiled(output_size=6, margin=0)(sample)
    assert torch.equal(out["image"], sample["image"])
    out["image"].zero_()
    out["label"].zero_()
    assert sample["image"].sum() > 0
    assert sample["label"].sum() > 0


def test_an_unsigned_label_cannot_be_ignored() -> None:
    sample = make_sample(6, 6)
    sample["label"] = sample["label"].to(torch.uint8)
    assert RandMirroredTiled(output_size=6, margin=1)(sample)["label"].dtype == torch.uint8
    with pytest.raises(InputError, match=r"cannot hold ignore_label -1\. Cure: "):
        RandMirroredTiled(output_size=7, margin=1)(sample)
    assert (RandMirroredTiled(output_size=7, margin=1, ignore_label=255)(sample)["label"] == 255).sum() == 13


def test_same_seed_same_tile() -> None:
    sample, transform = make_sample(40, 50), RandMirroredTiled(output_size=8, margin=3)
    outs = []
    for seed in (1, 2, 1):
        transform.set_random_state(seed=seed)
        outs.append(transform(sample)["image"])
    assert torch.equal(outs[0], outs[2])
    assert not torch.equal(outs[0], outs[1])


@pytest.mark.parametrize("wrong", [{"output_size": 0}, {"output_size": (3, 4, 5)}, {"margin": (-1, 0)}], ids=str)
def test_sizes_that_cannot_be(wrong: dict) -> None:
    with pytest.raises(InputError, match=f"{next(iter(wrong))} must be one or two numbers.*Cure: "):
        RandMirroredTiled(**wrong)
