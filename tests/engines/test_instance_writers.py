"""Tests of the files of a prediction."""

from __future__ import annotations

import csv
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from ignite.engine import Engine
from PIL import Image

from monai_ext.datasets.coco_masks import PixelRuns, unpack_counts
from monai_ext.datasets.instance_dataset import InstanceCase
from monai_ext.datasets.label_map_dataset import read_instance_map
from monai_ext.datasets.picture_resolution import picture_resolution
from monai_ext.engines.instance_writers import InstancePrediction, file_stems, runs_of_window
from monai_ext.errors import InputError
from monai_ext.evaluation.instance_objects import MaskWindow
from monai_ext.networks.mask_rcnn.structures import Detections
from monai_ext.planning.instance_plan import InstancePlan, architecture

PLAN = InstancePlan(
    dataset="d",
    classes=("red", "white"),
    category_ids=(7, 3),
    channels=1,
    mean=(0.0,),
    std=(1.0,),
    image_size=(96, 96),
    arch="resnet-tiny",
    anchor_sizes=((8.0,), (16.0,), (32.0,), (64.0,), (128.0,)),
    label_threshold=0.5,
    min_area=4,
    **architecture("resnet-tiny"),
)


def found():
    """A red rectangle, a white one under it, a weak one and a speck."""
    boxes = [[2, 3, 12, 9], [8, 3, 20, 9], [25, 2, 29, 6], [30, 10, 31, 12]]
    return Detections(
        torch.tensor(boxes, dtype=torch.float32),
        torch.tensor([0.9, 0.8, 0.3, 0.7]).sort(descending=True).values,
        torch.tensor([1, 2, 2, 1]),
        torch.ones(4, 28, 28),
    )


def picture(path, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (20, 40), dtype=np.uint8)).save(path, **options)


def predict(writer, detections=None):
    """Run an engine whose output is the detections, one image an iteration."""

    def step(engine, case):
        return {"pred": [detections or found()], "case": [case.name], "size": [case.size]}

    engine = Engine(step)
    writer.attach(engine)
    engine.run(list(writer.cases.values()))


@pytest.fixture
def cases(tmp_path):
    picture(tmp_path / "in" / "a.png")
    picture(tmp_path / "in" / "sub" / "b.tif", resolution_unit=3, x_resolution=20000.0, y_resolution=10000.0)
    return [
        InstanceCase(name, tmp_path / "in" / name, "", (20, 40), image_id=number)
        for number, name in enumerate(("a.png", "sub/b.tif"), 11)
    ]


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("overlapped", [False, True])
def test_everything_is_written(tmp_path, cases, overlapped, capsys):
    out = tmp_path / "out"
    writer = InstancePrediction(PLAN, out, cases, overlapped=overlapped)
    writer.check_new(False)
    predict(writer)
    assert sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()) == [
        "counts.csv",
        "detections.json",
        "labels/a.png",
        "labels/sub/b.tif",
        "objects.csv",
        "overlays/a.png",
        "overlays/sub/b.png",
    ]
    expected = np.zeros((20, 40), dtype=np.int32)
    expected[3:9, 8:20] = 2
    expected[3:9, 2:12] = 1  # the surer one is seen
    expected[2:6, 25:29] = 3
    for name in ("a.png", "sub/b.tif"):
        np.testing.assert_array_equal(read_instance_map(out / "labels" / name, (20, 40)), expected)
    resolution = picture_resolution(out / "labels" / "sub" / "b.tif")
    assert (resolution.x, resolution.y, resolution.unit) == ((20000, 1), (10000, 1), 3)
    with Image.open(out / "overlays" / "a.png") as shown:
        assert shown.size == (40, 20)
        assert len(np.unique(np.array(shown)[7, 9:20], axis=0)) > 1
    assert "6 objects in 2 pictures" in capsys.readouterr().out


def test_tables(tmp_path, cases):
    predict(InstancePrediction(PLAN, tmp_path, cases))
    counts = rows(tmp_path / "counts.csv")
    assert counts[1] == {
        "file": "sub/b.tif", "image_id": "12", "height": "20", "width": "40", "detections": "4", "objects": "3",
        "red": "1", "white": "2",
    }  # fmt: skip
    objects = rows(tmp_path / "objects.csv")
    assert [(row["file"], row["value"], row["class"], row["area"]) for row in objects[:3]] == [
        ("a.png", "1", "red", "60"),
        ("a.png", "2", "white", "48"),
        ("a.png", "3", "white", "16"),
    ]
    assert {key: float(objects[2][key]) for key in ("score", "centre_x", "centre_y", "x0", "y0", "x1", "y1")} == {
        "score": 0.7, "centre_x": 27, "centre_y": 4, "x0": 25, "y0": 2, "x1": 29, "y1": 6,
    }  # fmt: skip


