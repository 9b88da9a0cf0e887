"""Reading and checking a stack of three TIFF files."""

from __future__ import annotations

import struct
from pathlib import Path

import itk
import numpy as np
import pytest
from PIL import Image

from monai_ext.datasets.em_stack import FILES, read_em_images, read_em_stack, scaled, value_range
from monai_ext.datasets.em_writing import write_stack
from monai_ext.errors import InputError


def stack(folder: Path, **changes: np.ndarray | None) -> Path:
    """A good stack of 3 + 2 pages, with files replaced or left out."""
    generator = np.random.default_rng(0)
    arrays = {
        "train-volume": generator.integers(0, 256, (3, 20, 24), np.uint8),
        "train-labels": generator.integers(0, 2, (3, 20, 24)).astype(np.uint8) * 255,
        "test-volume": generator.integers(0, 256, (2, 16, 18), np.uint8),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in {**arrays, **{key.replace("_", "-"): value for key, value in changes.items()}}.items():
        if array is not None:
            write_stack(folder / f"{name}.tif", array)
    return folder


def test_good_stack(tmp_path: Path) -> None:
    found = read_em_stack(stack(tmp_path / "cells"))
    assert found.name == "cells"
    assert found.images.shape == found.labels.shape == (3, 20, 24)
    assert found.test.shape == (2, 16, 18)
    assert set(np.unique(found.labels)) == {0, 1}
    assert found.slice_names == ("slice 00", "slice 01", "slice 02")
    np.testing.assert_array_equal(found.images, itk.array_from_image(itk.imread(str(tmp_path / "cells" / FILES[0]))))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("top", [1, 255])
def test_types_of_images_and_labels(tmp_path: Path, dtype: type, top: int) -> None:
    labels: np.ndarray = (np.arange(3 * 20 * 24).reshape(3, 20, 24) % 2 * top).astype(dtype)
    images: np.ndarray = (np.arange(3 * 20 * 24).reshape(3, 20, 24) % 200).astype(dtype)
    found = read_em_stack(stack(tmp_path, train_volume=images, train_labels=labels))
    assert found.images.dtype == dtype
    np.testing.assert_array_equal(found.images, images)
    np.testing.assert_array_equal(found.labels, labels > 0)


def test_single_page(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((9, 8), np.uint8)).save(tmp_path / "a.tif")
    assert read_em_images(tmp_path / "a.tif").shape == (1, 9, 8)


def test_grey_values_of_8_bits_are_scaled_as_in_the_reference_system() -> None:
    values = np.arange(256, dtype=np.uint8)
    assert value_range(values) == (0, 255)
    np.testing.assert_array_equal(scaled(values, (0, 255)), values.astype(np.float32) / np.float32(127.5) - 1)
    assert scaled(values, (0, 255)).dtype == np.float32


def test_other_types_are_scaled_by_their_range() -> None:
    images = np.array([[100, 300], [200, 150]], np.uint16)
    assert value_range(images) == (100, 300)
    np.testing.assert_allclose(scaled(images, (100, 300)), np.array([[-1, 1], [0, -0.5]]))
    with pytest.raises(InputError, match="all pixels have the value 7"):
        value_range(np.full((2, 2), 7, np.float32))


BAD = np.zeros((3, 20, 24), np.uint8)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train_labels": None}, r"train-labels\.tif: is missing"),
        ({"test_volume": None}, r"test-volume\.tif: is missing"),
        ({"train_labels": BAD[:2]}, r"train-labels\.tif: has 2 pages, train-volume\.tif has 3"),
        ({"train_labels": BAD[:, :, :20]}, r"pages have 20 x 20 pixels, those of train-volume\.tif 20 x 24"),
        ({"train_labels": BAD + 7}, "has other values than 0 and 255 .or 0 and 1.: 7, first on page 0"),
        ({"train_labels": np.array(BAD, np.float32) + 0.5}, "has other values .*: 0.5"),
        ({"train_volume": np.full((3, 20, 24), np.nan, np.float32)}, "page 0 holds NaN or infinite values"),
    ],
)
def test_problems_are_named(tmp_path: Path, changes: dict[str, np.ndarray | None], message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_em_stack(stack(tmp_path, **changes))


def test_all_problems_come_at_once(tmp_path: Path) -> None:
    folder = stack(tmp_path, train_labels=BAD[:2] + 3, test_volume=None)
    with pytest.raises(InputError) as caught:
        read_em_stack(folder)
    assert "3 problems" in str(caught.value)
    with pytest.raises(InputError, match="dataset folder does not exist"):
        read_em_stack(tmp_path / "nowhere")


def test_colours_are_refused(tmp_path: Path) -> None:
    folder = stack(tmp_path)
    pages = [Image.fromarray(np.zeros((20, 24, 3), np.uint8)) for _ in range(3)]
    pages[0].save(folder / "train-volume.tif", save_all=True, append_images=pages[1:])
    with pytest.raises(InputError, match=r"train-volume\.tif: page 0 has 3 channels, slices are grey"):
        read_em_stack(folder)


def test_pages_of_different_size_are_refused(tmp_path: Path) -> None:
    pages = [Image.fromarray(np.zeros((20, 20 + i), np.uint8)) for i in range(3)]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    with pytest.raises(InputError, match=r"pages differ in size \(20 x 20, 20 x 21, 20 x 22\)"):
        read_em_images(tmp_path / "a.tif")


def one_page(bits: int, sample_format: int, pixels: bytes, shows_zero_as: int = 1, first: bytes = b"") -> bytes:
    """Grey TIFF of 4 x 3 pixels; `first` are the pixels of an 8-bit page before it."""
    kinds = ([(8, 1, first)] if first else []) + [(bits, sample_format, pixels)]
    content = struct.pack("<2sHI", b"II", 42, 8)
    for number, (depth, form, data) in enumerate(kinds):
        start = len(content) + 2 + 12 * 8 + 4  # of the pixels, behind eight tags and the pointer to the next page
        tags = {256: 4, 257: 3, 258: depth, 262: shows_zero_as, 273: start, 278: 3, 279: len(data), 339: form}
        content += struct.pack("<H", len(tags))
        content += b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
        content += struct.pack("<I", start + len(data) if number < len(kinds) - 1 else 0) + data
    return content


GREY = bytes(range(12))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (one_page(32, 2, np.full(12, 70000, "<i4").tobytes()), "holds 32-bit signed numbers"),
        (one_page(32, 1, np.full(12, 70000, "<u4").tobytes()), "holds 32-bit unsigned numbers"),
        (one_page(16, 3, np.arange(12).astype("<f2").tobytes()), "holds 16-bit floats"),
        (one_page(64, 3, np.arange(12.0).tobytes()), "holds 64-bit floats"),
        (one_page(8, 2, GREY), "holds 8-bit signed numbers"),
        (one_page(1, 1, GREY[:3]), "holds 1-bit unsigned numbers"),
        (one_page(16, 1, GREY * 2, first=GREY), "page 1 holds 16-bit unsigned numbers, page 0 8-bit unsigned"),
        (one_page(16, 2, np.full(12, -300, "<i2").tobytes()), r"holds negative values \(-300\)"),
        (one_page(8, 1, GREY, shows_zero_as=0), "page 0 shows 0 as white"),
    ],
)
def test_pixels_that_would_be_read_wrongly_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    """ITK wraps, reinterprets or cannot hold these, and leaves black and white swapped."""
    (tmp_path / "a.tif").write_bytes(content)
    with pytest.raises(InputError, match=rf"a\.tif: {message}.*Cure: "):
        read_em_images(tmp_path / "a.tif")


