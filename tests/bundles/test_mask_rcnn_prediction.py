"""Detection bundle: inference by the command line."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bundle_commands import MASK_RCNN, Finished, bundle_run
from mask_rcnn_workflows import mistake_of, run_here
from monai_ext.datasets.coco_masks import PixelRuns, unpack_counts
from monai_ext.planning.instance_plan import InstancePlan

RUN = Path("runs/mask_rcnn/phantom/0")
RAW = Path("runs/mask_rcnn/phantom/prepared/raw")
INFERENCE = "inference.json"
THRESHOLD = 0.2  # the network has hardly been trained and is sure of nothing
RESOLUTION = (254.0, 254.0)  # pixels per inch


def table(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.open()))


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, for commands that run in this process."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def model(trained_mask: tuple[Path, Finished]) -> str:
    return str(trained_mask[0] / RUN / "model.pt")


@pytest.fixture(scope="module")
def predicted(trained_mask: tuple[Path, Finished], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Working directory with two pictures in which a copy of model and plan alone has searched."""
    folder = tmp_path_factory.mktemp("predicted")
    (folder / "alone").mkdir()
    for name in ("model.pt", "plan.json"):
        shutil.copy(trained_mask[0] / RUN / name, folder / "alone" / name)
    (folder / "pictures" / "more").mkdir(parents=True)
    shutil.copy(trained_mask[0] / RAW / "images/val/040.png", folder / "pictures")
    shutil.copy(trained_mask[0] / RAW / "images/val/046.png", folder / "pictures" / "more")
    options = {"input": "pictures", "ckpt_path": "alone/model.pt", "label_threshold": THRESHOLD, "amp": False}
    done = bundle_run(folder, "inference", INFERENCE, bundle=MASK_RCNN, **options)
    assert done.status == 0, done.err
    return folder


def test_folder_becomes_label_maps_tables_and_overlays(predicted: Path) -> None:
    out = predicted / "predictions"
    counts = table(out / "counts.csv")
    assert [row["file"] for row in counts] == ["040.png", "more/046.png"]
    objects = table(out / "objects.csv")
    results = json.loads((out / "detections.json").read_text())
    plan = InstancePlan.load(predicted / "alone" / "plan.json")
    for row in counts:
        with Image.open(predicted / "pictures" / row["file"]) as picture:
            size = picture.size
        labels = np.array(Image.open(out / "labels" / row["file"]))
        assert labels.shape == (size[1], size[0]) == (int(row["height"]), int(row["width"]))
        assert labels.dtype in (np.uint16, np.int32)  # Pillow may widen 16 bits
        assert set(np.unique(labels)) == set(range(int(row["objects"]) + 1))
        assert int(row["objects"]) == int(row["disc"]) + int(row["blob"]) > 0
        with Image.open(out / "overlays" / row["file"]) as overlay:
            assert (overlay.size, overlay.mode) == (size, "RGB")
        own = [one for one in results if one["image_id"] == int(row["image_id"])]
        assert len(own) == int(row["detections"]) <= plan.max_detections
        assert [one["score"] for one in own] == sorted((one["score"] for one in own), reverse=True)
        assert {one["category_id"] for one in own} <= set(plan.category_ids)
        for one in own[:3]:
            assert one["segmentation"]["size"] == list(labels.shape)
            mask = PixelRuns.from_counts(unpack_counts(one["segmentation"]["counts"]), *labels.shape)
            left, top, right, bottom = mask.box()
            assert 0 <= left < right <= size[0]
            assert 0 <= top < bottom <= size[1]
            x, y, width, height = one["bbox"]
            assert 0 <= x <= x + width <= size[0]
            assert 0 <= y <= y + height <= size[1]
    for row in objects:
        labels = np.array(Image.open(out / "labels" / row["file"]))
        assert (labels == int(row["value"])).sum() == int(row["area"])
        assert float(row["score"]) >= THRESHOLD
    assert len(objects) == sum(int(row["objects"]) for row in counts)


