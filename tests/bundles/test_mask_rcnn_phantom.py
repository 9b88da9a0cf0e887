"""Detection bundle: what a person gets who types the command and nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bundle_commands import MASK_RCNN, bundle_run
from monai_ext.planning.instance_plan import InstancePlan

RUN = Path("runs/mask_rcnn/phantom/0")


@pytest.mark.long
def test_default_training_finds_the_objects_of_the_phantom(tmp_path: Path) -> None:
    """Three fifths of the default length: 0.88 on one processor, others round otherwise; all of it gives 0.999."""
    done = bundle_run(tmp_path, "training", bundle=MASK_RCNN, max_epochs=36)
    assert done.status == 0, done.err
    metrics = json.loads((tmp_path / RUN / "metrics.json").read_text())
    assert metrics["mean_mask_ap50"] > 0.75
    assert InstancePlan.load(tmp_path / RUN / "plan.json").arch == "resnet-tiny"
