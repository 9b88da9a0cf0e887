"""Detection bundle: training and evaluation by the command line, on the phantom, COCO files, label maps and nuclei."""

from __future__ import annotations

import csv
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from bundle_commands import MASK_RCNN, Finished, bundle_run
from cell_sets import change_coco, write_cells
from coco_sets import write_map
from mask_rcnn_workflows import detection_workflow, mistake_of, run_here
from monai_ext.planning.instance_plan import InstancePlan
from parsed_configs import fold, group, part, plan

RUN = Path("runs/mask_rcnn/phantom/0")
STORE = Path("runs/mask_rcnn/phantom/prepared")
CLASSES = ["blob", "disc"]
# the sizes of a tiny training, for recipes
TINY = {
    "arch": "resnet-tiny",
    "batch_size": 2,
    "num_workers": 0,
    "eval_samples": 2,
    "train_pre_nms": 100,
    "train_post_nms": 50,
    "rpn_pre_nms": 50,
    "rpn_post_nms": 50,
    "roi_batch": 16,
}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, for commands that run in this process."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def store(trained_mask: tuple[Path, Finished]) -> str:
    """The phantom, made once."""
    return str(trained_mask[0] / STORE)


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def test_training_leaves_what_it_says(trained_mask: tuple[Path, Finished]) -> None:
    folder, done = trained_mask
    assert done.status == 0, done.err
    found = folder / RUN
    metrics = json.loads((found / "metrics.json").read_text())
    for name in ("model.pt", "model_final.pt", "plan.json", "metrics.json", "overlay.png"):
        assert str((found / name).resolve()) in done.out
        assert (found / name).stat().st_size > 0
    assert sorted(metrics["mask_ap50"]) == CLASSES
    assert metrics["mean_mask_ap50"] == pytest.approx(np.mean(list(metrics["mask_ap50"].values())))
    assert f"mask AP50 {metrics['mean_mask_ap50']:.3f}" in done.out
    assert InstancePlan.load(found / "plan.json").image_size == (64, 64)
    last = rows(found)[-1]
    assert last["class_mask_ap50"] == metrics["mask_ap50"]
    terms = ("rpn_class", "rpn_box", "roi_class", "roi_box", "mask")
    assert last["loss"] == pytest.approx(sum(last[name] for name in terms), rel=1e-4)  # weights are 1
    raw = folder / STORE / "raw"
    assert [len(list(raw.glob(f"images/{split}/*.png"))) for split in ("train", "val")] == [40, 12]
    assert sorted(p.name for p in folder.iterdir()) == ["runs"]


def test_evaluation_reports_every_score(trained_mask: tuple[Path, Finished]) -> None:
    folder, done = trained_mask
    evaluation = folder / RUN / "evaluation"
    summary = json.loads((evaluation / "summary.json").read_text())
    metrics = json.loads((folder / RUN / "metrics.json").read_text())
    # once in the training, once by the evaluation, which loads the model
    assert summary["mask_ap50"] == pytest.approx(metrics["mean_mask_ap50"], abs=1e-6)
    assert summary["max_detections"] == [1, 10, 500]
    assert summary["mask_ap"] <= summary["mask_ap50"]
    for name in ("mask_ap75", "box_ap", "box_ar_500", "mask_ar_10", "nuclei_ap50", "nuclei_pq", "nuclei_aji"):
        assert 0 <= summary[name] <= 1
    images = list(csv.DictReader((evaluation / "per_image.csv").open()))
    assert len(images) == summary["num_images"] == 2
    per_image = json.loads((evaluation / "metrics.json").read_text())
    assert {name: scores["ap50"] for name, scores in per_image.items()} == {
        row["image"]: float(row["ap50"]) for row in images
    }
    assert sum(int(row["objects"]) for row in images) == summary["num_objects"]
    assert sum(int(row["detections"]) for row in images) == summary["num_detections"]
    classes = {row["class"]: row for row in csv.DictReader((evaluation / "per_class.csv").open())}
    assert sorted(classes) == CLASSES
    assert np.mean([float(row["mask_ap50"]) for row in classes.values()]) == pytest.approx(summary["mask_ap50"])
    thresholds = list(csv.DictReader((evaluation / "by_score_threshold.csv").open()))
    assert len(thresholds) == len(summary["by_score_threshold"]) > 5
    with Image.open(evaluation / "gallery.png") as gallery:
        assert gallery.mode == "RGB"
        assert gallery.width > 2 * 90  # two pictures of the phantom, side by side or larger
    for file in ("summary.json", "per_image.csv", "per_class.csv", "by_score_threshold.csv", "gallery.png"):
        assert str((evaluation / file).resolve()) in done.out


