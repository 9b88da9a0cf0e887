"""Samples of an instance segmentation: a function of seed and number, boxes rebuilt, whatever the file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.transforms import Compose, Lambdad, RandFlipd
from PIL import Image
from scipy.ndimage import find_objects
from torch.utils.data import DataLoader

from monai_ext.datasets.instance_dataset import Annotation, InstanceCase, Instances
from monai_ext.datasets.instance_open import open_instances
from monai_ext.engines.decoded_instances import decode_case
from monai_ext.engines.instance_batch import collate_instances
from monai_ext.engines.instance_samples import InstanceSamples, WholeInstances, targets_of_regions
from monai_ext.errors import InputError
from monai_ext.planning.instance_plan import InstancePlan, architecture
from monai_ext.transforms.brightness import RandBrightnessd
from monai_ext.transforms.contrast import RandContrastd
from monai_ext.transforms.flips import RandMirrord
from monai_ext.transforms.fused_chain import FusedCompose
from monai_ext.transforms.gamma import RandGammad
from monai_ext.transforms.gaussian_blur import RandBlurd
from monai_ext.transforms.gaussian_noise import RandNoised
from monai_ext.transforms.invert import RandInvertd
from monai_ext.transforms.right_angle_turn import RandRightAngleTurnd
from monai_ext.transforms.scale_crop import RandScaleCropPadd
from monai_ext.transforms.stain_jitter import RandStainJitterd

ARCH = "resnet-tiny"
ANCHORS = ((16.0,), (32.0,), (64.0,), (128.0,), (256.0,))
PLAN = InstancePlan(
    "d", ("a", "b"), (1, 2), 3, (0.3, 0.4, 0.5), (0.2, 0.25, 0.3), (64, 64), ARCH, **architecture(ARCH),
    anchor_sizes=ANCHORS, scale=2.0,
)  # fmt: skip
BOTH = ("image", "label_map")
Entry = tuple[float, float, float, float]


def square(number: int, label: int, box: Entry, crowd: bool = False) -> Annotation:
    x0, y0, x1, y1 = box
    polygon = np.array([x0, y0, x1, y0, x1, y1, x0, y1])
    if crowd:
        mask = np.zeros((50, 70), dtype=bool)
        mask[int(y0) : int(y1), int(x0) : int(x1)] = True
        edges = np.flatnonzero(np.diff(np.concatenate([[0], mask.ravel(order="F").astype(int), [0]])))
        counts = np.diff(np.concatenate([[0], edges, [mask.size]]))
        return Annotation(number, label, True, box, counts=counts)
    return Annotation(number, label, False, box, (polygon,))


@pytest.fixture
def cases(tmp_path: Path) -> list[InstanceCase]:
    random, cases = np.random.default_rng(0), []
    for number in range(6):
        path = tmp_path / f"{number}.png"
        pixels = random.integers(0, 200, (50, 70, 3), dtype=np.uint8)
        if number % 2:  # grey
            pixels[...] = pixels[..., :1]
        Image.fromarray(pixels).save(path)
        objects = [square(10 * k + 1, 1 + k % 2, (12 * k, 5, 12 * k + 9, 20 + 5 * k)) for k in range(number)]
        cases.append(InstanceCase(path.name, path, "train", (50, 70), tuple(objects)))
    return cases


def chain() -> FusedCompose:
    return FusedCompose(
        [
            RandScaleCropPadd((64, 64), base=2.0, scale=(0.5, 2.0), prefer_objects=0.5),
            RandMirrord(BOTH, (-2, -1)),
            RandRightAngleTurnd(BOTH),
            RandStainJitterd(prob=0.5),
            RandInvertd(prob=0.2),
            RandBlurd(prob=0.3, per_axis=False),
            RandBrightnessd(prob=0.5, per_channel=False),
            RandContrastd(prob=0.5, per_channel=False),
            RandGammad(prob=0.5, per_channel=False, keep_stats=False),
            RandNoised(prob=0.3),
        ]
    )


def same(first: dict[str, Any], second: dict[str, Any]) -> bool:
    return first.keys() == second.keys() and all(
        torch.equal(value, second[name]) if isinstance(value, torch.Tensor) else value == second[name]
        for name, value in first.items()
    )


def check_boxes(sample: dict[str, Any]) -> None:
    """Boxes, numbers and label map say the same."""
    label_map = sample["label_map"].numpy()
    places = find_objects(label_map)
    present = [number for number, place in enumerate(places, 1) if place is not None]
    assert sample["ids"].tolist() == present
    wanted = [(x.start, y.start, x.stop, y.stop) for y, x in (places[number - 1] for number in present)]
    assert sample["boxes"].tolist() == [list(map(float, box)) for box in wanted]
    types = {name: sample[name].dtype for name in ("image", "label_map", "boxes", "labels", "ids", "crowd")}
    assert list(types.values()) == [
        torch.float32, torch.int32, torch.float32, torch.int64, torch.int32, torch.float32,
    ]  # fmt: skip
    assert sample["image"].shape[1:] == label_map.shape


def test_samples_are_a_function_of_seed_and_number(cases: Sequence[InstanceCase]) -> None:
    samples = InstanceSamples(cases, PLAN, chain(), seed=3, max_objects=3)
    first = [samples[number, number % 6, 0] for number in range(18)]
    for sample in first:
        check_boxes(sample)
        assert sample["image"].shape[0] == 3
        assert max(sample["image"].shape[1:]) <= 64
    again = InstanceSamples(cases, PLAN, chain(), seed=3, max_objects=3, cache_bytes=0)
    for number in (7, 2, 17, 5):  # another order, and nothing kept
        assert same(again[number, number % 6, 5], first[number])
    assert not again._cache
    assert not same(again[8, 2, 0], first[2])
    assert not same(InstanceSamples(cases, PLAN, chain(), seed=4)[2, 2, 0], first[2])
    assert any(sample["capped"] for sample in first)


def test_without_augmentation_a_sample_is_the_whole_image(cases: Sequence[InstanceCase]) -> None:
    for plan in (
        PLAN,
        replace(PLAN, resize="fit", image_size=(64, 100)),
        replace(PLAN, channels=1, mean=(0.1,), std=(2.0,)),
    ):
        whole = WholeInstances(cases, plan)
        for number in (0, 3):
            for transform in (Compose([]), Compose([Lambdad("image", lambda x: x)])):
                sample = InstanceSamples(cases, plan, transform)[0, number, 0]
                assert torch.equal(sample["image"], whole[number]["image"])
                assert sample["case"] == whole[number]["case"]
    assert whole[3]["size"] == (50, 70)
    assert whole[3]["path"] == str(cases[3].path)
    cropped = InstanceSamples(cases, PLAN, RandScaleCropPadd((200, 200), base=2.0))[0, 3, 0]
    assert torch.equal(cropped["image"], WholeInstances(cases, PLAN)[3]["image"])


def test_objects_of_a_sample(cases: Sequence[InstanceCase]) -> None:
    sample = InstanceSamples(cases, PLAN, Compose([]))[0, 3, 0]
    assert sample["boxes"].tolist() == [[0, 10, 18, 40], [24, 10, 42, 50], [48, 10, 66, 60]]
    assert sample["labels"].tolist() == [1, 2, 1]
    assert sample["ids"].tolist() == [1, 2, 3]
    assert (sample["label_map"] == 2).sum() == 18 * 40
    assert sample["crowd"].shape == (0, 4)
    empty = InstanceSamples(cases, PLAN, Compose([]))[0, 0, 0]
    assert (empty["boxes"].shape, empty["labels"].shape, empty["ids"].shape) == ((0, 4), (0,), (0,))
    assert not empty["label_map"].any()


def test_mirroring_moves_boxes(cases: Sequence[InstanceCase]) -> None:
    flipped = InstanceSamples(cases, PLAN, Compose([RandMirrord(BOTH, (-1,), 1.0)]))[0, 3, 0]
    assert flipped["boxes"].tolist() == [[122, 10, 140, 40], [98, 10, 116, 50], [74, 10, 92, 60]]
    assert flipped["labels"].tolist() == [1, 2, 1]
    stock = InstanceSamples(cases, PLAN, Compose([RandFlipd(BOTH, prob=1.0, spatial_axis=1)]))[0, 3, 0]
    assert same(stock, flipped)
    assert type(stock["image"]) is torch.Tensor


def test_grey_stays_grey(cases: Sequence[InstanceCase]) -> None:
    plan = replace(PLAN, mean=(0.0,) * 3, std=(1.0,) * 3)
    samples = InstanceSamples(cases, plan, chain())
    for number in range(6):
        image = samples[number, number, 0]["image"]
        assert (number % 2 == 1) == bool(torch.equal(image[0], image[1]) and torch.equal(image[0], image[2]))


def test_crowds_are_regions_without_number(cases: Sequence[InstanceCase]) -> None:
    crowds = (square(91, 1, (5, 10, 25, 45), crowd=True), square(92, 2, (40, 40, 70, 50), crowd=True))
    case = replace(cases[2], annotations=(*cases[2].annotations, *crowds))
    sample = InstanceSamples([case], PLAN, Compose([RandMirrord(BOTH, (-1,), 1.0)]))[0, 0, 0]
    check_boxes(sample)
    assert sample["labels"].tolist() == [1, 2]
    assert sample["crowd"].tolist() == [[90, 20, 130, 90], [0, 80, 60, 100]]
    # objects keep the pixels that crowds also cover
    assert (sample["label_map"] == 2).sum() == 18 * 40
    # what was drawn first lies below: the second crowd is hidden wholly by an object
    hidden = replace(case, annotations=(square(1, 1, (5, 5, 40, 40)), square(2, 1, (10, 10, 20, 20), crowd=True)))
    assert InstanceSamples([hidden], PLAN, Compose([]))[0, 0, 0]["crowd"].shape == (0, 4)


def test_slivers_are_left_out() -> None:
    regions = torch.zeros(20, 30, dtype=torch.int32)
    regions[0:3, 0:1], regions[5:7, 5:7], regions[10:20, 10:15] = 1, 2, 3
    labels = torch.tensor([0, 2, 1, 2, 1])
    found = targets_of_regions(regions, labels, 0, 4, np.random.RandomState(0))
    assert found["ids"].tolist() == [2, 3]
    assert found["labels"].tolist() == [1, 2]
    assert sorted(found["label_map"].unique().tolist()) == [0, 2, 3]
    assert found["capped"] == 0
    assert len(found["crowd"]) == 0
    assert targets_of_regions(regions, labels, 0, 3, np.random.RandomState(0))["ids"].tolist() == [1, 2, 3]


def test_objects_above_the_limit_are_ignored_at_random() -> None:
    regions = torch.zeros(10, 400, dtype=torch.int32)
    for number in range(1, 41):
        regions[2:8, 10 * number - 8 : 10 * number] = number
    labels = torch.ones(41, dtype=torch.int64)
    labels[0] = 0
    times = np.zeros(41)
    for seed in range(100):
        found = targets_of_regions(regions, labels, 25, 4, np.random.RandomState(seed))
        assert (len(found["ids"]), len(found["crowd"]), found["capped"]) == (25, 15, 15)
        assert set(found["label_map"].unique().tolist()) == {0, *found["ids"].tolist()}
        boxes = {tuple(box) for box in torch.cat([found["boxes"], found["crowd"]]).tolist()}
        assert len(boxes) == 40
        times[found["ids"].numpy()] += 1
    # 62.5 expected, standard deviation 4.8
    assert times[1:].min() > 40
    assert times.max() < 85


def test_label_maps_are_kept_small_and_only_so_many(cases: Sequence[InstanceCase]) -> None:
    decoded = decode_case(cases[3], PLAN)
    assert decoded.regions.values.dtype == np.uint16
    assert decoded.picture.image.shape == (1, 50, 70)  # grey
    assert decode_case(cases[2], PLAN).picture.image.shape == (3, 50, 70)
    size = decode_case(cases[2], PLAN).nbytes
    samples = InstanceSamples(cases, PLAN, Compose([]), cache_bytes=2 * size + 100)
    for number in (0, 2, 4, 2, 0):
        samples[0, number, 0]
    assert list(samples._cache) == [2, 0]
    assert samples._cached_bytes == sum(entry.nbytes for entry in samples._cache.values())


def test_more_than_65535_objects(cases: Sequence[InstanceCase], tmp_path: Path) -> None:
    Image.fromarray(np.zeros((257, 257), dtype=np.uint8)).save(tmp_path / "dots.png")
    dots = np.arange(1, 66050, dtype=np.int32).reshape(257, 257)

    class Dots(InstanceCase):
        def instances(self) -> Instances:
            return Instances(dots, np.ones(66049, dtype=np.int64), np.arange(66049))

    case = Dots("dots.png", tmp_path / "dots.png", "train", (257, 257))
    assert decode_case(case, PLAN).regions.values.dtype == np.int32
    sample = InstanceSamples([case], replace(PLAN, scale=1.0), Compose([]), min_visible=1)[0, 0, 0]
    assert torch.equal(sample["ids"], torch.arange(1, 66050, dtype=torch.int32))
    assert torch.equal(sample["label_map"], torch.from_numpy(dots))


def test_workers_change_nothing(cases: Sequence[InstanceCase]) -> None:
    def batches(workers: int) -> list[dict[str, Any]]:
        indices = [[(4 * step + slot, (step + slot) % 6, slot) for slot in range(4)] for step in range(3)]
        loader = DataLoader(
            InstanceSamples(cases, PLAN, chain(), seed=1),
            batch_sampler=indices,
            collate_fn=Collate(),
            num_workers=workers,
        )
        return list(loader)

    for alone, shared in zip(batches(0), batches(2), strict=True):
        assert torch.equal(alone["image"], shared["image"])
        for one, other in zip(alone["targets"], shared["targets"], strict=True):
            assert all(torch.equal(a, b) for a, b in zip(one[:-1], other[:-1], strict=True))
            assert one.draw == other.draw is not None


class Collate:
    def __call__(self, samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
        return collate_instances(samples, 32)


def test_bad_files_are_named_from_a_worker(cases: Sequence[InstanceCase]) -> None:
    wrong = replace(cases[1], size=(50, 71))
    with pytest.raises(InputError, match=r"1\.png: image has 50x70 pixels, its annotations 50x71.*Cure"):
        InstanceSamples([wrong], PLAN, Compose([]))[0, 0, 0]
    cases[2].path.write_bytes(cases[2].path.read_bytes()[:700])
    loader = DataLoader(
        InstanceSamples(cases, PLAN, chain()), batch_sampler=[[(0, 2, 0)]], collate_fn=Collate(), num_workers=1
    )
    with pytest.raises(InputError, match=r"2\.png: cannot be read") as caught:
        next(iter(loader))
    assert str(caught.value).startswith(str(cases[2].path))
    with pytest.raises(InputError, match=r"2\.png: cannot be read"):
        WholeInstances(cases, PLAN)[2]


@pytest.mark.real_data
@pytest.mark.parametrize("layout", ["coco", "label_maps"])
def test_nuclei(data_folder: Path, tmp_path: Path, layout: str) -> None:
    source = data_folder / "dsb2018"
    for part in ("images/val", "labels/val", "annotations/instances_val.json"):  # the smaller split
        (tmp_path / part).parent.mkdir(exist_ok=True)
        (tmp_path / part).symlink_to(source / part)
    dataset = open_instances(tmp_path, layout)
    images = dataset.part("val")[::9]
    plan = replace(PLAN, classes=dataset.classes, category_ids=dataset.category_ids)
    whole = InstanceSamples(images, replace(plan, scale=1.0), Compose([]), min_visible=1)
    crops = InstanceSamples(images, plan, chain(), seed=2)
    shown = 0
    for number, case in enumerate(images):
        sample = whole[0, number, 0]
        check_boxes(sample)
        if layout == "coco":
            assert len(sample["ids"]) == len(case.annotations)
        for again in range(4):
            crop = crops[len(images) * again + number, number, 0]
            check_boxes(crop)
            assert torch.isfinite(crop["image"]).all()
            shown += len(crop["ids"])
    assert shown > 40
    stated = json.loads((source / "annotations/instances_val.json").read_text())
    names = {Path(case.name).name for case in images}
    ids = {image["id"] for image in stated["images"] if Path(image["file_name"]).name in names}
    wanted = sum(annotation["image_id"] in ids for annotation in stated["annotations"])
    assert sum(len(whole[0, number, 0]["ids"]) for number in range(len(images))) == wanted
