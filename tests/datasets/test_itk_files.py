from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from monai_ext.datasets.image_files import read_image, read_label
from monai_ext.datasets.itk_files import has_alpha, picture_channels, read_with_itk
from monai_ext.datasets.png_labels import write_png_labels
from monai_ext.errors import InputError

RNG = np.random.default_rng(0)
GREY = RNG.integers(1, 255, (5, 7), dtype=np.uint8)
COLOUR = RNG.integers(0, 255, (5, 7, 3), dtype=np.uint8)
CLASSES = RNG.integers(0, 3, (5, 7)).astype(np.uint8)
OPAQUE = np.full((5, 7, 1), 255, np.uint8)


def save(path: Path, pixels: np.ndarray, **options: object) -> Path:
    Image.fromarray(pixels).save(path, **options)
    return path


def palette(path: Path, **options: object) -> Path:
    picture = Image.fromarray(CLASSES)
    picture.putpalette([0, 0, 0, 255, 0, 0, 0, 128, 0])
    picture.save(path, **options)
    return path


def as_canonical(pixels: np.ndarray) -> np.ndarray:
    """Rows and columns as in the file -> `[1, H, W]`: pictures have LPS axes, canonical ones are RAS."""
    return pixels[None, ::-1, ::-1]


@pytest.mark.parametrize(
    ("pixels", "ending"),
    [
        (GREY, ".png"),
        (GREY.astype(np.uint16) * 200, ".png"),
        (GREY, ".tif"),
        (GREY.astype(np.uint16) * 200, ".tif"),
        (GREY.astype(np.float32) / 7, ".tif"),
    ],
)
def test_grey_pictures(pixels: np.ndarray, ending: str, tmp_path: Path) -> None:
    image, geometry = read_image([save(tmp_path / f"a{ending}", pixels)])
    np.testing.assert_array_equal(image, as_canonical(pixels)[None].astype(np.float32))
    assert image.dtype == np.float32
    assert geometry.spacing == (1, 1, 1)
    assert geometry.orientation == "LPS"
    assert geometry.file_shape == (7, 5)


@pytest.mark.parametrize("ending", [".png", ".tif"])
def test_colours_are_channels(ending: str, tmp_path: Path) -> None:
    path = save(tmp_path / f"a{ending}", COLOUR)
    image, geometry = read_image([path])
    assert image.shape == (3, 1, 5, 7)
    for channel in range(3):
        np.testing.assert_array_equal(image[channel], as_canonical(COLOUR[..., channel]))
    np.testing.assert_array_equal(geometry.to_file(image[0])[..., 0:7].T, COLOUR[..., 0])
    assert picture_channels(path) == 3


def test_colours_of_16_bits_are_not_cut_to_8(tmp_path: Path) -> None:
    import itk

    wide = RNG.integers(0, 65535, (5, 7, 3)).astype(np.uint16)
    itk.imwrite(itk.image_from_array(wide, is_vector=True), str(tmp_path / "a.png"))
    image, _ = read_image([tmp_path / "a.png"])
    np.testing.assert_array_equal(image[1], as_canonical(wide[..., 1]))


def test_image_and_label_of_any_kind_lie_on_each_other(tmp_path: Path) -> None:
    """A picture of classes is read as the same array, whichever format and library."""
    expected = as_canonical(CLASSES)
    files = [
        save(tmp_path / "grey.png", CLASSES),
        save(tmp_path / "two_bits.png", CLASSES * 85, bits=2),
        palette(tmp_path / "palette.png"),
        palette(tmp_path / "transparent.png", transparency=0),
        palette(tmp_path / "palette.tif"),
        save(tmp_path / "grey.tif", CLASSES),
    ]
    geometries = []
    for path in files:
        labels, geometry = read_label(path)
        np.testing.assert_array_equal(labels, expected, err_msg=path.name)
        geometries.append(geometry)
    assert len(set(geometries)) == 1
    image, geometry = read_image([files[0]])
    np.testing.assert_array_equal(image[0], expected)
    assert geometry == geometries[0]


@pytest.mark.parametrize("ending", [".png", ".tif"])
def test_masks_of_one_bit_hold_0_and_1(ending: str, tmp_path: Path) -> None:
    labels, _ = read_label(save(tmp_path / f"a{ending}", CLASSES > 0))
    np.testing.assert_array_equal(labels, as_canonical(CLASSES > 0))


