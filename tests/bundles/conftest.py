"""One tiny training of every bundle that the tests of this folder share."""

from __future__ import annotations

from pathlib import Path

import pytest

from bundle_commands import MASK_RCNN, SE_RESNEXT, UNET_EM, Finished, bundle_run


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Finished]:
    """Working directory of a tiny nnU-Net training on the phantom, and what it printed."""
    folder = tmp_path_factory.mktemp("trained")
    return folder, bundle_run(folder, "training", "train.json", "tiny.json")


@pytest.fixture(scope="session")
def trained_em(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Finished]:
    """Working directory of a tiny EM training and evaluation on the phantom, and what it printed."""
    folder = tmp_path_factory.mktemp("trained_em")
    return folder, bundle_run(folder, "train_and_evaluate", "train.json", "tiny.json", bundle=UNET_EM)


@pytest.fixture(scope="session")
def trained_class(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Finished]:
    """Working directory of a tiny classifier's training and evaluation on the phantom, and what it printed."""
    folder = tmp_path_factory.mktemp("trained_class")
    return folder, bundle_run(folder, "train_and_evaluate", "train.json", "tiny.json", bundle=SE_RESNEXT)


@pytest.fixture(scope="session")
def trained_mask(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Finished]:
    """Working directory of a tiny detector's training and evaluation on the phantom, and what it printed."""
    folder = tmp_path_factory.mktemp("trained_mask")
    return folder, bundle_run(folder, "train_and_evaluate", "train.json", "tiny.json", bundle=MASK_RCNN)
