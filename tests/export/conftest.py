"""A classifier that is trained once for all tests, and packed bundles."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from torch import nn

from drawn_classifier import drawn_images, make_plan, warmed_network
from monai_ext.export.export_command import export_model
from monai_ext.planning.class_plan import ClassPlan
from packed_models import save_model


@pytest.fixture(scope="session")
def plan() -> ClassPlan:
    return make_plan()


@pytest.fixture(scope="session")
def network(plan: ClassPlan) -> nn.Module:
    return warmed_network(plan, steps=12)


@pytest.fixture(scope="session")
def images(plan: ClassPlan) -> torch.Tensor:
    return drawn_images(plan, 16)


class _Places(dict[str, Path]):
    """Run folders, made when they are first asked for: processes of a suite share the tests."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def __missing__(self, bundle: str) -> Path:
        self[bundle] = save_model(bundle, self.root / bundle)
        export_model(self[bundle], "packed")
        return self[bundle]


@pytest.fixture(scope="session")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Run folder of a small model of every bundle, packed into `export`."""
    return _Places(tmp_path_factory.mktemp("packed"))


@pytest.fixture
def zip_file(places: dict[str, Path], tmp_path: Path) -> Path:
    """A copy of the packed nnU-Net."""
    return Path(shutil.copy(places["nnunet"] / "export" / "nnunet.zip", tmp_path / "nnunet.zip"))
