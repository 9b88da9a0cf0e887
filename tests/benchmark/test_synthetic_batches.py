"""Random images for benchmarks."""

from __future__ import annotations

import itertools

import pytest
import torch

from drawn_classifier import make_plan
from monai_ext.benchmark.synthetic_batches import SyntheticBatches


@pytest.mark.parametrize("multi_label", [False, True])
def test_same_batch_for_ever(multi_label: bool) -> None:
    plan = make_plan(multi_label=multi_label)
    first, second = itertools.islice(SyntheticBatches(plan, 4), 2)
    assert first["image"] is second["image"]
    assert first["image"].shape == (4, 3, 40, 32)
    assert first["image"].dtype == torch.uint8
    assert first["label"].shape == ((4, 3) if multi_label else (4,))
    assert torch.equal(SyntheticBatches(plan, 4).image, first["image"])
