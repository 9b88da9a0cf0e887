"""Tests of pictures on their way to a detector and back."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from ignite.engine import Events
from monai.engines import SupervisedEvaluator
from monai.utils.enums import CommonKeys
from PIL import Image
from torch.utils.data import DataLoader

from monai_ext.datasets.instance_dataset import InstanceCase
from monai_ext.engines.instance_inference import (
    PADDING,
    CaseInOutput,
    InferencePictures,
    collate_pictures,
    equal_batches,
    input_cases,
    prepare_detection,
)
from monai_ext.engines.instance_samples import WholeInstances
from monai_ext.errors import InputError
from monai_ext.inferers.enlarged_image import EnlargedImage
from monai_ext.inferers.tiled_detection import TiledDetection
from monai_ext.networks.mask_rcnn.structures import Detections
from monai_ext.planning.instance_plan import InstancePlan, architecture


def make_plan(**options):
    fields = {
        "dataset": "d",
        "classes": ("cell",),
        "category_ids": (1,),
        "channels": 1,
        "mean": (0.0,),
        "std": (1.0,),
        "image_size": (96, 96),
        "scale": 2.0,
        "arch": "resnet-tiny",
        "anchor_sizes": ((8.0,), (16.0,), (32.0,), (64.0,), (128.0,)),
        "tile_overlap": 40,
        **architecture("resnet-tiny"),
    }
    return InstancePlan(**(fields | options))


class BrightRectangle(torch.nn.Module):
    """Finds the bounding box of what is bright."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))

    def forward(self, images, sizes):
        found = []
        for image, (height, width) in zip(images, sizes.tolist(), strict=True):
            rows, columns = torch.nonzero(image[0, :height, :width] > 0.5, as_tuple=True)
            boxes = torch.zeros(0, 4)
            if len(rows):
                edges = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
                boxes = torch.stack(edges).float()[None]
            count = len(boxes)
            found.append(
                Detections(
                    boxes, torch.full((count,), 0.9), torch.ones(count, dtype=torch.int64), torch.ones(count, 28, 28)
                )
            )
        return found


def rectangle(path, size, box):
    pixels = np.zeros(size, dtype=np.uint8)
    x0, y0, x1, y1 = box
    pixels[y0:y1, x0:x1] = 200
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def run(plan, cases, outputs=None, **options):
    """Output of each iteration of MONAI's evaluator, also appended to `outputs`."""
    dataset = options.pop("dataset", None) or WholeInstances(cases, plan)
    loader = DataLoader(
        dataset, collate_fn=partial(collate_pictures, divisor=plan.size_divisor), **(options or {"batch_size": 3})
    )
    evaluator = SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=loader,
        network=BrightRectangle(),
        inferer=TiledDetection(plan),
        prepare_batch=prepare_detection(plan),
        decollate=False,
        val_handlers=[CaseInOutput()],
    )
    outputs = [] if outputs is None else outputs
    evaluator.add_event_handler(Events.ITERATION_COMPLETED, lambda engine: outputs.append(dict(engine.state.output)))
    evaluator.run()
    return outputs


def test_detections_are_in_pixels_of_the_files(tmp_path):
    # of three sizes in one batch; the largest is tiled
    boxes = {"a.png": (5, 7, 20, 30), "b.png": (40, 11, 46, 21), "c.png": (70, 60, 82, 75)}
    for name, size in (("a.png", (40, 48)), ("b.png", (30, 47)), ("c.png", (90, 101))):
        rectangle(tmp_path / name, size, boxes[name])
    cases = input_cases(str(tmp_path))
    output = run(make_plan(), cases)[0]
    assert output["case"] == ["a.png", "b.png", "c.png"]
    assert output["size"] == [(40, 48), (30, 47), (90, 101)]
    for name, found in zip(output["case"], output[CommonKeys.PRED], strict=True):
        # half grey lies within half a network pixel of the edge after linear resizing
        np.testing.assert_allclose(found.boxes, [boxes[name]], atol=0.51)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_large_images_are_enlarged_by_tile(tmp_path, num_workers):
    boxes = {"a.png": (5, 7, 20, 30), "b.png": (80, 50, 95, 62), "c.png": (5, 7, 20, 30), "d.png": (3, 4, 9, 9)}
    for name, size in (("a.png", (40, 48)), ("b.png", (90, 101)), ("c.png", (40, 48)), ("d.png", (40, 48))):
        rectangle(tmp_path / name, size, boxes[name])
    plan, cases = make_plan(), input_cases(str(tmp_path))
    dataset = InferencePictures(cases, plan, large=150 * 150)
    assert isinstance(dataset[1]["image"], EnlargedImage)
    torch.testing.assert_close(
        dataset[1]["image"].part(0, 0, 180, 202), WholeInstances(cases, plan)[1]["image"], rtol=0, atol=1e-5
    )
    batches = equal_batches(cases, plan, 2)
    assert batches == [[0, 2], [1], [3]]
    outputs = run(plan, cases, dataset=dataset, batch_sampler=batches, num_workers=num_workers)
    for output in outputs:
        for name, found in zip(output["case"], output[CommonKeys.PRED], strict=True):
            np.testing.assert_allclose(found.boxes, [boxes[name]], atol=0.51)
    with pytest.raises(InputError, match="val_batch_size 1"):
        collate_pictures([dataset[0], dataset[1]])


