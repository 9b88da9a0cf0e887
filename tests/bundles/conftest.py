"""One tiny training that the tests of this folder share."""

from __future__ import annotations

from pathlib import Path

import pytest

from bundle_commands import Finished, bundle_run


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Finished]:
    """Working directory of a tiny training on the phantom, and what it printed."""
    folder = tmp_path_factory.mktemp("trained")
    return folder, bundle_run(folder, "training", "train.json", "tiny.json")