def test_coco_results(tmp_path, cases):
    predict(InstancePrediction(PLAN, tmp_path, cases, outputs="coco"))
    results = json.loads((tmp_path / "detections.json").read_text())
    assert len(results) == 8
    assert [entry["image_id"] for entry in results] == [11] * 4 + [12] * 4
    assert [entry["category_id"] for entry in results[:4]] == [7, 3, 3, 7]
    assert results[1]["bbox"] == [8, 3, 12, 6]
    assert [entry["score"] for entry in results[:4]] == pytest.approx([0.9, 0.8, 0.7, 0.3], abs=1e-5)
    # masks overlap here, and weak ones are there too
    segmentation = results[1]["segmentation"]
    assert segmentation["size"] == [20, 40]
    mask = PixelRuns.from_counts(unpack_counts(segmentation["counts"]), 20, 40).mask()
    assert mask.sum() == 72
    assert mask[3:9, 8:20].all()
    assert not (tmp_path / "labels").exists()


def test_nothing_found(tmp_path, cases):
    none = Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64), torch.zeros(0, 28, 28))
    predict(InstancePrediction(PLAN, tmp_path, cases), none)
    assert read_instance_map(tmp_path / "labels" / "a.png", (20, 40)).max() == 0
    assert json.loads((tmp_path / "detections.json").read_text()) == []
    assert [row["objects"] for row in rows(tmp_path / "counts.csv")] == ["0", "0"]


def test_formats(tmp_path, cases):
    predict(InstancePrediction(PLAN, tmp_path, cases, "labels", "tif"))
    assert (tmp_path / "labels" / "a.tif").is_file()
    writer = InstancePrediction(PLAN, tmp_path, cases, "labels", "png")
    assert writer.label_path("sub/b.tif", 65535).name == "b.png"
    # PNG cannot hold more
    assert writer.label_path("sub/b.tif", 65536).name == "b.tif"
    assert [path.name for path in writer.files_of("sub/b.tif")] == ["b.png", "b.tif"]
    wrong = (
        ({"outputs": "masks"}, "pred_format"),
        ({"outputs": ""}, "pred_format"),
        ({"label_format": "jpg"}, "label_format"),
    )
    for options, key in wrong:
        with pytest.raises(InputError, match=f"--{key}"):
            InstancePrediction(PLAN, tmp_path, cases, **options)


def test_files_are_kept(tmp_path, cases):
    writer = InstancePrediction(PLAN, tmp_path / "out", cases)
    predict(writer)
    with pytest.raises(InputError, match="7 files are there already"):
        writer.check_new(False)
    writer.check_new(True)
    inputs = tmp_path / "labels"
    picture(inputs / "a.png")
    own = InstancePrediction(PLAN, tmp_path, [InstanceCase("a.png", inputs / "a.png", "", (20, 40))])
    with pytest.raises(InputError, match="would replace the input"):
        own.check_new(True)


def test_names_of_files():
    stems = file_stems(["a.png", "a.jpg", "sub/a.png", "b.nii.gz", "c.d.tif", "/data/x.png"])
    assert {name: str(stem) for name, stem in stems.items()} == {
        "a.png": "a.png", "a.jpg": "a.jpg", "sub/a.png": "sub/a", "b.nii.gz": "b", "c.d.tif": "c.d", "/data/x.png": "x",
    }  # fmt: skip
    with pytest.raises(InputError, match=r"2 problems\n.*A\.png: would be written to the same files as a\.png"):
        file_stems(["a.png", "A.png", "b.png", "B.jpg"])


def test_numbers_that_are_not_finite(tmp_path, cases):
    broken = found()
    broken.boxes[0, 0] = torch.nan
    writer = InstancePrediction(PLAN, tmp_path, cases)
    engine = SimpleNamespace(
        state=SimpleNamespace(output={"pred": [broken], "case": ["a.png"], "size": [(20, 40)]}),
    )
    with pytest.raises(InputError, match=r"a\.png: the network gives numbers that are not finite"):
        writer._collect(engine)


def test_runs_of_a_window():
    random = np.random.default_rng(0)
    for _ in range(20):
        inside = random.random((7, 5)) < 0.5
        whole = np.zeros((12, 9), dtype=bool)
        top, left = int(random.integers(0, 6)), int(random.integers(0, 5))
        whole[top : top + 7, left : left + 5] = inside
        assert runs_of_window(MaskWindow(top, left, inside), 12, 9).to_coco() == PixelRuns.from_mask(whole).to_coco()
    # columns full from top to bottom are one run
    full = runs_of_window(MaskWindow(0, 2, np.ones((12, 3), dtype=bool)), 12, 9)
    assert full.to_coco() == PixelRuns.from_mask(full.mask()).to_coco()
