"""Label maps of pictures come back pixel for pixel."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from monai_ext.datasets.image_files import read_image, read_label
from monai_ext.datasets.png_labels import is_picture, write_png_labels
from monai_ext.errors import InputError


@pytest.mark.parametrize(("largest", "mode"), [(3, "L"), (300, "I;16")])
def test_labels_lie_on_the_pixels_of_the_input(tmp_path: Path, largest: int, mode: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (7, 5, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "in.png")
    image, geometry = read_image([tmp_path / "in.png"])
    labels = (image[0] > 128).astype(np.int64) * largest  # canonical
    write_png_labels(tmp_path / "out" / "in.png", labels, geometry)
    written = Image.open(tmp_path / "out" / "in.png")
    assert written.mode == mode
    np.testing.assert_array_equal(np.asarray(written), (pixels[..., 0] > 128) * largest)
    again, _ = read_label(tmp_path / "out" / "in.png")
    np.testing.assert_array_equal(again, labels)


def test_only_pictures_become_pictures(tmp_path: Path) -> None:
    assert is_picture(Path("a.PNG"))
    assert is_picture(Path("a.tif"))
    assert not is_picture(Path("a.nii.gz"))
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / "in.png")
    image, geometry = read_image([tmp_path / "in.png"])
    with pytest.raises(InputError, match=r"\.png"):
        write_png_labels(tmp_path / "out.tif", image[0].astype(np.uint8), geometry)
    with pytest.raises(ValueError, match="65535"):
        write_png_labels(tmp_path / "out.png", image[0].astype(np.int64) - 1, geometry)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.png"]
