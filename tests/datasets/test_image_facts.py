"""Facts of single files, and the index that keeps them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from monai_ext.datasets.image_facts import inspect_image
from monai_ext.errors import InputError
from picture_sets import write_picture


def test_exif_orientation_counts_for_size(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(tmp_path / "turned.jpg", exif=exif)
    assert inspect_image(tmp_path / "turned.jpg", with_statistics=True).size == (30, 20)


def test_colours_of_16_bits(tmp_path: Path) -> None:
    import itk

    array = np.random.default_rng(0).integers(0, 65535, (20, 24, 3)).astype(np.uint16)
    itk.imwrite(itk.image_from_array(array, is_vector=True), str(tmp_path / "wide.png"))
    facts = inspect_image(tmp_path / "wide.png", with_statistics=True)
    assert (facts.size, facts.kind, facts.channels) == ((20, 24), "RGB 16-bit", 3)
    assert facts.full_range == (0.0, 65535.0)
    np.testing.assert_allclose(facts.moments[0][:3], array.mean((0, 1)), rtol=1e-5)


def test_floating_point_pictures_have_no_full_range(tmp_path: Path) -> None:
    facts = inspect_image(write_picture(tmp_path / "f.tiff", mode="F"), with_statistics=True)
    assert (facts.kind, facts.full_range) == ("grey float", None)
    assert 0 <= facts.value_range[0] < facts.value_range[1] <= 2.55


def test_slices_of_dicom(dicom_series: Callable[..., Path]) -> None:
    array = np.random.default_rng(0).integers(-100, 1000, (2, 20, 24)).astype(np.int16)
    files = sorted(dicom_series("series", array).iterdir())
    facts = [inspect_image(path, with_statistics=True) for path in files]
    assert facts[0].digest != facts[1].digest
    for fact, plane in zip(facts, array, strict=True):
        assert (fact.size, fact.kind, fact.channels, fact.full_range) == ((20, 24), "DICOM picture", 1, None)
        assert fact.moments[0][0] == pytest.approx(plane.mean(), rel=1e-5)
    files[0].write_bytes(files[0].read_bytes()[:600])
    with pytest.raises(InputError, match="cannot be read"):
        inspect_image(files[0])


def test_volumes_with_values_that_are_no_numbers(tmp_path: Path) -> None:
    import nibabel

    volume = np.zeros((4, 5, 6), np.float32)
    volume[0, 0, :2] = np.nan
    nibabel.save(nibabel.Nifti1Image(volume, np.eye(4)), tmp_path / "v.nii")
    with pytest.raises(InputError, match="holds 2 values that are NaN or infinite"):
        inspect_image(tmp_path / "v.nii")


def test_truncated_pictures_are_refused_whatever_another_library_has_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from PIL import ImageFile

    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    path = write_picture(tmp_path / "a.jpg", size=(64, 64))
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(InputError, match="truncated"):
        inspect_image(path)
    assert ImageFile.LOAD_TRUNCATED_IMAGES
