"""Structure of TIFF files: both byte orders, BigTIFF, strips and tiles, and every way of being cut off."""

from __future__ import annotations

import struct
from pathlib import Path

import itk
import numpy as np
import pytest
from PIL import Image

from monai_ext.datasets.em_stack import read_em_images
from monai_ext.datasets.image_files import read_image
from monai_ext.datasets.tiff_pages import TiffPage, tiff_pages
from monai_ext.errors import InputError


def handmade(order: str = "<", big: bool = False, pages: int = 2, next_page: int | None = None) -> bytes:
    """TIFF of 4 x 3 pixels a page, written tag by tag; `next_page` overrides where the last page points to."""
    pointer, count, entry = ("Q", "Q", "HHQ8s") if big else ("I", "H", "HHI4s")
    head = (b"II" if order == "<" else b"MM") + struct.pack(order + "H", 43 if big else 42)
    head += struct.pack(order + "HHQ", 8, 0, 16) if big else struct.pack(order + "I", 8)
    body, start = b"", len(head)
    for page in range(pages):
        tags = [(256, 4), (257, 3), (258, 8), (277, 1), (279, 12)]
        size = struct.calcsize(order + count) + 6 * struct.calcsize(order + entry) + struct.calcsize(order + pointer)
        here = start + len(body)
        tags.insert(3, (273, here + size))
        block = struct.pack(order + count, len(tags))
        for tag, value in tags:
            block += struct.pack(
                order + entry, tag, 4, 1, struct.pack(order + "I", value).ljust(8 if big else 4, b"\0")
            )
        after = here + size + 12
        last = page == pages - 1
        block += struct.pack(order + pointer, (next_page or 0) if last else after)
        body += block + bytes(range(12))
    return head + body


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("order", ["<", ">"])
def test_byte_orders_and_big_files(order: str, big: bool, tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    path.write_bytes(handmade(order, big))
    assert tiff_pages(path) == [TiffPage(3, 4, 1, 8, False, False)] * 2


def with_subfile(content: bytes, page: int, tag: int, value: int, kind: int = 4) -> bytes:
    """The tag of the channels of a `handmade` page, which may be missing, becomes one of the kind of page."""
    old = struct.pack("<HHII", 277, 4, 1, 1)
    at = -1
    for _ in range(page + 1):
        at = content.index(old, at + 1)
    return content[:at] + struct.pack("<HHII", tag, kind, 1, value) + content[at + len(old) :]


@pytest.mark.parametrize(
    ("tag", "value", "kind"),
    [(254, 1, 4), (254, 4, 4), (254, 14, 4), (254, 0, 4), (254, 2, 4), (254, 0, 2), (255, 2, 3), (255, 1, 3)],
)
def test_pages_of_two_kinds_are_no_volume(tag: int, value: int, kind: int, tmp_path: Path) -> None:
    """ITK would write beyond its memory, which nobody may notice before much later."""
    path = tmp_path / "a.tif"
    path.write_bytes(with_subfile(handmade(pages=3), 1, tag, value, kind))
    with pytest.raises(InputError, match=r"a\.tif: page 1 (is a reduced image or a mask|has subfile).*Cure: "):
        read_image([path])


@pytest.mark.parametrize("kind", [0, 2])
def test_pages_that_all_say_so_are_a_volume(kind: int, tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    slices = [Image.fromarray(np.full((3, 4), value, np.uint8)) for value in (5, 6, 7)]
    slices[0].save(path, save_all=True, append_images=slices[1:], tiffinfo={254: kind})
    assert [page.subfile for page in tiff_pages(path)] == [kind] * 3
    image, _ = read_image([path])
    assert sorted(np.unique(image)) == [5, 6, 7]


def test_slices_of_other_sizes_are_no_volume(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    other = [Image.fromarray(np.zeros(shape, np.uint8)) for shape in ((4, 5), (4, 5), (9, 7))]
    other[0].save(path, save_all=True, append_images=other[1:])
    with pytest.raises(InputError, match=r"page 2 has height 9, width 7, page 0 height 4, width 5.*Cure: "):
        read_image([path])


def tiled() -> bytes:
    """One page of 20 x 20 pixels in four tiles of 16 x 16, whose offsets and lengths lie before the pixels."""
    number = 8
    lists = 8 + 2 + 12 * number + 4
    pixels = lists + 2 * 4 * 4
    tags = [(256, 1, 20), (257, 1, 20), (258, 1, 8), (262, 1, 1), (322, 1, 16), (323, 1, 16)]
    tags += [(324, 4, lists), (325, 4, lists + 16)]
    content = struct.pack("<2sHIH", b"II", 42, 8, number)
    content += b"".join(struct.pack("<HHII", tag, 4, count, value) for tag, count, value in tags)
    content += struct.pack("<I", 0) + struct.pack("<4I", *(pixels + 256 * i for i in range(4)))
    return content + struct.pack("<4I", *[256] * 4) + bytes(range(256)) * 4


def test_tiles_are_looked_for_as_strips_are(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    path.write_bytes(tiled())
    assert tiff_pages(path) == [TiffPage(20, 20, 1, 8, False, False, tiled=True)]
    with Image.open(path) as picture:  # a good file for others, too
        assert np.array(picture)[0].tolist() == [*range(16), *range(4)]
    with pytest.raises(InputError, match=r"is stored in tiles\. Cure: "):
        read_em_images(path)
    for cut in (1, 256, 1023, 1024 + 1, 1024 + 32):
        path.write_bytes(tiled()[:-cut])
        with pytest.raises(InputError, match="is cut off"):
            tiff_pages(path)


@pytest.mark.parametrize("big", [False, True])
def test_every_shortened_file_is_refused(big: bool, tmp_path: Path) -> None:
    """Wherever the file ends too early: never a page with invented pixels, never another exception."""
    whole = handmade(big=big)
    path = tmp_path / "a.tif"
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(InputError, match=r"a\.tif: .*Cure"):
            tiff_pages(path)


def test_files_of_other_programs(tmp_path: Path) -> None:
    array = np.arange(2 * 30 * 40, dtype=np.float32).reshape(2, 30, 40)
    itk.imwrite(itk.image_from_array(array), str(tmp_path / "itk.tif"), compression=True)
    assert tiff_pages(tmp_path / "itk.tif") == [TiffPage(30, 40, 1, 32, True, False, subfile=2)] * 2
    Image.fromarray(np.zeros((5, 6, 3), np.uint8)).save(tmp_path / "rgb.tif")
    assert tiff_pages(tmp_path / "rgb.tif")[0].channels == 3
    Image.fromarray(np.zeros((5, 6), np.uint8)).convert("P").save(tmp_path / "palette.tif")
    assert tiff_pages(tmp_path / "palette.tif")[0].palette


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"\x89PNG\r\n\x1a\n0000", "is no TIFF file"),
        (handmade(next_page=8), "points back to an earlier one"),
        (handmade(next_page=10**6), "page 3 lies beyond the end"),
        (struct.pack("<2sHI", b"II", 42, 0), "has no page"),
    ],
)
def test_broken_files_are_refused(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        tiff_pages(path)
