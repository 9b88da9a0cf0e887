"""Tests of label map files."""

from __future__ import annotations

import itk
import numpy as np
import pytest
from PIL import Image

from monai_ext.datasets.label_files import write_label_file
from monai_ext.datasets.label_map_dataset import read_instance_map
from monai_ext.datasets.picture_resolution import PictureResolution, picture_resolution
from monai_ext.datasets.tiff_pages import tiff_pages
from monai_ext.errors import InputError

RESOLUTION = PictureResolution((250000, 13), (20000, 1), 3)


def labels(height=37, width=53, most=300, seed=0):
    values = np.random.default_rng(seed).integers(0, most + 1, (height, width), dtype=np.int32)
    values[0, 0] = most
    return values


@pytest.mark.parametrize("ending", [".png", ".tif", ".TIFF"])
@pytest.mark.parametrize("most", [0, 255, 65535])
def test_16_bits_come_back(tmp_path, ending, most):
    path, expected = tmp_path / f"a{ending}", labels(most=most)
    write_label_file(path, expected)
    with Image.open(path) as picture:
        assert picture.mode.startswith("I;16")
        np.testing.assert_array_equal(np.array(picture), expected)
    np.testing.assert_array_equal(itk.array_from_image(itk.imread(str(path))), expected)
    np.testing.assert_array_equal(read_instance_map(path, expected.shape), expected)


def test_32_bits_come_back(tmp_path):
    path, expected = tmp_path / "a.tif", labels(most=70000)
    write_label_file(path, expected, RESOLUTION)
    page = tiff_pages(path)[0]
    assert (page.height, page.width, page.bits, page.channels, page.signed) == (37, 53, 32, 1, False)
    np.testing.assert_array_equal(itk.array_from_image(itk.imread(str(path))), expected)
    np.testing.assert_array_equal(read_instance_map(path, expected.shape), expected)
    assert picture_resolution(path) == RESOLUTION


def test_many_strips(tmp_path):
    path, expected = tmp_path / "a.tif", labels(1501, 700, 65535)
    write_label_file(path, expected)
    with Image.open(path) as picture:
        assert len(picture.tag_v2[273]) == 3
        np.testing.assert_array_equal(np.array(picture), expected)
    narrow = labels(3, 1, 9)
    write_label_file(path, narrow)
    np.testing.assert_array_equal(itk.array_from_image(itk.imread(str(path))), narrow)


def test_resolution_is_written(tmp_path):
    write_label_file(tmp_path / "a.png", labels(), RESOLUTION)
    found = picture_resolution(tmp_path / "a.png")
    # PNG keeps whole pixels per metre
    np.testing.assert_allclose(found.per_centimetre, RESOLUTION.per_centimetre, rtol=1e-5)
    named = PictureResolution((10, 3), (10, 3), 1, "ImageJ=1.53t\nunit=micron\n")
    write_label_file(tmp_path / "a.tif", labels(), named)
    assert picture_resolution(tmp_path / "a.tif") == named
    write_label_file(tmp_path / "b.tif", labels())
    assert picture_resolution(tmp_path / "b.tif") is None


def test_what_cannot_be_written(tmp_path):
    with pytest.raises(InputError, match=r"holds 65535 objects, there are 65536"):
        write_label_file(tmp_path / "a.png", labels(most=65536))
    with pytest.raises(InputError, match="PNG or TIFF"):
        write_label_file(tmp_path / "a.jpg", labels())
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be written"):
        write_label_file(tmp_path / "file" / "a.tif", labels())
    for wrong in (labels() - 1, labels() * 0.5, labels()[None], labels()[:0]):
        with pytest.raises(ValueError, match="labels"):
            write_label_file(tmp_path / "a.tif", wrong)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
