"""The made-up EM stack."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from monai_ext.datasets import em_phantom
from monai_ext.datasets.em_phantom import make_em_phantom
from monai_ext.datasets.em_stack import FILES, read_em_stack
from monai_ext.errors import InputError
from monai_ext.evaluation.segment_scores import reference_segments


def test_phantom_is_deterministic_and_made_once(tmp_path: Path) -> None:
    for name in "ab":
        make_em_phantom(tmp_path / name, 2, 1, 128)
    for file in FILES:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    before = (tmp_path / "a" / FILES[0]).stat().st_mtime_ns
    make_em_phantom(tmp_path / "a", 2, 1, 128)
    assert (tmp_path / "a" / FILES[0]).stat().st_mtime_ns == before
    make_em_phantom(tmp_path / "a", 2, 1, 128, seed=1)
    assert (tmp_path / "a" / FILES[0]).read_bytes() != (tmp_path / "b" / FILES[0]).read_bytes()
    make_em_phantom(tmp_path / "a", 2, 1, 128)  # the first one again: its files have gone meanwhile
    assert (tmp_path / "a" / FILES[0]).read_bytes() == (tmp_path / "b" / FILES[0]).read_bytes()


def test_a_stack_of_somebody_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / FILES[2]).write_bytes(b"mine")
    with pytest.raises(InputError, match=r"holds test-volume\.tif, which is no phantom\. Cure: "):
        make_em_phantom(tmp_path, 2, 1, 64)
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [(FILES[2], b"mine")]


def test_interrupted_making_is_done_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(path: Path, pages: np.ndarray) -> None:
        if path.name == FILES[0]:
            raise KeyboardInterrupt
        write(path, pages)

    write = em_phantom.write_stack
    with monkeypatch.context() as patched:
        patched.setattr(em_phantom, "write_stack", stopped)
        with pytest.raises(KeyboardInterrupt):
            make_em_phantom(tmp_path, 2, 1, 64)
    assert len(read_em_stack(make_em_phantom(tmp_path, 2, 1, 64)).images) == 2


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"cannot be written .*Cure: "):
        make_em_phantom(tmp_path / "file" / "phantom", 2, 1, 64)


def test_several_processes_may_ask_for_it_at_once(tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        folders = list(pool.map(lambda _: make_em_phantom(tmp_path / "p", 2, 1, 64), range(4)))
    assert folders == [tmp_path / "p"] * 4
    make_em_phantom(tmp_path / "q", 2, 1, 64)
    for file in FILES:
        assert (tmp_path / "p" / file).read_bytes() == (tmp_path / "q" / file).read_bytes()


def test_membranes_are_dark_lines_between_cells_that_drift(tmp_path: Path) -> None:
    stack = read_em_stack(make_em_phantom(tmp_path, 3, 1, 192))
    assert stack.images.shape == (3, 192, 192)
    membrane = stack.labels == 0
    assert 0.12 < membrane.mean() < 0.3
    assert stack.images[membrane].mean() < stack.images[~membrane].mean() - 40
    cells = [reference_segments(labels).max() for labels in stack.labels]
    assert all(15 < n < 120 for n in cells)
    same = (stack.labels[0] == stack.labels[1]).mean()
    assert 0.7 < same < 0.98  # neighbours resemble each other and are not the same
    assert same > (stack.labels[0] == stack.labels[2]).mean()


def test_darkness_alone_does_not_tell_a_membrane(tmp_path: Path) -> None:
    """Some background is as dark as membranes: bodies inside cells."""
    stack = read_em_stack(make_em_phantom(tmp_path, 2, 1, 192))
    membrane = stack.labels == 0
    threshold = np.median(stack.images[membrane])
    assert (stack.images[~membrane] < threshold).mean() > 0.01