def test_signed_numbers_without_a_negative_one_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.tif").write_bytes(one_page(16, 2, np.arange(300, 312, dtype="<i2").tobytes()))
    read = read_em_images(tmp_path / "a.tif")
    assert read.dtype == np.uint16
    np.testing.assert_array_equal(read.ravel(), np.arange(300, 312))


def test_paths_that_are_no_files_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "none.tif", tmp_path):
        with pytest.raises(InputError, match=r"cannot be opened .*Cure: "):
            read_em_images(path)


@pytest.mark.parametrize("similar", ["train-volume.tiff", "Train-Volume.TIF"])
def test_similar_names_are_pointed_out(tmp_path: Path, similar: str) -> None:
    folder = stack(tmp_path)
    (folder / FILES[0]).rename(folder / similar)
    with pytest.raises(InputError, match=rf"is missing, but {similar} is there. Cure: rename {similar} to {FILES[0]}"):
        read_em_stack(folder)


def test_damaged_compression_is_refused_in_the_same_words_every_time(tmp_path: Path) -> None:
    path = stack(tmp_path) / FILES[0]
    content = bytearray(path.read_bytes())
    content[20:60] = bytes(40)
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"cannot be read \(Problem reading the row: \d+\). Cure: copy it again"):
        read_em_images(path)


@pytest.mark.parametrize("share", [0.01, 0.3, 0.7, 0.999])
def test_truncated_files_are_refused(tmp_path: Path, share: float) -> None:
    folder = stack(tmp_path)
    path = folder / "train-volume.tif"
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(InputError, match=r"train-volume\.tif: (is cut off|is no TIFF)"):
        read_em_stack(folder)


@pytest.mark.real_data
def test_stack_of_the_challenge(data_folder: Path, tmp_path: Path) -> None:
    found = read_em_stack(data_folder / "isbi2012_em")
    assert found.images.shape == found.labels.shape == found.test.shape == (30, 512, 512)
    assert found.images.dtype == np.uint8
    assert 0.15 < (found.labels == 0).mean() < 0.3
    content = (data_folder / "isbi2012_em" / "train-volume.tif").read_bytes()
    for share in (0.001, 0.5, 0.9999):
        (tmp_path / "a.tif").write_bytes(content[: int(share * len(content))])
        with pytest.raises(InputError, match="is cut off"):
            read_em_images(tmp_path / "a.tif")
