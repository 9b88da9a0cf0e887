"""Where patches lie, what they contain, and that turning them reads the right voxels."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser

from monai_ext.errors import InputError
from monai_ext.transforms.foreground_crop import RandForegroundCropd, read_box
from monai_ext.transforms.sample_seed import seed_transforms
from monai_ext.transforms.spatial import SpatialDraw


def make_sample(shape: tuple[int, ...] = (20, 24, 22), channels: int = 1) -> dict:
    """Unique voxel values; class 1 has 64 voxels, class 2 one, in opposite corners."""
    image = np.arange(channels * np.prod(shape), dtype=np.float32).reshape(channels, *shape)
    label = np.zeros(shape, np.uint8)
    label[tuple(slice(0, 4) for _ in shape)] = 1
    label[tuple(n - 1 for n in shape)] = 2
    locations = {c: np.argwhere(label == c).astype(np.int32) for c in (1, 2)}
    return {"image": image, "label": label, "locations": locations, "slot": 0}


def starts(transform: RandForegroundCropd, sample: dict, number: int) -> tuple[np.ndarray, np.ndarray]:
    transform.set_random_state(seed=0)
    drawn = []
    for _ in range(number):
        transform.randomize(sample)
        drawn.append((transform.params["start"], transform.params["forced"]))
    return np.array([d[0] for d in drawn]), np.array([d[1] for d in drawn])


@pytest.mark.parametrize("mode", ["per_sample", "batch_share"])
def test_patch_is_the_slice_that_params_name(mode: str) -> None:
    sample = make_sample(channels=2)
    transform = RandForegroundCropd(patch_size=(6, 7, 8), mode=mode, oversampling=0.0, batch_size=2)
    for seed in range(20):
        transform.set_random_state(seed=seed)
        out = transform(sample)
        start = transform.params["start"]
        window = tuple(slice(s, s + p) for s, p in zip(start, (6, 7, 8), strict=True))
        assert np.array_equal(out["image"].numpy(), sample["image"][(slice(None), *window)])
        assert np.array_equal(out["label"].numpy(), sample["label"][window][None])
    assert out["image"].dtype == torch.float32
    assert out["label"].dtype == torch.uint8
    assert set(out) == {"image", "label"}


def test_parameters_are_json() -> None:
    transform = RandForegroundCropd(patch_size=(6, 6, 6), spatial=SpatialDraw(rotation_prob=1, scale_prob=1))
    sample = make_sample()
    transform.set_random_state(seed=0)
    out = transform(sample)
    params = json.loads(json.dumps(transform.params))
    image, label = transform.apply(sample["image"], sample["label"][None], params)
    assert label is not None
    assert torch.equal(image, out["image"])
    assert torch.equal(label, out["label"])


def test_memory_map_on_disk_and_label_with_channel(tmp_path: Path) -> None:
    sample = make_sample()
    np.save(tmp_path / "i.npy", sample["image"])
    np.save(tmp_path / "l.npy", sample["label"][None].astype(np.int16))
    transform = RandForegroundCropd(patch_size=(6, 6, 6))
    transform.set_random_state(seed=3)
    expected = transform(sample)
    mapped = {"image": np.load(tmp_path / "i.npy", mmap_mode="r"), "label": np.load(tmp_path / "l.npy", mmap_mode="r")}
    transform.set_random_state(seed=3)
    out = transform({**sample, **mapped})
    assert torch.equal(out["image"], expected["image"])
    assert out["label"].dtype == torch.int64
    assert torch.equal(out["label"], expected["label"].long())
    out["image"].zero_()  # a copy of its own: writing must not reach a read-only map
    assert mapped["image"].max() > 0


def test_per_sample_share_and_voxel_law() -> None:
    transform = RandForegroundCropd(patch_size=(3, 3, 3), oversampling=0.33)
    begin, forced = starts(transform, make_sample(), 3000)
    # binomial, standard error 0.0086: four of them
    assert abs(forced.mean() - 0.33) < 0.035
    small = (begin[forced] == [17, 21, 19]).all(1).mean()
    # all voxels alike: class 2 is one of 65; standard error 0.004 of 990 draws
    assert abs(small - 1 / 65) < 0.016
    # not forced: the centre is uniform over 20 voxels, clamped by 1 on either side: mean start 8.5, deviation 5.7
    assert abs(begin[~forced][:, 0].mean() - 8.5) < 4 * 5.7 / 2000**0.5


def test_class_counts_weigh_subsampled_locations() -> None:
    sample = {**make_sample(), "class_counts": {"1": 30, "2": 70}}
    begin, _ = starts(RandForegroundCropd(patch_size=(3, 3, 3), oversampling=1.0), sample, 1000)
    # share 0.7, standard error 0.0145: four of them
    assert abs((begin == [17, 21, 19]).all(1).mean() - 0.7) < 0.058


@pytest.mark.parametrize(("batch", "forced"), [(1, 0), (2, 1), (3, 1), (4, 1), (9, 3)])
def test_share_of_a_batch(batch: int, forced: int) -> None:
    transform = RandForegroundCropd(patch_size=(4, 4, 4), mode="batch_share", batch_size=batch)
    sample = make_sample()
    decided = []
    for slot in range(batch):
        transform.randomize({**sample, "slot": slot})
        decided.append(transform.params["forced"])
    assert decided == [False] * (batch - forced) + [True] * forced


def test_batch_share_draws_classes_alike() -> None:
    transform = RandForegroundCropd(patch_size=(4, 4, 4), mode="batch_share", batch_size=2)
    begin, forced = starts(transform, {**make_sample(), "slot": 1}, 1000)
    assert forced.all()
    # class 2 sits in the far corner; its patch hangs over: start = voxel - 2, not moved inside
    rare = (begin == [17, 21, 19]).all(1)
    # share 1/2, standard error 0.016: four of them
    assert abs(rare.mean() - 0.5) < 0.064


@pytest.mark.parametrize("mode", ["per_sample", "batch_share"])
@pytest.mark.parametrize("shape", [(20, 24, 22), (5, 24, 4), (3, 3, 3)], ids=str)
@pytest.mark.parametrize("patch", [(8, 8, 8), (7, 9, 5)], ids=str)
def test_forced_patch_holds_foreground(mode: str, shape, patch) -> None:
    sample = {**make_sample(shape), "slot": 1}
    transform = RandForegroundCropd(patch_size=patch, mode=mode, oversampling=1.0, batch_size=2)
    for seed in range(30):
        transform.set_random_state(seed=seed)
        out = transform(sample)
        assert out["image"].shape == (1, *patch)
        assert out["label"].max() > 0


def test_unforced_batch_share_is_uniform_inside() -> None:
    transform = RandForegroundCropd(patch_size=(17, 24, 30), mode="batch_share", oversampling=0, batch_size=2)
    begin, _ = starts(transform, make_sample(), 2000)
    # axis 0: starts 0..3 equally often, standard error 0.0097: four of them
    assert np.all(np.abs(np.bincount(begin[:, 0], minlength=4) / 2000 - 0.25) < 0.04)
    assert set(begin[:, 1]) == {0}
    # axis 2: 8 voxels of padding, half of it on each side
    assert set(begin[:, 2]) == {-4}


@pytest.mark.parametrize("mode", ["per_sample", "batch_share"])
def test_small_volume_is_padded_with_the_values_asked_for(mode: str) -> None:
    sample = make_sample((4, 5, 30))
    sample["image"] += 1
    transform = RandForegroundCropd(patch_size=(8, 8, 8), mode=mode, oversampling=0, batch_size=1, pad_label=9)
    transform.set_random_state(seed=0)
    out = transform(sample)
    inside = out["image"][0] != 0
    assert inside.sum() == 4 * 5 * 8
    assert inside[2:6, 1:6].all()
    assert torch.equal(out["label"][0] == 9, ~inside)


def test_negative_pad_label_needs_a_signed_type() -> None:
    out = RandForegroundCropd(patch_size=(30, 8, 8), pad_label=-1)(make_sample())
    assert out["label"].dtype == torch.int64
    assert out["label"].min() == -1


@pytest.mark.parametrize("mode", ["per_sample", "batch_share"])
def test_no_foreground_gives_any_patch(mode: str) -> None:
    transform = RandForegroundCropd(patch_size=(8, 8, 8), mode=mode, oversampling=1.0, batch_size=1)
    for locations in ({}, {1: np.zeros((0, 3), np.int32)}, {0: np.ones((4, 3), np.int32)}):
        sample = {**make_sample(), "locations": locations}
        begin, forced = starts(transform, sample, 50)
        assert not forced.any()
        assert len(np.unique(begin[:, 0])) > 5


def test_ignore_label_is_no_foreground() -> None:
    transform = RandForegroundCropd(patch_size=(3, 3, 3), oversampling=1.0, ignore_label=1)
    begin, forced = starts(transform, make_sample(), 50)
    assert forced.all()
    assert np.all(begin == [17, 21, 19])


def test_locations_are_found_in_the_label_if_absent() -> None:
    sample = make_sample()
    del sample["locations"]
    transform = RandForegroundCropd(patch_size=(3, 3, 3), oversampling=1.0)
    for seed in range(5):
        transform.set_random_state(seed=seed)
        assert transform(sample)["label"].max() > 0


def test_sample_without_label() -> None:
    out = RandForegroundCropd(patch_size=(3, 3, 3), oversampling=1.0)({"image": make_sample()["image"]})
    assert set(out) == {"image"}
    assert out["image"].shape == (1, 3, 3, 3)


def test_slices_of_volumes_and_images() -> None:
    sample = {**make_sample(), "slot": 1}
    transform = RandForegroundCropd(patch_size=(8, 6), mode="batch_share", batch_size=2, spatial=SpatialDraw(1.0))
    transform.set_random_state(seed=0)
    out = transform(sample)
    assert out["image"].shape == (1, 8, 6)
    assert out["label"].shape == (1, 8, 6)
    assert transform.params["angles"][1:] == [0, 0]
    flat = RandForegroundCropd(patch_size=(8, 6))(make_sample((30, 30)))
    assert flat["image"].shape == (1, 8, 6)
    assert flat["label"].shape == (1, 8, 6)


def test_identity_draw_equals_the_plain_slice() -> None:
    sample = make_sample(channels=2)
    transform, label = RandForegroundCropd(patch_size=(6, 7, 8)), sample["label"][None]
    for start in ([3, 4, 5], [-2, 0, 18]):
        plain = transform.apply(sample["image"], label, {"start": start})
        same = transform.apply(sample["image"], label, {"start": start, "angles": [0, 0, 0], "scale": [1, 1, 1]})
        assert torch.equal(plain[0], same[0])
        assert torch.equal(plain[1], same[1])


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("edge", [6, 7])
def test_quarter_turns_equal_rot90(axis: int, edge: int) -> None:
    rng = np.random.default_rng(0)
    image = rng.standard_normal((2, 20, 20, 20)).astype(np.float32)
    label = rng.integers(0, 4, (1, 20, 20, 20)).astype(np.uint8)
    transform = RandForegroundCropd(patch_size=(edge,) * 3)
    plain, target = transform.apply(image, label, {"start": [5, 6, 7]})
    angles = [0.0, 0.0, 0.0]
    angles[axis] = 90.0
    turned, turned_target = transform.apply(image, label, {"start": [5, 6, 7], "angles": angles, "scale": [1, 1, 1]})
    plane = [i + 1 for i in range(3) if i != axis]
    # positions are right to 1e-6 voxel in float32, neighbours differ by a few units
    torch.testing.assert_close(turned, torch.rot90(plain, 1, plane), atol=1e-5, rtol=0)
    assert torch.equal(turned_target, torch.rot90(target, 1, plane))


def test_scale_above_one_shrinks_objects() -> None:
    label = np.zeros((1, 40, 40, 40), np.uint8)
    label[0, 10:30, 10:30, 10:30] = 1
    transform = RandForegroundCropd(patch_size=(30, 30, 30))
    for scale, edge in ((1.25, 16), (20 / 24, 24)):
        params = {"start": [5, 5, 5], "angles": [0, 0, 0], "scale": [scale] * 3}
        _, target = transform.apply(label.astype(np.float32), label, params)
        # the edge scales exactly; corners of the cube lose a voxel or two to the linear vote
        assert int(target.sum()) == pytest.approx(edge**3, rel=0.1)


def test_rotated_patch_at_the_border_is_padded() -> None:
    image, label = np.ones((1, 12, 12, 12), np.float32), np.ones((1, 12, 12, 12), np.uint8)
    transform = RandForegroundCropd(patch_size=(12, 12, 12), pad_label=7)
    out, target = transform.apply(image, label, {"start": [0, 0, 0], "angles": [0, 0, 45], "scale": [1, 1, 1]})
    assert out[0, :, 6, 6].min() == 1
    assert out[0, 0, 0].max() == 0
    assert set(target.unique().tolist()) == {1, 7}


def test_reading_beyond_every_side_and_missing_the_volume() -> None:
    array = np.arange(8, dtype=np.float32).reshape(1, 2, 2, 2)
    box = read_box(array, [-1, -1, -1], [4, 4, 4], -5.0, torch.float32)
    assert torch.equal(box[:, 1:3, 1:3, 1:3], torch.from_numpy(array))
    assert (box == -5).sum() == 64 - 8
    assert (read_box(array, [9, 0, 0], [2, 2, 2], 3.0, torch.float32) == 3).all()
    assert (read_box(array, [-9, 0, 0], [2, 2, 2], 3.0, torch.float32) == 3).all()
    own = read_box(torch.from_numpy(array), [0, 0, 0], [2, 2, 2], 0.0, torch.float32)
    own += 1
    assert array[0, 0, 0, 0] == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"keys": ("image",)}, "keys must be two"),
        ({"patch_size": (8,)}, "patch_size must be 2 or 3"),
        ({"patch_size": (8, 0, 8)}, "patch_size must be 2 or 3"),
        ({"mode": "share"}, "mode must be of"),
        ({"mode": "batch_share"}, "needs batch_size"),
        ({"oversampling": 33}, "oversampling must be in"),
    ],
)
def test_wrong_arguments_are_refused(arguments: dict, words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        RandForegroundCropd(**arguments)
    assert "Cure: " in str(caught.value)


def test_missing_slot_is_refused() -> None:
    transform = RandForegroundCropd(patch_size=(3, 3, 3), mode="batch_share", batch_size=2)
    sample = make_sample()
    del sample["slot"]
    with pytest.raises(InputError, match="slot"):
        transform(sample)


def test_from_json_beside_stock_transforms() -> None:
    parser = ConfigParser(
        {
            "plan_patch": [8, 8, 8],
            "augmentation": {
                "_target_": "Compose",
                "transforms": [
                    {
                        "_target_": "monai_ext.transforms.foreground_crop.RandForegroundCropd",
                        "keys": ["image", "label"],
                        "patch_size": "@plan_patch",
                        "spatial": {"_target_": "monai_ext.transforms.spatial.SpatialDraw", "rotation_prob": 1.0},
                    },
                    {"_target_": "RandScaleIntensityd", "keys": "image", "factors": 0.1, "prob": 1.0},
                    {"_target_": "monai_ext.transforms.flips.RandMirrord", "keys": ["image", "label"]},
                ],
            },
        }
    )
    chain = parser.get_parsed_content("augmentation")
    out = seed_transforms(chain, 1, 2)(make_sample())
    assert out["image"].shape == (1, 8, 8, 8)
    assert torch.equal(out["image"], seed_transforms(chain, 1, 2)(make_sample())["image"])


@pytest.mark.parametrize("mode", ["per_sample", "batch_share"])
def test_block_of_slices_is_contiguous_and_keeps_its_axis(mode: str) -> None:
    sample = make_sample((10, 12, 14))
    transform = RandForegroundCropd(patch_size=(6, 8), slices=4, mode=mode, oversampling=0.0, batch_size=2)
    for seed in range(10):
        transform.set_random_state(seed=seed)
        out = transform(sample)
        assert out["image"].shape == (1, 4, 6, 8)
        assert out["label"].shape == (1, 4, 6, 8)
        window = tuple(slice(s, s + p) for s, p in zip(transform.params["start"], (4, 6, 8), strict=True))
        assert np.array_equal(out["image"].numpy(), sample["image"][(slice(None), *window)])


def test_block_of_slices_longer_than_the_volume_ends_in_empty_slices() -> None:
    sample = make_sample((3, 12, 14))
    transform = RandForegroundCropd(patch_size=(12, 14), slices=8, mode="per_sample", oversampling=0.0)
    transform.set_random_state(seed=0)
    image = transform(sample)["image"]
    filled = image.flatten(2).any(2)[0]
    assert image.shape == (1, 8, 12, 14)
    assert int(filled.sum()) == 3


def test_slices_of_a_block_turn_alike_and_stay_in_their_plane() -> None:
    sample = make_sample((10, 30, 30))
    sample["image"] = np.repeat(sample["image"][:, :1], 10, axis=1)  # all slices alike: they must stay so
    spatial = SpatialDraw(rotation_prob=1, scale_prob=1)
    transform = RandForegroundCropd(patch_size=(12, 12), slices=4, mode="per_sample", spatial=spatial)
    transform.set_random_state(seed=3)
    image = transform(sample)["image"]
    assert "angles" in transform.params
    for depth in range(1, 4):
        torch.testing.assert_close(image[:, depth], image[:, 0])


def test_slices_without_a_2d_patch_are_refused() -> None:
    with pytest.raises(InputError, match="slices"):
        RandForegroundCropd(patch_size=(8, 8, 8), slices=2)


@pytest.mark.parametrize("stored", ["read-only", "fortran", "big-endian", "float64", "int32", "tensor"])
def test_storage_does_not_change_turned_patches(stored: str, recwarn: pytest.WarningsRecorder) -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 200, (2, 14, 15, 16)).astype(np.float32)
    label = rng.integers(0, 3, (1, 14, 15, 16)).astype(np.int16)
    transform = RandForegroundCropd(patch_size=(8, 9, 10), pad_label=-1)
    params = {"start": [-2, 3, 9], "angles": [20, -10, 30], "scale": [1.1, 1.1, 1.1]}
    expected, target = transform.apply(image, label, params)
    kinds = {"fortran": "F", "read-only": "C"}
    if stored in kinds:
        image, label = np.array(image, order=kinds[stored]), np.array(label, order=kinds[stored])
        image.flags.writeable = label.flags.writeable = False
    elif stored == "tensor":
        image, label = torch.from_numpy(image), torch.from_numpy(label)
    else:
        image = image.astype({"big-endian": ">f4"}.get(stored, stored))
        label = label.astype({"big-endian": ">i2"}.get(stored, "uint8"))  # -1 does not fit: read as int64
    out, again = transform.apply(image, label, params)
    # a box has another origin, and taps at the border are summed in another order: rounding
    torch.testing.assert_close(out, expected)
    assert again is not None
    assert again.dtype == torch.int64
    assert torch.equal(again, target)
    assert not recwarn.list
