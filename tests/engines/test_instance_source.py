"""Instance data opened and checked: folds, groups, parts of an evaluation, and what is kept between runs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from coco_sets import annotation, content, write_coco, write_map
from monai_ext.datasets.instance_phantom import make_instance_phantom
from monai_ext.engines import instance_source
from monai_ext.engines.instance_preparation import synthetic_plan
from monai_ext.engines.instance_source import open_instance_source
from monai_ext.errors import InputError


@pytest.fixture(scope="module")
def phantom(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_instance_phantom(tmp_path_factory.mktemp("phantom"), num_train=8, num_val=4, size=64)


def write_maps(folder: Path, names: list[str]) -> Path:
    """Pictures of noise with one object each."""
    for number, name in enumerate(names):
        values = np.random.default_rng(number).integers(0, 255, (20, 24), dtype=np.uint8)
        labels = np.zeros((20, 24), dtype=np.uint8)
        labels[2 : 8 + number % 3, 3:10] = 5
        write_map(folder / "images" / f"{name}.png", values)
        write_map(folder / "labels" / f"{name}.png", labels)
    return folder


def test_a_given_split_is_the_fold(phantom: Path, tmp_path: Path) -> None:
    source = open_instance_source(str(phantom), str(tmp_path))
    assert (len(source.cases("train")), len(source.cases("val")), len(source.cases("all"))) == (8, 4, 12)
    assert {case.split for case in source.cases("train")} == {"train"}
    assert source.cases("test") == ()
    text = source.describe()
    assert "train: 8 images" in text
    assert "files: 12 grey 8-bit" in text
    with pytest.raises(InputError, match="--fold_rule drawn"):
        source.require_drawn()
    drawn = open_instance_source(str(phantom), str(tmp_path), fold=1, nfolds=3, fold_rule="drawn")
    drawn.require_drawn()
    assert (len(drawn.fold.train), len(drawn.fold.val)) == (8, 4)
    everything = open_instance_source(str(phantom), str(tmp_path), fold="all")
    assert everything.fold.train == everything.fold.val
    assert len(everything.fold.train) == 12


def test_without_a_folder_the_phantom_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    monkeypatch.setattr(
        instance_source, "make_instance_phantom", lambda path: made.append(make_instance_phantom(path, 2, 1, 64))
    )
    source = open_instance_source("", str(tmp_path / "store"))
    assert made == [tmp_path / "store" / "raw"]
    assert source.dataset.classes == ("disc", "blob")


def test_fewer_validation_images_are_spread_over_all(phantom: Path, tmp_path: Path) -> None:
    source = open_instance_source(str(phantom), str(tmp_path), eval_samples=2)
    assert [case.name for case in source.cases("val")] == [source.fold.val[0], source.fold.val[2]]
    assert len(source.fold.val) == 4
    assert len(open_instance_source(str(phantom), str(tmp_path), eval_samples=9).cases("val")) == 4
    with pytest.raises(InputError, match="--eval_samples -1"):
        open_instance_source(str(phantom), str(tmp_path), eval_samples=-1)


def test_lists_and_selection_choose_the_cases(phantom: Path, tmp_path: Path) -> None:
    source = open_instance_source(str(phantom), str(tmp_path), train_list="*/00[0-3].png")
    assert (len(source.fold.train), len(source.fold.val)) == (4, 4)
    both = open_instance_source(str(phantom), str(tmp_path), train_list="00[0-8].png", val_list="009.*")
    assert (len(both.fold.train), both.fold.val) == (9, ("images/val/009.png",))
    with pytest.raises(InputError, match=r"--val_list train.*fits none of 4"):
        open_instance_source(str(phantom), str(tmp_path), val_list="train*")


def test_groups_and_copies_are_not_separated(tmp_path: Path) -> None:
    folder = write_maps(tmp_path / "data", [f"{group}{n}" for group in "abcd" for n in range(2)])
    (folder / "images" / "d1.png").write_bytes((folder / "images" / "a0.png").read_bytes())
    rows = "\n".join(f"{group}{n}.png,{group},{n}" for group in "abcd" for n in range(2))
    (folder / "images.csv").write_text(f"file,patient,place\n{rows}\n")
    for fold in range(2):
        for group_by in ("patient", r"name:/(\w)\d"):
            source = open_instance_source(str(folder), str(tmp_path / "s"), fold=fold, nfolds=2, group_by=group_by)
            held = {name[len("images/")] for name in source.fold.val}
            assert not held & {name[len("images/")] for name in source.fold.train}
            assert ("a" in held) == ("d" in held)  # d1 is a copy of a0
            assert source.groups["images/b1.png"] == "b"
    chosen = open_instance_source(str(folder), str(tmp_path / "s"), nfolds=2, select="patient=a,b")
    assert len(chosen.dataset.cases) == 4


def test_the_check_of_objects_is_kept(phantom: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = open_instance_source(str(phantom), str(tmp_path))
    calls: list[str] = []
    check = instance_source.check_instances
    monkeypatch.setattr(instance_source, "check_instances", lambda *a, **k: calls.append("") or check(*a, **k))
    again = open_instance_source(str(phantom), str(tmp_path))
    assert not calls
    assert again.report == first.report
    assert again.digest == first.digest
    file = tmp_path / "instance_report.json"
    file.write_text(file.read_text()[:50])  # damaged
    assert open_instance_source(str(phantom), str(tmp_path)).report == first.report
    assert len(calls) == 1


@pytest.mark.parametrize("layout", ["coco", "maps"])
def test_a_moved_object_is_seen(tmp_path: Path, layout: str) -> None:
    folder = write_coco(tmp_path / "data") if layout == "coco" else write_maps(tmp_path / "data", ["a", "b"])
    before = open_instance_source(str(folder), str(tmp_path / "s"), fold="all")
    if layout == "coco":
        write_coco(
            folder, content(annotations=[annotation(1, bbox=[3, 1, 4, 3], segmentation=[[3, 1, 7, 1, 7, 4, 3, 4]])])
        )
    else:
        labels = np.zeros((20, 24), dtype=np.uint8)
        labels[2:6, 3:4] = 5
        Image.fromarray(labels).save(folder / "labels" / "a.png")
    after = open_instance_source(str(folder), str(tmp_path / "s"), fold="all")
    assert after.digest != before.digest
    if layout == "maps":
        assert after.report.box_edges != before.report.box_edges


def test_unreadable_images(tmp_path: Path) -> None:
    images = [{"id": n, "file_name": name, "height": 10, "width": 12} for n, name in ((1, "1.png"), (2, "2.jpg"))]
    folder = write_coco(tmp_path / "data", content(images=images))
    picture = folder / "images" / "train" / "2.jpg"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (10, 12), dtype=np.uint8)).save(picture)
    picture.write_bytes(picture.read_bytes()[:-60])  # within the pixels
    write_coco(folder, split="val")
    with pytest.raises(InputError, match=r"images/train/2\.jpg: .*--skip_broken True"):
        open_instance_source(str(folder), str(tmp_path / "s"))
    source = open_instance_source(str(folder), str(tmp_path / "s"), skip_broken=True)
    assert source.fold.train == ("images/train/1.png",)
    assert "left out, cannot be read: 1 images" in source.describe()


def test_no_object_to_train_on_is_refused(tmp_path: Path) -> None:
    folder = write_coco(tmp_path / "data", content(annotations=[]))
    write_coco(folder, split="val")
    with pytest.raises(InputError, match="none in the part to train on, 1 in others"):
        open_instance_source(str(folder), str(tmp_path / "s"))


def test_other_choices_of_images_keep_files_of_their_own(tmp_path: Path) -> None:
    folder = write_maps(tmp_path / "data", ["a", "b", "c"])
    (folder / "images.csv").write_text("file,kind\na.png,x\nb.png,x\nc.png,y\n")
    store = tmp_path / "s"
    for _ in range(2):
        whole = open_instance_source(str(folder), str(store), nfolds=3)
        some = open_instance_source(str(folder), str(store), nfolds=2, select="kind=x")
    assert (sum(whole.report.images.values()), sum(some.report.images.values())) == (3, 2)
    indices = [json.loads(path.read_text())["images"] for path in sorted(store.rglob("image_index.json"))]
    assert sorted(map(len, indices)) == [2, 3]
    assert open_instance_source(str(folder), str(store), nfolds=2, select={"kind": "x"}).report == some.report
    assert len(list(store.glob("choice-*"))) == 1


def test_more_objects_than_a_model_finds_are_stated(
    phantom: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    plan = replace(synthetic_plan("resnet-tiny", [64]), classes=("disc", "blob"), category_ids=(1, 2), max_detections=4)
    most = max(len(case.annotations) for case in open_instance_source(str(phantom), str(tmp_path)).dataset.cases)
    assert "max_detections" not in caplog.text
    open_instance_source(str(phantom), str(tmp_path), plan=plan)
    assert f"an image holds {most} objects, the model finds at most 4" in caplog.text
