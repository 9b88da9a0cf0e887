"""Random batches for timing a detector, and the rows that the timing gives."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from monai_ext.benchmark.detection_steps import SyntheticInstances, detector_columns, time_detection
from monai_ext.engines.instance_batch import prepare_instances
from monai_ext.engines.instance_preparation import synthetic_plan
from monai_ext.networks.mask_rcnn.detector import network_from_instance_plan

PLAN = replace(
    synthetic_plan("resnet-tiny", (96, 128), num_classes=3, tile_overlap=32),
    anchor_sizes=((8.0,), (16.0,), (32.0,), (64.0,), (128.0,)),
    rpn_pre_nms=20,
    rpn_post_nms=10,
)


def test_batches_are_whole_and_alike() -> None:
    batch = next(iter(SyntheticInstances(PLAN, 2, num_objects=6, seed=1)))
    assert batch["image"].shape == (2, 3, 96, 128)
    assert batch["image_sizes"].tolist() == [[96, 128], [96, 128]]
    for target in batch["targets"]:
        assert 1 <= len(target.ids) <= 6
        for box, number in zip(target.boxes, target.ids, strict=True):
            rows, columns = np.nonzero(target.label_map.numpy() == int(number))
            assert box.tolist() == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        assert set(target.labels.tolist()) <= {1, 2, 3}
    again = next(iter(SyntheticInstances(PLAN, 2, num_objects=6, seed=1)))
    torch.testing.assert_close(again["image"], batch["image"], rtol=0, atol=0)
    empty = next(iter(SyntheticInstances(PLAN, 1, num_objects=0)))["targets"][0]
    assert empty.boxes.shape == (0, 4)


def test_a_row_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    network, file = network_from_instance_plan(PLAN), tmp_path / "rows.csv"
    about = {"amp": False, "amp_dtype": "bfloat16"}
    loader = SyntheticInstances(PLAN, 2, 3)
    timing = time_detection(loader, network, PLAN, 1, "cpu", 1, 2, about, str(file), prepare_instances(training=False))
    (row,) = csv.DictReader(file.open())
    assert timing.batch_size == 1
    assert row["benchmark"] == detector_columns(PLAN, 1)["benchmark"] == "mask_rcnn bundle, resnet-tiny"
    assert "no loader" in row["data"]
    assert float(row["latency_ms_mean"]) > 0
    assert str(file) in capsys.readouterr().out
