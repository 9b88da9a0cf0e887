"""Headers that claim more than the limit are refused before memory is taken."""

from __future__ import annotations

import gzip
import struct
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path

import itk
import monai.data
import nibabel
import numpy as np
import pytest
from PIL import Image

from monai_ext.datasets.claimed_size import check_claim, gunzipped, most_of_tiff, size_limit
from monai_ext.datasets.em_stack import read_em_images
from monai_ext.datasets.image_files import read_image, read_label
from monai_ext.datasets.image_index import inspect_image
from monai_ext.datasets.itk_files import check_itk_claim
from monai_ext.datasets.picture import open_picture
from monai_ext.errors import InputError

MEGABYTE = 2**20
EDGE = 10**6
LIMIT = "MONAI_EXT_MAX_IMAGE_GIB"
LOADED = (
    itk.GDCMImageIO,
    itk.imread,
    monai.data.ITKReader,
)  # would count as memory of the readers


def nifti(path: Path, edge: int) -> Path:
    """NIfTI-2, whose sizes have 64 bits; two voxels of data."""
    image = nibabel.Nifti2Image(np.zeros((2, 1, 1), np.int16), np.eye(4))
    content = bytearray(image.to_bytes())
    content[24:48] = struct.pack("<3q", edge, edge, edge)  # dim[1..3]
    path.write_bytes(gzip.compress(bytes(content)) if path.suffix == ".gz" else bytes(content))
    return path


def nrrd(path: Path, edge: int) -> Path:
    header = f"NRRD0004\ntype: short\ndimension: 3\nsizes: {edge} {edge} {edge}\nencoding: raw\nendian: little\n\n"
    path.write_bytes(header.encode() + bytes(8))
    return path


def meta_image(path: Path, edge: int) -> Path:
    header = f"NDims = 3\nDimSize = {edge} {edge} {edge}\nElementType = MET_SHORT\nElementDataFile = LOCAL\n"
    path.write_bytes(header.encode() + bytes(8))
    return path


def tiff(path: Path, edge: int) -> Path:
    """One strip of 8 bytes, 16 bits per pixel."""
    tags = [(256, 4, edge), (257, 4, edge), (258, 3, 16), (259, 3, 1), (262, 3, 1), (273, 4, 8), (277, 3, 1)]
    tags += [(278, 4, edge), (279, 4, 8)]
    entries = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    path.write_bytes(struct.pack("<2sHI", b"II", 42, 16) + bytes(8) + struct.pack("<H", len(tags)) + entries + bytes(4))
    return path


def png(path: Path, edge: int) -> Path:
    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", edge, edge, 8, 0, 0, 0, 0))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b""))
    return path


def bitmap(path: Path, edge: int) -> Path:
    Image.new("L", (4, 4)).save(path)
    content = bytearray(path.read_bytes())
    content[18:26] = struct.pack("<2i", edge, edge)
    path.write_bytes(content)
    return path


MAKERS: dict[str, Callable[[Path, int], Path]] = {
    "v.nii": nifti, "v.nii.gz": nifti, "v.nrrd": nrrd, "v.mha": meta_image, "p.tif": tiff, "p.png": png,
    "p.bmp": bitmap,
}  # fmt: skip
READERS: dict[str, Callable[[Path], object]] = {
    "image": lambda path: read_image([path]),
    "label": read_label,
    "picture": lambda path: open_picture(path, 1),
    "facts": inspect_image,
    "stack": read_em_images,
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("name", MAKERS)
def test_a_million_voxels_a_side_take_no_memory(name: str, reader: str, tmp_path: Path) -> None:
    if reader == "stack" and not name.endswith(".tif"):
        pytest.skip("stacks are TIFF")
    path = MAKERS[name](tmp_path / name, EDGE)
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match=rf"claims .*({EDGE} x .*the limit|cannot hold them)") as caught:
            READERS[reader](path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # TIFF tells how much is stored, so that it is refused whatever the limit; the caller of "facts" adds name and cure
    assert LIMIT in str(caught.value) or reader == "facts" or name == "p.tif"
    assert peak < 40 * MEGABYTE  # further modules at first use


@pytest.mark.parametrize(("compression", "fits"), [(1, 4), (5, 4096), (8, 1032), (32773, 128)])
def test_what_stored_bytes_of_tiff_can_hold(compression: int, fits: int) -> None:
    assert most_of_tiff(100, compression) == 100 * fits
    assert most_of_tiff(0, compression) == 0
    assert most_of_tiff(1, 7) == float("inf")  # JPEG


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw", "tiff_adobe_deflate", "packbits", "group4", "jpeg"])
@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "I;16", "F"])
def test_the_best_compressed_pictures_are_read(tmp_path: Path, compression: str, mode: str) -> None:
    path = tmp_path / "flat.tif"
    try:
        Image.new(mode, (600, 700)).save(path, compression=compression)
    except (OSError, KeyError, RuntimeError):
        pytest.skip(f"{compression} does not take {mode}")
    check_itk_claim(path)
    assert inspect_image(path).size == (700, 600)


