"""Stacks as multi-page TIFF files."""

from __future__ import annotations

from pathlib import Path

import itk
import numpy as np
import pytest
from PIL import Image, ImageSequence

from forked_child import in_child, mount_small_disk, resize_small_disk
from monai_ext.datasets.em_writing import write_stack
from monai_ext.datasets.tiff_pages import tiff_pages
from monai_ext.errors import InputError


@pytest.mark.parametrize("dtype", [np.float32, np.uint8, np.uint16])
def test_pages_come_back_from_two_programs(tmp_path: Path, dtype: type) -> None:
    pages: np.ndarray = (np.random.default_rng(0).random((3, 20, 30)) * (1 if dtype is np.float32 else 255)).astype(
        dtype
    )
    path = tmp_path / "new" / "a.tif"
    write_stack(path, pages)
    np.testing.assert_array_equal(itk.array_from_image(itk.imread(str(path))), pages)
    with Image.open(path) as picture:
        read = [np.array(page) for page in ImageSequence.Iterator(picture)]
    np.testing.assert_array_equal(np.stack(read), pages)
    assert [p.name for p in path.parent.iterdir()] == ["a.tif"]


def test_even_stacks_are_small(tmp_path: Path) -> None:
    write_stack(tmp_path / "a.tif", np.zeros((10, 200, 200), np.float32))
    assert (tmp_path / "a.tif").stat().st_size < 200 * 200


def test_what_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"a\.tif: cannot be written .*Cure"):
        write_stack(tmp_path / "file" / "a.tif", np.zeros((1, 4, 4), np.uint8))
    for wrong in (np.zeros((4, 4), np.uint8), np.zeros((1, 4, 4)), np.zeros((0, 4, 4), np.uint8)):
        with pytest.raises(ValueError, match="pages must be non-empty"):
            write_stack(tmp_path / "a.tif", wrong)
    assert not (tmp_path / "a.tif").exists()


def test_a_full_disk_leaves_no_half_of_a_stack(tmp_path: Path) -> None:
    pages = np.random.default_rng(0).random((6, 64, 64), dtype=np.float32)  # 90 KB of file

    def body() -> None:
        mount_small_disk(tmp_path, "4k")
        for kilobytes in (4, 24, 44, 64, 84):
            resize_small_disk(tmp_path, f"{kilobytes}k")
            with pytest.raises(InputError, match=r"a.tif: cannot be written"):
                write_stack(tmp_path / "a.tif", pages)
            assert not list(tmp_path.iterdir())
        resize_small_disk(tmp_path, "1m")
        write_stack(tmp_path / "a.tif", pages)
        assert len(tiff_pages(tmp_path / "a.tif")) == 6

    assert in_child(body, tmp_path.with_name(f"{tmp_path.name}-report")) == 0