def test_palettes_give_colours_as_image_and_indices_as_label(tmp_path: Path) -> None:
    path = palette(tmp_path / "a.png")
    image, _ = read_image([path])
    np.testing.assert_array_equal(image[0], as_canonical(CLASSES == 1) * 255.0)
    np.testing.assert_array_equal(image[1], as_canonical(CLASSES == 2) * 128.0)
    assert picture_channels(path) == 3
    grey = Image.fromarray(CLASSES)
    grey.putpalette([10, 10, 10, 20, 20, 20, 30, 30, 30])
    grey.save(tmp_path / "grey.png")
    assert read_image([tmp_path / "grey.png"])[0].shape[0] == 1
    assert picture_channels(tmp_path / "grey.png") == 1


def test_opaque_alpha_is_left_away_and_transparency_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", np.concatenate([COLOUR, OPAQUE], axis=2))
    image, _ = read_image([path])
    np.testing.assert_array_equal(image, read_image([save(tmp_path / "b.png", COLOUR)])[0])
    assert has_alpha(path)
    assert picture_channels(path) == 3
    assert not has_alpha(tmp_path / "b.png")
    holes = OPAQUE.copy()
    holes[2, 3] = 0
    with pytest.raises(InputError, match=r"transparent pixels.*Cure: flatten"):
        read_image([save(tmp_path / "c.png", np.concatenate([COLOUR, holes], axis=2))])


def test_print_resolution_is_no_size_in_the_body_but_that_of_a_tiff_is(tmp_path: Path) -> None:
    assert read_image([save(tmp_path / "a.png", GREY, dpi=(300, 300))])[1].spacing == (1, 1, 1)
    save(tmp_path / "a.jpg", GREY, dpi=(72, 72))
    assert read_with_itk(tmp_path / "a.jpg")[1].spacing == (1, 1, 1)
    spacing = read_image([save(tmp_path / "a.tif", GREY, dpi=(254, 254))])[1].spacing
    np.testing.assert_allclose(spacing, (1, 0.1, 0.1), rtol=1e-6)
    indices = read_label(palette(tmp_path / "b.tif", dpi=(254, 254)))[1].spacing  # read by the other library
    np.testing.assert_allclose(indices, spacing, rtol=1e-6)


def test_pages_of_a_tiff_are_slices(tmp_path: Path) -> None:
    pages = RNG.integers(0, 255, (4, 5, 7), dtype=np.uint8)
    first, *rest = (Image.fromarray(page) for page in pages)
    first.save(tmp_path / "a.tif", save_all=True, append_images=rest)
    bits = [Image.fromarray(page > 100) for page in pages]
    bits[0].save(tmp_path / "b.tif", save_all=True, append_images=bits[1:])
    image, geometry = read_image([tmp_path / "a.tif"])
    np.testing.assert_array_equal(image[0], pages[:, ::-1, ::-1])
    labels, label_geometry = read_label(tmp_path / "b.tif")
    np.testing.assert_array_equal(labels, pages[:, ::-1, ::-1] > 100)
    assert geometry == label_geometry


def test_written_labels_are_read_back(tmp_path: Path) -> None:
    labels, geometry = read_label(palette(tmp_path / "a.png"))
    write_png_labels(tmp_path / "b.png", labels, geometry)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "b.png")), CLASSES)


def test_masks_that_cannot_be_right_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be JPEG"):
        read_label(save(tmp_path / "a.jpg", GREY))
    with pytest.raises(InputError, match="picture with 3 channels, a label map has one"):
        read_label(save(tmp_path / "a.png", COLOUR))


@pytest.mark.parametrize("ending", [".png", ".jpg", ".bmp"])
def test_truncated_pictures_are_refused(ending: str, tmp_path: Path) -> None:
    path = save(tmp_path / f"a{ending}", RNG.integers(0, 255, (64, 64, 3), dtype=np.uint8))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises((OSError, ValueError)):
        read_with_itk(path)


def test_turned_photographs_are_refused(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = 6
    path = save(tmp_path / "a.jpg", COLOUR, exif=exif)
    with pytest.raises(InputError, match=r"EXIF orientation 6.*Cure: save both upright"):
        read_with_itk(path)


def test_jpeg_and_bmp(tmp_path: Path) -> None:
    np.testing.assert_array_equal(read_with_itk(save(tmp_path / "a.bmp", GREY))[0], GREY.T)
    np.testing.assert_array_equal(read_with_itk(save(tmp_path / "b.bmp", CLASSES > 0), as_label=True)[0], CLASSES.T > 0)
    flat = np.full((8, 8, 3), (200, 100, 50), np.uint8)
    stored, geometry = read_with_itk(save(tmp_path / "a.jpg", flat, quality=95))
    assert stored.shape == (8, 8, 3)
    np.testing.assert_allclose(stored, flat, atol=2)  # colours are rounded when stored
    assert geometry.file_shape == (8, 8)