def test_the_limit_is_a_key_of_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "v.nii"
    nibabel.save(nibabel.Nifti1Image(np.ones((64, 64, 64), np.uint8), np.eye(4)), path)  # 2^18 bytes
    assert read_image([path])[0].shape == (1, 64, 64, 64)
    monkeypatch.setenv(LIMIT, str(2**-12))  # 2^18 bytes
    assert read_image([path])[0].shape == (1, 64, 64, 64)
    monkeypatch.setenv(LIMIT, str(2**-13))
    with pytest.raises(InputError, match=rf"v\.nii: its header claims 64 x 64 x 64 values of 1 bytes.*{LIMIT}"):
        read_image([path])
    for wrong in ("many", "-1", "0", "nan", "inf"):
        monkeypatch.setenv(LIMIT, wrong)
        with pytest.raises(InputError, match=f"{LIMIT}={wrong}: is no positive number"):
            size_limit()


def test_more_pages_than_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = Image.new("L", (64, 64))
    page.save(tmp_path / "s.tif", save_all=True, append_images=[page] * 7)
    assert read_em_images(tmp_path / "s.tif").shape == (8, 64, 64)
    monkeypatch.setenv(LIMIT, str(2**-16))  # 2^14 bytes, four pages
    with pytest.raises(InputError, match=r"s\.tif: its header claims 8 x 64 x 64"):
        read_em_images(tmp_path / "s.tif")
    with pytest.raises(InputError, match=r"s\.tif: its header claims 8 x 64 x 64"):
        read_image([tmp_path / "s.tif"])


def test_gzip_bomb_is_refused_in_little_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(LIMIT, str(2**-6))  # 16 MiB
    header = nibabel.Nifti1Image(np.zeros((4, 4, 4), np.uint8), np.eye(4)).to_bytes()
    path = tmp_path / "v.nii.gz"
    path.write_bytes(gzip.compress(header + bytes(200 * MEGABYTE), 9))
    assert path.stat().st_size < MEGABYTE
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match=r"v\.nii\.gz: decompresses to more than the limit of 0\.015625 GiB"):
            read_image([path])
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 20 * MEGABYTE


def test_claim_that_compressed_bytes_cannot_hold(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(np.zeros((2, 1, 1), np.uint8), np.eye(4))
    content = bytearray(image.to_bytes())
    content[42:48] = struct.pack("<3h", 1000, 1000, 1000)  # below the limit
    (tmp_path / "v.nii.gz").write_bytes(gzip.compress(bytes(content)))
    with pytest.raises(InputError, match=r"the file is incomplete .*1000000352 bytes"):
        read_image([tmp_path / "v.nii.gz"])


def test_members_of_gzip_are_joined_and_checked() -> None:
    parts = [bytes(range(256)) * 50, b"second" * 1000]
    packed = b"".join(gzip.compress(part) for part in parts)
    assert gunzipped("x", packed + bytes(20), 10**6) == b"".join(parts)
    assert gunzipped("x", packed, 13_000) == b"".join(parts)[:13_000]
    with pytest.raises(EOFError):
        gunzipped("x", packed[:-9], 10**6)
    broken = bytearray(packed)
    broken[-7] ^= 1
    for wanted in (10, 10**6):  # the checksum behind the wanted bytes counts as well
        with pytest.raises(zlib.error, match="CRC"):
            gunzipped("x", bytes(broken), wanted)


def test_claim_is_counted_without_overflow() -> None:
    assert check_claim("x", (512, 512, 1000, 4), 4) == 4_194_304_000
    for shape in ((2**31,) * 4, (2**63, 2**63)):
        with pytest.raises(InputError, match="x: its header claims"):
            check_claim("x", shape)
    with pytest.raises(InputError, match="claims -1 x 5"):
        check_claim("x", (-1, 5))
