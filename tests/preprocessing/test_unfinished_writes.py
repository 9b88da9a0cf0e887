from __future__ import annotations

import os
import socket
from pathlib import Path

from monai_ext.preprocessing.unfinished_writes import remove_leftovers


def test_leftovers_of_the_living_stay(tmp_path: Path) -> None:
    host = socket.gethostname()
    alive = tmp_path / f".unfinished-{host}-{os.getppid()}-a"
    elsewhere = tmp_path / ".unfinished-anotherhost-1-a"
    for folder in (alive, elsewhere):
        folder.mkdir()
    assert remove_leftovers(tmp_path) == []
    os.utime(elsewhere, (0, 0))
    assert remove_leftovers(tmp_path) == [elsewhere.name]
