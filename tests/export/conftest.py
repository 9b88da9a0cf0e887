"""A classifier that is trained once for all tests."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from drawn_classifier import drawn_images, make_plan, warmed_network
from monai_ext.planning.class_plan import ClassPlan


@pytest.fixture(scope="session")
def plan() -> ClassPlan:
    return make_plan()


@pytest.fixture(scope="session")
def network(plan: ClassPlan) -> nn.Module:
    return warmed_network(plan, steps=12)


@pytest.fixture(scope="session")
def images(plan: ClassPlan) -> torch.Tensor:
    return drawn_images(plan, 16)
