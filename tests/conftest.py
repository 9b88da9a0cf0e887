"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

DATA_VARIABLE = "MONAI_EXT_TEST_DATA"


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """Folder of real datasets and golden numbers; tests that need it are skipped elsewhere."""
    value = os.environ.get(DATA_VARIABLE)
    if not value or not Path(value).is_dir():
        pytest.skip(f"needs real data: set {DATA_VARIABLE} to the folder that holds it")
    return Path(value)