def test_tensorboard_has_curves_and_pictures(trained_mask: tuple[Path, Finished]) -> None:
    events = EventAccumulator(str(trained_mask[0] / RUN / "tensorboard"))
    events.Reload()
    wanted = {"train/loss", "train/rpn_box", "train/mask", "train/learning_rate"}
    wanted |= {"validation/mask_ap50", "validation/mask_ap50_disc"}
    assert wanted <= set(events.Tags()["scalars"])
    assert len(events.Tags()["images"]) == 1


def test_sessions_end_with_the_weights_of_one_training(tmp_path: Path, store: str) -> None:
    """Two sessions of an epoch each, as chunked jobs have them, give what one session gives."""
    options = {"max_epochs": 2, "store_dir": store, "device": "cpu", "bundle": MASK_RCNN}
    whole = bundle_run(tmp_path, "training", "train.json", "tiny.json", output_dir="whole", **options)
    assert whole.status == 0, whole.err
    options |= {"output_dir": "cut", "run_epochs": 1}
    first = bundle_run(tmp_path, "training", "train.json", "tiny.json", **options)
    assert first.status == 0, first.err
    assert "go on with the same command and --resume True" in first.out
    assert not (tmp_path / "cut" / "metrics.json").exists()
    second = bundle_run(tmp_path, "training", "train.json", "tiny.json", resume=True, **options)
    assert second.status == 0, second.err
    for name in ("whole", "cut"):  # every epoch is validated, also the last of a session
        assert [row["epoch"] for row in rows(tmp_path / name) if "mask_ap50" in row] == [1, 2]
    expected, found = (torch.load(tmp_path / name / "model_final.pt", weights_only=True) for name in ("whole", "cut"))
    assert expected.keys() == found.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=0)


def test_parts_of_a_batch_make_one_step(here: Path, store: str) -> None:
    """Losses of the proposals are means over images, and all anchors are taken: parts must give the same step."""
    (here / "two.txt").write_text("003\n007\n")
    options = {
        "store_dir": store,
        "device": "cpu",
        "train_list": "two.txt",
        "epoch_length": 1,
        "max_epochs": 1,
        "eval_samples": 1,
        "rpn_batch": 20000,
        "loss_weights": [1, 1, 0, 0, 0],
        "optimizer": "sgd",
        "learning_rate": 100,  # the losses are divided by rpn_batch
        "warmup_lr": 100,
        "grad_clip": 0,
        "ema_decay": 0,
        "amp": False,
    }
    weights = []
    for parts in (1, 2):
        workflow = detection_workflow(run_id="training", output_dir=f"parts{parts}", accumulate_steps=parts, **options)
        before = {k: v.clone() for k, v in part("network")(workflow.parser).state_dict().items()}
        workflow.run()
        weights.append(torch.load(here / f"parts{parts}" / "model_final.pt", weights_only=True))
    whole, cut = weights
    moved = max(float((whole[name] - before[name]).abs().max()) for name in whole)
    apart = max(float((whole[name] - cut[name]).abs().max()) for name in whole)
    assert moved > 0.01
    assert apart < 1e-4 * moved  # sums in another order


def test_an_image_without_objects_is_trained_on(here: Path, store: str) -> None:
    (here / "two.txt").write_text("039\n000\n")  # the last one is empty
    options = {"store_dir": store, "train_list": "two.txt", "batch_size": 1, "epoch_length": 2, "log_interval": 1}
    workflow = run_here("training", output_dir="run", **options)
    samples = part("train#dataset")(workflow.parser)
    names = [case.name for case in samples.cases]
    counts = {Path(name).stem: len(samples[(0, index, 0)]["boxes"]) for index, name in enumerate(names)}
    assert counts["039"] == 0
    (row,) = [row for row in rows(here / "run") if "loss" in row]
    assert row["iteration"] == 2
    assert np.isfinite(row["loss"])
    weights = torch.load(here / "run" / "model_final.pt", weights_only=True)
    assert all(bool(tensor.isfinite().all()) for tensor in weights.values())


