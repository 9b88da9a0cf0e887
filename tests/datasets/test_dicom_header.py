"""DICOM files that claim more than the limit, or unpack to more."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from monai_ext.datasets.dicom_header import DEFLATED, GROUP_LENGTH, check_dicom
from monai_ext.datasets.image_files import read_image
from monai_ext.errors import InputError

LIMIT = "MONAI_EXT_MAX_IMAGE_GIB"
TRANSFER_SYNTAX = b"\x02\0\x10\0UI"


def test_the_limit_counts_all_slices(dicom_series: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    folder = dicom_series("series", np.zeros((4, 16, 8), np.int16))  # 256 bytes a slice
    check_dicom(folder)
    monkeypatch.setenv(LIMIT, str(2**-20))  # 1024 bytes
    assert read_image([folder])[0].size == 512
    monkeypatch.setenv(LIMIT, str(2**-21))
    for file in folder.iterdir():
        check_dicom(file)
    with pytest.raises(InputError, match=r"series: its header claims 4 x 8 x 16 x 2 values"):
        read_image([folder])


def test_rows_beyond_the_limit(dicom_series: Callable[..., Path]) -> None:
    folder = dicom_series("series", np.zeros((1, 16, 8), np.int16))
    file = next(folder.iterdir())
    content = bytearray(file.read_bytes())
    for element in (b"\x28\0\x10\0\x02\0\0\0", b"\x28\0\x11\0\x02\0\0\0"):  # rows, columns
        at = content.index(element) + len(element)
        content[at : at + 2] = b"\xff\xff"
    frames = b"\x28\0\x08\0\x06\0\0\0" + b"100000"  # before the rows, in order of the tags
    at = content.index(b"\x28\0\x10\0\x02")
    file.write_bytes(bytes(content[:at]) + frames + bytes(content[at:]))
    with pytest.raises(InputError, match=r"claims 65535 x 65535 x 100000.*the limit is 16 GiB"):
        check_dicom(folder)


def test_deflated_bomb(dicom_series: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    file = next(dicom_series("series", np.zeros((1, 16, 8), np.int16)).iterdir())
    content = file.read_bytes()
    at = content.index(GROUP_LENGTH)
    end = at + 12 + int.from_bytes(content[at + 8 : at + 12], "little")
    first = content[:end]
    place = first.index(TRANSFER_SYNTAX) + len(TRANSFER_SYNTAX)
    after = place + 2 + int.from_bytes(first[place : place + 2], "little")
    first = first[:place] + len(DEFLATED).to_bytes(2, "little") + DEFLATED + first[after:]
    grown = len(first) - at - 12
    first = first[: at + 8] + grown.to_bytes(4, "little") + first[at + 12 :]
    packer = zlib.compressobj(9, wbits=-15)
    file.write_bytes(first + packer.compress(content[end:] + bytes(2**26)) + packer.flush())
    assert file.stat().st_size < 2**18
    monkeypatch.setenv(LIMIT, str(2**-5))  # 32 MiB
    with pytest.raises(InputError, match=r"dcm: decompresses to more than the limit of 0\.03125 GiB"):
        check_dicom(file)
