"""Memory that the whole process takes, C++ libraries among it, for files that claim more than they hold."""

from __future__ import annotations

import ctypes
import gzip
import struct
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import itk
import nibabel
import numpy as np
import pytest
from PIL import Image

from forked_child import in_child
from monai_ext.datasets.em_stack import read_em_images
from monai_ext.datasets.image_files import read_image
from monai_ext.datasets.image_index import inspect_image
from monai_ext.datasets.picture import open_picture
from monai_ext.errors import InputError

resource = pytest.importorskip("resource", reason="measures memory as POSIX does")
MEGABYTE = 2**20
M_MMAP_THRESHOLD = -3  # <malloc.h>
MOST = 64  # MiB: buffers of compression, modules at first use
MOST_FREE = 512  # MiB of free heap that may be used again; what the files claim is 1.5 GiB or more
BEYOND, BELOW = 10**6, 1200  # voxels a side; 1200 of 16 bits are 3.2 GiB, below the limit of 16
LARGE_SIDES = {BELOW: 40_000}  # of pictures, as many bytes


def nifti(path: Path, edge: int) -> None:
    content = bytearray(nibabel.Nifti2Image(np.zeros((2, 1, 1), np.int16), np.eye(4)).to_bytes())
    content[24:48] = struct.pack("<3q", edge, edge, edge)
    path.write_bytes(gzip.compress(bytes(content)) if path.suffix == ".gz" else bytes(content))


def nrrd(path: Path, edge: int) -> None:
    packed = path.stem == "packed"
    header = f"NRRD0004\ntype: short\ndimension: 3\nsizes: {edge} {edge} {edge}\n"
    header += f"encoding: {'gzip' if packed else 'raw'}\nendian: little\n\n"
    path.write_bytes(header.encode() + (gzip.compress(bytes(8)) if packed else bytes(8)))


def meta_image(path: Path, edge: int) -> None:
    stream = zlib.compress(bytes(8))
    packed = f"CompressedData = True\nCompressedDataSize = {len(stream)}\n" if path.stem == "packed" else ""
    header = f"NDims = 3\nDimSize = {edge} {edge} {edge}\n{packed}ElementType = MET_SHORT\nElementDataFile = LOCAL\n"
    path.write_bytes(header.encode() + (stream if packed else bytes(8)))


def tiff(path: Path, edge: int) -> None:
    side = LARGE_SIDES.get(edge, edge)  # in 16 bits as much as the volumes
    tags = [(256, 4, side), (257, 4, side), (258, 3, 16), (259, 3, 1), (262, 3, 1), (273, 4, 8), (277, 3, 1)]
    tags += [(278, 4, side), (279, 4, 8)]
    entries = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    path.write_bytes(struct.pack("<2sHI", b"II", 42, 16) + bytes(8) + struct.pack("<H", len(tags)) + entries + bytes(4))


def png(path: Path, edge: int) -> None:
    side = LARGE_SIDES.get(edge, edge)

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 16, 0, 0, 0, 0))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b""))


def bitmap(path: Path, edge: int) -> None:
    side = LARGE_SIDES.get(edge, edge)
    Image.new("L", (4, 4)).save(path)
    content = bytearray(path.read_bytes())
    content[18:26] = struct.pack("<2i", side, side)
    path.write_bytes(content)


def dicom(path: Path, edge: int) -> None:
    itk.imwrite(itk.image_from_array(np.zeros((1, 5, 4), np.int16)), str(path))
    content = path.read_bytes()
    side = min(LARGE_SIDES.get(edge, edge), 65_535)
    for element in (b"\x28\0\x10\0\x02\0\0\0", b"\x28\0\x11\0\x02\0\0\0"):  # rows and columns
        before, found, after = content.partition(element)
        content = before + found + struct.pack("<H", side) + after[2:]
    if edge == BEYOND:  # sides have 16 bits: so many frames
        before, found, after = content.partition(b"\x28\0\x10\0\x02")
        content = before + b"\x28\0\x08\0\x06\0\0\0" + b"100000" + found + after
    path.write_bytes(content)


MAKERS: dict[str, Callable[[Path, int], None]] = {
    "v.nii": nifti, "v.nii.gz": nifti, "v.nrrd": nrrd, "packed.nrrd": nrrd, "v.mha": meta_image,
    "packed.mha": meta_image, "p.tif": tiff, "p.png": png, "p.bmp": bitmap, "s.dcm": dicom,
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def libraries(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What the readers load at first use would count as theirs."""
    for name in MAKERS:
        path = tmp_path_factory.mktemp("small") / name
        MAKERS[name](path, 4)
        with suppress(InputError, AssertionError):
            refused(path)


def refused(path: Path) -> int:
    """Number of readers that refuse a file."""
    readers: list[Callable[[Path], object]] = [_decoded, inspect_image]
    readers.append(lambda p: read_image([p.parent if p.suffix == ".dcm" else p]))
    if path.suffix == ".tif":
        readers.append(read_em_images)
    count = 0
    for reader in readers:
        try:
            reader(path)
        except InputError:
            count += 1
    assert count == len(readers), f"{len(readers) - count} readers take it"
    return count


def _decoded(path: Path) -> object:
    return open_picture(path, 1).crop_resized((0, 0, 4, 4), (2, 2))  # pictures are decoded late


class _Heap(ctypes.Structure):
    """What glibc's `mallinfo2` tells."""

    _fields_ = tuple((name, ctypes.c_size_t) for name in (*"abcdefgh", "free", "top"))


def _free_heap() -> int:
    """MiB that tests before this one have left free; pieces that are used again are cleared, and so become resident."""
    ask = getattr(ctypes.CDLL(None), "mallinfo2", None)
    if ask is None:
        return 0
    ask.restype = _Heap
    return int(ask().free) // MEGABYTE


@pytest.mark.parametrize("edge", [BEYOND, BELOW])
@pytest.mark.parametrize("name", MAKERS)
def test_a_header_that_claims_more_than_there_is(tmp_path: Path, name: str, edge: int) -> None:
    path = tmp_path / "files" / name
    path.parent.mkdir()
    MAKERS[name](path, edge)
    assert path.stat().st_size < 5000

    def body() -> None:
        # a training in this process has asked for large pieces from the heap, which are cleared where they were used
        ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, 128 * 1024)
        most = MOST + min(_free_heap(), MOST_FREE)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        assert refused(path) >= 3
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024 - before
        assert grown < most, f"{grown} of {most} MiB"

    assert in_child(body, tmp_path / "report") == 0


def test_gzip_bomb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MONAI_EXT_MAX_IMAGE_GIB", str(2**-6))  # 16 MiB
    header = nibabel.Nifti1Image(np.zeros((4, 4, 4), np.uint8), np.eye(4)).to_bytes()
    path = tmp_path / "v.nii.gz"
    packer, piece = zlib.compressobj(1, wbits=31), bytes(MEGABYTE)
    parts = [packer.compress(header), *(packer.compress(piece) for _ in range(512)), packer.flush()]
    path.write_bytes(b"".join(parts))
    assert path.stat().st_size < 3 * MEGABYTE

    def body() -> None:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        with pytest.raises(InputError, match="decompresses to more than the limit"):
            read_image([path])
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024 - before < MOST

    assert in_child(body, tmp_path / "report") == 0