def test_label_maps_are_trained_on(here: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A folder of label maps has one class; objects above the cap are counted and stated."""
    write_cells(here / "cells", coco=False)
    with caplog.at_level(logging.INFO):
        run_here("train_and_evaluate", dataset_dir="cells", max_objects=1, image_size=[96, 96])
    run = here / "runs/mask_rcnn/cells/0"
    assert InstancePlan.load(run / "plan.json").classes == ("object",)
    summary = json.loads((run / "evaluation/summary.json").read_text())
    assert (summary["num_images"], summary["num_objects"]) == (2, 4 + 2)
    assert "4 of 4 training images hold more objects than --max_objects 1" in caplog.text
    assert "were above --max_objects of their sample and were ignored" in caplog.text


def test_folder_of_both_layouts(here: Path) -> None:
    write_cells(here / "cells")
    given = {"dataset_dir": "cells"}
    coco = detection_workflow(**given).parser
    assert plan(coco).classes == ("square", "round")
    assert plan(coco).category_ids == (3, 7)
    assert any("category ids 3, 7 have gaps: mapped to 1..2" in text for text in part("source")(coco).report.warnings)
    maps = detection_workflow(layout="label_maps", output_dir="maps", **given).parser
    assert plan(maps).classes == ("object",)
    assert [c.size for c in part("prepared")(maps).train] == [c.size for c in part("prepared")(coco).train]
    for layout in ("coco", "label_maps"):
        some = detection_workflow(layout=layout, select="type=light", output_dir=f"light_{layout}", **given).parser
        assert {Path(name).stem for name in fold(some).train} == {"1", "3"}
        assert {Path(name).stem for name in fold(some).val} == {"5"}


def test_annotation_files_are_chosen(here: Path) -> None:
    write_cells(here / "cells")
    for split in ("train", "val"):
        path = here / "cells" / "annotations" / f"instances_{split}.json"
        content = json.loads(path.read_text())
        first = content["images"][0]["id"]
        content["images"] = [{**content["images"][0], "file_name": f"{split}/{first}.png"}]
        content["annotations"] = [one for one in content["annotations"] if one["image_id"] == first]
        (path.parent / f"instances_{split}_few.json").write_text(json.dumps(content))
    files = {f"{split}_annotations": f"instances_{split}_few.json" for split in ("train", "val")}
    for name, few in (("train", 1), ("val", 1)):
        other = "val" if name == "train" else "train"
        chosen = files | {f"{other}_annotations": f"instances_{other}.json"}
        parser = detection_workflow(dataset_dir="cells", output_dir=name, eval_samples=0, **chosen).parser
        assert len(getattr(part("prepared")(parser), name)) == few
        assert len(getattr(part("prepared")(parser), other)) == {"train": 4, "val": 2}[other]


def break_coco(root: Path) -> list[str]:
    """Give a COCO file most faults that one can have; returns what must be said of each."""
    fields: dict[str, Callable[[dict[str, Any]], None]] = {
        "lack 'segmentation'": lambda one: one.pop("segmentation"),
        "have the id of another": lambda one: one.update(id=302),
        "name an image that does not exist": lambda one: one.update(image_id=99),
        "name a category that does not exist": lambda one: one.update(category_id=4),
        "have a box outside the image": lambda one: one.update(bbox=[90, 5, 10, 10]),
        "have a polygon without area": lambda one: one.update(segmentation=[[5, 5, 20, 5, 12, 5]]),
        "have run lengths of another size": lambda one: one.update(segmentation={"size": [9, 9], "counts": [40, 41]}),
    }

    def change(annotations: list[dict[str, Any]]) -> list[dict[str, Any]]:
        for one, spoil in zip(annotations, fields.values(), strict=False):
            spoil(one)
        return annotations

    change_coco(root, "train", annotations=change)
    return list(fields)


def test_faults_of_a_coco_file_are_told_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write_cells(tmp_path / "cells", train=5, maps=False)
    faults = break_coco(root)
    whole = root / "images/train/5.png"
    content = whole.read_bytes()
    (root / "images/train/4.png").rename(tmp_path / "4.png")
    write_map(whole, np.zeros((30, 80), np.uint8))
    done = bundle_run(tmp_path, "training", "train.json", "tiny.json", bundle=MASK_RCNN, dataset_dir="cells")
    assert done.status == 1
    assert done.err.count("error: ") == 1
    message = done.err[done.err.index("error: ") :]
    for fault in (*faults, "have no file", "4.png", "have another size (height x width) than stated", "file 30x80"):
        assert fault in message, f"{fault}\n{message}"
    assert "Traceback" not in done.err
    assert not [path for path in (tmp_path / "runs").rglob("*") if path.is_file()]
    # without the annotations that break a rule
    monkeypatch.chdir(tmp_path)
    (tmp_path / "4.png").rename(root / "images/train/4.png")
    whole.write_bytes(content)
    parser = detection_workflow(dataset_dir="cells", skip_broken=True).parser
    warnings = "\n".join(part("source")(parser).report.warnings)
    assert all(f"annotations {fault}" in warnings or fault in warnings for fault in faults)
    assert "left out" in warnings
    assert part("source")(parser).report.objects["train"] == 3 + 4 + 2 + 3 + 4 - len(faults)


def empty_maps(root: Path) -> None:
    for path in root.glob("labels/*/*.png"):
        write_map(path, np.zeros((72, 80), np.uint16))


def broken_maps(root: Path) -> None:
    write_map(root / "labels/train/1.png", np.ones((70, 80), np.uint16))
    write_map(root / "labels/train/2.tif", np.full((72, 80), 0.5, np.float32))
    (root / "labels/train/2.png").unlink()
    (root / "labels/val/5.png").write_bytes(b"no picture")


def no_change(root: Path) -> None:
    pass


MISTAKES: dict[str, tuple[Callable[[Path], None], dict[str, Any], list[str]]] = {
    "no dataset": (no_change, {"dataset_dir": "nowhere"}, ["nowhere", "Cure"]),
    "key score": (no_change, {"key_score": "dice"}, ["--key_score", "mask_ap50", "nuclei_ap"]),
    "attribute": (no_change, {"select": "type=blue"}, ["no image has type = blue", "dark, light"]),
    "selection": (no_change, {"select": "light"}, ["--select 'light'", "NAME=VALUE"]),
    "missing list": (no_change, {"train_list": "none.txt"}, ["--train_list none.txt", "cannot be read"]),
    "unknown names": (no_change, {"val_list": "names.txt"}, ["--val_list names.txt", "1 of 2 lines", "77.png"]),
    "pattern": (no_change, {"train_list": "*/b*"}, ["--train_list */b*", "fits none"]),
    "architecture": (no_change, {"arch": "resnet5000"}, ["--arch", "must be one of"]),
    "anchors": (no_change, {"anchor_sizes": [[8], [16]]}, ["--anchor_sizes", "5 levels"]),
    "mean alone": (no_change, {"mean": [0.5]}, ["--mean", "--std"]),
    "two weights": (no_change, {"pretrained": "a.pt", "backbone_ckpt": "b.pt"}, ["a.pt"]),
    "no objects": (empty_maps, {}, ["objects", "none in 6 images"]),
    "label maps": (
        broken_maps,
        {},
        ["70x80", "72x80", "must be whole numbers, found 0.5", "damaged or incomplete"],
    ),
    "more parts": (no_change, {"accumulate_steps": 0}, ["--accumulate_steps"]),
    "flips": (no_change, {"flip_axes": [2]}, ["[2]", "axes"]),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_end_with_one_message(name: str, here: Path) -> None:
    spoil, overrides, said = MISTAKES[name]
    spoil(write_cells(here / "cells", coco=False))
    (here / "names.txt").write_text("5.png\n77.png\n")
    message = mistake_of("training", **{"dataset_dir": "cells", **overrides})
    assert all(text in message for text in said), message
    assert not list(here.rglob("*.pt"))


def test_weights_of_another_training(here: Path, trained_mask: tuple[Path, Finished], store: str) -> None:
    """All tensors of a detector, or those of the backbone of a file with torchvision's names."""
    model = trained_mask[0] / RUN / "model.pt"
    expected = torch.load(model, weights_only=True)
    parser = detection_workflow(store_dir=store, pretrained=str(model)).parser
    found = part("network")(parser).state_dict()
    assert all(torch.equal(found[name].cpu(), tensor) for name, tensor in expected.items())
    frozen = detection_workflow(store_dir=store, norm="frozen_batch", output_dir="frozen", channels=3).parser
    body = part("network")(frozen).backbone.body.state_dict()
    random = torch.Generator().manual_seed(0)
    weights = {name: torch.rand(tensor.shape, generator=random) + 0.5 for name, tensor in body.items()}
    torch.save({**weights, "fc.weight": torch.zeros(9, 128), "fc.bias": torch.zeros(9)}, here / "resnet.pth")
    started = detection_workflow(store_dir=store, backbone_ckpt="resnet.pth", output_dir="started").parser
    assert plan(started).norm == "frozen_batch"
    assert plan(started).channels in (1, 3)
    found = part("network")(started).backbone.body.state_dict()
    for name, tensor in weights.items():
        wanted = tensor.sum(1, keepdim=True) if name == "conv1.weight" and plan(started).channels == 1 else tensor
        torch.testing.assert_close(found[name].cpu(), wanted)


def test_recipe_of_nuclei(here: Path, store: str) -> None:
    overlay = json.loads((MASK_RCNN / "recipe_nuclei.json").read_text())
    assert (overlay["arch"], overlay["image_size"], overlay["max_epochs"]) == ("resnet50", [512, 512], 300)
    short = {**TINY, "image_size": [96, 96], "max_epochs": 1, "epoch_length": 2, "val_interval": 1}
    parser = run_here("training", "train.json", "recipe_nuclei.json", store_dir=store, **short).parser
    assert plan(parser).norm == "group"
    assert (plan(parser).scale, plan(parser).strides[0]) == (2, 4)
    assert plan(parser).anchor_sizes[0] == (12.0, 16.0)
    assert {type(part("optimizer_def")(parser)), group(parser)["momentum"]} == {torch.optim.SGD, 0.9}
    assert part("average")(parser).decay == 0.999
    assert rows(here / RUN)[-1]["iteration"] == 2
    assert (here / RUN / "model.pt").is_file()


@pytest.mark.parametrize(("file", "gpus"), [("", 1), ("_4gpu", 4), ("_8gpu", 8)])
def test_recipe_of_coco_scales_with_the_batch(file: str, gpus: int, here: Path, store: str) -> None:
    """Batch and learning rate grow with the number of GPUs, steps shrink: 1440000 images, the 1x schedule."""
    name = f"recipe_coco_1x{file}.json"
    parser = detection_workflow("train.json", name, store_dir=store, arch="resnet-tiny").parser
    batch = part("train#sampler")(parser).batch_size
    assert batch == 4 * gpus
    assert part("budget")(parser).max_steps * batch == 360000 * 4
    rates = sorted({g["lr"] for g in part("parameters")(parser)})
    assert rates == pytest.approx([0.005 * gpus, 0.01 * gpus])  # those of biases are doubled
    schedule = part("lr_scheduler_def")(parser)
    assert (schedule.kind, schedule.milestones, schedule.factor) == ("multistep", (0.6667, 0.8889), 0.1)
    assert schedule.warmup == pytest.approx(1000 / part("budget")(parser).max_steps)


def test_recipe_of_coco(here: Path, store: str) -> None:
    """The first steps of the seed's recipe, of a small network on small images, and the evaluation at the end."""
    short = {**TINY, "image_size": [64, 96], "max_steps": 2, "epoch_length": 1, "max_epochs": 2}
    parser = run_here("training", "train.json", "recipe_coco_1x.json", store_dir=store, **short).parser
    body = part("network")(parser).backbone.body
    frozen = {name.split(".")[0] for name, tensor in body.named_parameters() if not tensor.requires_grad}
    assert frozen == {"conv1", "layer1"}
    assert not any("bn" in name for name, _ in body.named_parameters())  # buffers
    assert plan(parser).resize == "fit"
    assert (plan(parser).channels, plan(parser).normalisation) == (3, "range")
    assert part("validate#metric")(parser).key_score == "mask_ap"
    assert rows(here / RUN)[-1]["iteration"] == 2
    summary = json.loads((here / RUN / "evaluation/summary.json").read_text())
    assert summary["max_detections"] == [1, 10, 100]


@pytest.mark.real_data
def test_real_nuclei_are_trained_and_evaluated(here: Path, data_folder: Path) -> None:
    """Images of unequal size with up to hundreds of objects: a few steps, far from the result of a training."""
    options = {"dataset_dir": str(data_folder / "dsb2018"), "output_dir": "run", "eval_samples": 3}
    parser = run_here("train_and_evaluate", select="type=fluorescence", epoch_length=3, **options).parser
    assert {case.attributes["type"] for case in part("prepared")(parser).train} == {"fluorescence"}
    summary = json.loads((here / "run/evaluation/summary.json").read_text())
    assert (summary["num_images"], summary["select"]) == (3, "type=fluorescence")
    assert summary["num_objects"] > 10
