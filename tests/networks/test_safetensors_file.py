"""The safetensors reader against bytes written by the format's rules, whole and damaged."""

from __future__ import annotations

import json
import random
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from monai_ext.errors import InputError
from monai_ext.networks.safetensors_file import is_safetensors, read_safetensors

VALUES = {
    "F64": np.array([[1.5, -2.0]], "<f8"), "F32": np.array([0.25, 3e38, 0.0], "<f4"), "F16": np.array([[1.5]], "<f2"),
    "I64": np.array(-(2**40), "<i8"), "I32": np.array([7, -7], "<i4"), "I16": np.array([300], "<i2"),
    "I8": np.array([-3], "i1"), "U8": np.array([255, 0], "u1"), "BOOL": np.array([True, False], "?"),
}  # fmt: skip


def written(path: Path, header: dict[str, Any], body: bytes, pad: int = 0) -> Path:
    text = json.dumps(header).encode() + b" " * pad
    path.write_bytes(struct.pack("<Q", len(text)) + text + body)
    return path


def whole(path: Path, pad: int = 0) -> Path:
    """One tensor of every type that NumPy has, in an order of its own, and an empty one."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    body = b""
    for kind, values in VALUES.items():
        data = values.tobytes()
        header[kind] = {"dtype": kind, "shape": list(values.shape), "data_offsets": [len(body), len(body) + len(data)]}
        body += data
    header["empty"] = {"dtype": "F32", "shape": [0, 3], "data_offsets": [len(body), len(body)]}
    return written(path, dict(sorted(header.items())), body, pad)


@pytest.mark.parametrize("pad", [0, 1, 5])
def test_every_type_arrives(tmp_path: Path, pad: int) -> None:
    path = whole(tmp_path / "x.safetensors", pad)
    found = read_safetensors(path)
    assert is_safetensors(path)
    assert set(found) == {*VALUES, "empty"}
    for kind, values in VALUES.items():
        assert torch.equal(found[kind], torch.from_numpy(values.copy())), kind
        assert found[kind].dtype == torch.from_numpy(values.copy()).dtype
    assert found["empty"].shape == (0, 3)


def test_types_that_numpy_lacks(tmp_path: Path) -> None:
    """bfloat16 is the upper half of float32; 1.5 is 0x3FC0. In float8, 1.5 is 0x3C (e4m3) and 0x3E (e5m2)."""
    header = {
        "a": {"dtype": "BF16", "shape": [2], "data_offsets": [0, 4]},
        "b": {"dtype": "F8_E4M3", "shape": [1], "data_offsets": [4, 5]},
        "c": {"dtype": "F8_E5M2", "shape": [1], "data_offsets": [5, 6]},
    }
    found = read_safetensors(written(tmp_path / "x", header, bytes([0xC0, 0x3F, 0xC0, 0xBF, 0x3C, 0x3E])))
    assert found["a"].tolist() == [1.5, -1.5]
    assert found["a"].dtype == torch.bfloat16
    assert (found["b"].float().item(), found["c"].float().item()) == (1.5, 1.5)


def entry(begin: int, end: int, shape: list[Any] | None = None, dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape if shape is not None else [(end - begin) // 4], "data_offsets": [begin, end]}


@pytest.mark.parametrize(
    ("header", "size", "message"),
    [
        ({"a": entry(0, 8)}, 7, "16 bytes are due|bytes are due"),
        ({"a": entry(0, 8)}, 12, "bytes are due"),
        ({"a": entry(0, 4), "b": entry(8, 12)}, 12, "b begins at byte 8, where 4 is due"),
        ({"a": entry(0, 8), "b": entry(4, 12)}, 12, "b begins at byte 4, where 8 is due"),
        ({"a": entry(0, 8, [3])}, 8, r"a of shape \[3\] and type F32 cannot lie in bytes 0 to 8"),
        ({"a": entry(0, 8, [-2])}, 8, "cannot lie"),
        ({"a": entry(8, 0, [2])}, 8, "cannot lie"),
        ({"a": entry(0, 8, ["2"])}, 8, "lacks|cannot lie"),
        ({"a": {"dtype": "F32"}}, 8, "a lacks dtype, shape or data_offsets"),
        ({"a": [1, 2]}, 8, "a lacks dtype, shape or data_offsets"),
        ({"a": entry(0, 8, [1], "C64")}, 8, "a is of type C64, which is not supported"),
    ],
)
def test_broken_rules_are_named(tmp_path: Path, header: dict[str, Any], size: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_safetensors(written(tmp_path / "x.safetensors", header, bytes(size)))


def test_header_that_is_none(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    for content, message in (
        (struct.pack("<Q", 100) + b"{}", "a header of 100 bytes does not fit"),
        (struct.pack("<Q", 2**63) + b"{}", "does not fit"),
        (b"abc", "does not fit"),
        (struct.pack("<Q", 2) + b"{x", "is not JSON"),
        (struct.pack("<Q", 2) + b"[]", "is no object"),
    ):
        path.write_bytes(content)
        with pytest.raises(InputError, match=message):
            read_safetensors(path)


def test_any_cut_and_any_damage_is_an_input_error_or_harmless(tmp_path: Path) -> None:
    """No other error, whatever happened to the bytes of the header."""
    data = whole(tmp_path / "x.safetensors").read_bytes()
    drawn = random.Random(0)
    path = tmp_path / "y.safetensors"
    refused = 0
    for attempt in range(150):
        if attempt < 50:
            spoilt = data[: drawn.randrange(len(data))]
        else:
            place = drawn.randrange(len(data) - 60)
            spoilt = data[:place] + bytes([drawn.randrange(256)]) + data[place + 1 :]
        path.write_bytes(spoilt)
        try:
            read_safetensors(path)
        except InputError:
            refused += 1
    assert refused > 100


def test_other_files_are_told_apart(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    torch.save({"a": torch.ones(3)}, path)
    assert not is_safetensors(path)
    path.write_bytes(b"{")
    assert not is_safetensors(path)