def test_batches_hold_one_size():
    sizes = [(10, 10), (48, 10), (10, 10), (10, 10), (10, 49), (10, 49), (48, 10)]
    cases = [SimpleNamespace(size=size) for size in sizes]
    # twice 49 pixels do not fit into a tile of 96
    assert equal_batches(cases, make_plan(), 2) == [[0, 2], [1, 6], [3], [4], [5]]
    assert equal_batches(cases, make_plan(resize="fit"), 2) == [[0, 2], [1, 6], [3], [4, 5]]
    with pytest.raises(InputError, match="--val_batch_size 0"):
        equal_batches(cases, make_plan(), 0)


@pytest.mark.parametrize("processes", [2, 3, 9])
def test_processes_share_the_batches_of_one(processes):
    random = np.random.default_rng(processes)
    cases = [SimpleNamespace(size=(10, int(edge))) for edge in random.choice([10, 30, 48, 49, 200], 40)]
    plan = make_plan()
    whole = equal_batches(cases, plan, 4)
    shares = [equal_batches(cases, plan, 4, rank, processes) for rank in range(processes)]
    assert sorted(batch for share in shares for batch in share) == sorted(whole)
    work = [sum(10 * cases[index].size[1] for batch in share for index in batch) for share in shares]
    largest = max(sum(10 * cases[index].size[1] for index in batch) for batch in whole)
    assert max(work) - min(work) <= largest
    # more processes than batches
    few = [equal_batches(cases[:1], plan, 4, rank, processes) for rank in range(processes)]
    assert few == [[[0]]] + [[[PADDING]]] * (processes - 1)
    assert equal_batches([], plan, 4, 1, processes) == []


def test_images_that_do_not_count(tmp_path):
    """Padding, and a file damaged after its size was read: no name beside what is found, one error in the end."""
    for name in ("a.png", "b.png"):
        rectangle(tmp_path / name, (40, 48), (5, 7, 20, 30))
    plan, cases = make_plan(), input_cases(str(tmp_path))
    dataset = InferencePictures(cases, plan)
    assert dataset[0]["problem"] == ""
    padding = run(plan, cases, dataset=dataset, batch_sampler=[[PADDING]])[0]
    assert padding["case"] == [""]
    (tmp_path / "a.png").write_bytes((tmp_path / "a.png").read_bytes()[:60])
    outputs = []
    with pytest.raises(InputError, match=r"1 of the pictures cannot be read, all others are done") as told:
        run(plan, cases, outputs, dataset=dataset, batch_sampler=[[0, 1]])
    assert "a.png" in str(told.value)
    assert outputs[0]["case"] == ["", "b.png"]
    np.testing.assert_allclose(outputs[0][CommonKeys.PRED][1].boxes, [(5, 7, 20, 30)], atol=0.51)


def test_large_images_stay_on_the_processor():
    prepared = prepare_detection(make_plan())
    sizes = {"image_sizes": torch.tensor([[1, 1]]), "size": [(1, 1)]}
    small = prepared({"image": torch.zeros(1, 1, 192, 192), **sizes}, "meta")
    large = prepared({"image": torch.zeros(1, 1, 192, 193), **sizes}, "meta")
    assert small[0].device.type == "meta"
    assert large[0].device.type == "cpu"
    assert small[1:] == (None, (sizes["image_sizes"], [(1, 1)]), {})


def test_files_and_folders(tmp_path):
    rectangle(tmp_path / "b" / "one.png", (20, 30), (0, 0, 5, 5))
    rectangle(tmp_path / "a.tif", (10, 40), (0, 0, 5, 5))
    (tmp_path / "notes.txt").write_text("no picture")
    cases = input_cases(str(tmp_path))
    assert [(case.name, case.size, case.image_id) for case in cases] == [
        ("a.tif", (10, 40), 1),
        ("b/one.png", (20, 30), 2),
    ]
    assert all(isinstance(case, InstanceCase) and case.path.is_file() for case in cases)
    assert [case.name for case in input_cases(str(tmp_path / "b" / "one.png"))] == ["one.png"]


def test_input_that_cannot_be_used(tmp_path, caplog):
    for path, message in (("", "is empty"), (str(tmp_path / "x"), "does not exist"), (str(tmp_path), "no picture")):
        with pytest.raises(InputError, match=message):
            input_cases(path)
    (tmp_path / "notes.txt").write_text("no picture")
    with pytest.raises(InputError, match="no picture that can be read"):
        input_cases(str(tmp_path / "notes.txt"))
    rectangle(tmp_path / "good.png", (20, 30), (0, 0, 5, 5))
    (tmp_path / "cut.png").write_bytes((tmp_path / "good.png").read_bytes()[:50])
    (tmp_path / "empty.tif").touch()
    with pytest.raises(InputError, match=r"2 problems\n.*cut\.png.*\n.*empty\.tif"):
        input_cases(str(tmp_path))
    assert [case.name for case in input_cases(str(tmp_path), skip_unreadable=True)] == ["good.png"]
    assert "cut.png, empty.tif" in caplog.text


def test_volumes_are_refused(tmp_path):
    import itk

    itk.imwrite(itk.image_from_array(np.zeros((3, 8, 8), dtype=np.uint8)), str(tmp_path / "v.mha"))
    with pytest.raises(InputError, match=r"v\.mha: has 3 dimensions"):
        input_cases(str(tmp_path))