def test_large_tiff_is_searched_by_tiles(
    predicted: Path, here: Path, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A picture of many tiles; its label map is a TIFF of its size and resolution."""
    tile = np.array(Image.open(predicted / "pictures/040.png"))
    large = np.tile(tile, (2, 3))
    Image.fromarray(large).save(here / "large.tif", dpi=RESOLUTION)
    run_here("inference", INFERENCE, input="large.tif", ckpt_path=model, label_threshold=THRESHOLD, tta=True)
    out = here / "predictions"
    with Image.open(out / "labels/large.tif") as labels:
        assert labels.size == large.shape[::-1]
        assert labels.info["dpi"] == pytest.approx(RESOLUTION, rel=1e-3)
    rows = table(out / "objects.csv")
    height, width = large.shape
    found = {(2 * float(row["centre_y"]) // height, 3 * float(row["centre_x"]) // width) for row in rows}
    assert len(found) == 6  # something is found in each repetition
    assert max(int(row["x1"]) - int(row["x0"]) for row in rows) <= width


def test_nothing_is_overwritten_silently(predicted: Path, here: Path, model: str) -> None:
    shutil.copytree(predicted / "predictions", here / "out")
    before = (here / "out/detections.json").read_bytes()
    one = {"input": str(predicted / "pictures/040.png"), "ckpt_path": model, "output_dir": "out"}
    assert "are there already" in mistake_of("inference", INFERENCE, **one)
    assert (here / "out/detections.json").read_bytes() == before
    run_here("inference", INFERENCE, overwrite=True, pred_format="coco", **one)
    assert [row["file"] for row in table(here / "out/counts.csv")] == ["040.png"]
    assert {e["image_id"] for e in json.loads((here / "out/detections.json").read_text())} == {1}


def test_damaged_input_is_named(predicted: Path, here: Path, model: str) -> None:
    shutil.copytree(predicted / "pictures", here / "pictures")
    (here / "pictures/broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 no picture")
    given = {"input": "pictures", "ckpt_path": model}
    message = mistake_of("inference", INFERENCE, **given)
    assert "broken.jpg" in message
    assert "--skip_unreadable True" in message
    assert not list(here.rglob("predictions/[!.]*"))
    run_here("inference", INFERENCE, skip_unreadable=True, pred_format="labels", label_format="tif", **given)
    names = {path.relative_to(here / "predictions/labels").as_posix() for path in here.rglob("labels/**/*.*")}
    assert names == {"040.tif", "more/046.tif"}


def test_models_that_cannot_be_used(predicted: Path, here: Path) -> None:
    """Several models, none, and one without its plan."""
    for fold in "01":
        shutil.copytree(predicted / "alone", here / "folds" / fold)
    picture = {"input": str(predicted / "pictures/040.png")}
    assert "holds 2 models" in mistake_of("inference", INFERENCE, ckpt_path="folds", **picture)
    assert "nowhere.pt" in mistake_of("inference", INFERENCE, ckpt_path="nowhere.pt", **picture)
    (here / "folds/0/plan.json").unlink()
    assert "plan.json" in mistake_of("inference", INFERENCE, ckpt_path="folds/0/model.pt", **picture)
    assert not list(here.rglob("predictions/[!.]*"))


def test_training_ends_with_predictions(here: Path, trained_mask: tuple[Path, Finished]) -> None:
    """Of the validation images, as the phantom has no test part."""
    store = str(trained_mask[0] / RAW.parent)
    run_here("train_and_predict", store_dir=store, output_dir="run", pred_format="coco", num_workers=0)
    counts = table(here / "run/predictions/counts.csv")
    fold = json.loads((here / "run/fold.json").read_text())
    assert {row["file"] for row in counts} <= set(fold["val"])
    assert not (here / "run/predictions/labels").exists()
    assert json.loads((here / "run/predictions/detections.json").read_text())
