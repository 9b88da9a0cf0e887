"""Files of tensors that ask for memory: refused, and the memory is not taken."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from forked_child import in_child
from monai_ext.archive_checksum import COMMENT_BYTES, MARK
from monai_ext.engines import checkpoint_files
from monai_ext.engines.checkpoint_files import LAST, PREVIOUS, load_newest, load_tensors
from monai_ext.errors import InputError
from monai_ext.networks.mask_rcnn.numpy_pickle import read_numpy_pickle
from monai_ext.networks.weight_files import read_weights
from monai_ext.tensor_loading import ALWAYS_ALLOWED

resource = pytest.importorskip("resource", reason="measures memory as POSIX does")
Reader = Callable[[Path], Any]
READERS: tuple[Reader, ...] = (read_weights, lambda path: load_tensors(path, "train again"))
FILLED = 2**31


class Call:
    """Pickled as a call of a function."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


def refused_in_little_memory(reader: Reader, path: Path, words: str, report: Path) -> None:
    def body() -> None:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with pytest.raises(InputError, match=rf"{path.name}.*{words}.*Cure"):
            reader(path)
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**18  # KiB; FILLED is 8 times as much

    assert in_child(body, report) == 0


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("archive", [True, False])
def test_a_call_that_fills_memory(tmp_path: Path, reader: Reader, archive: bool) -> None:
    path = tmp_path / "w.pt"
    content = {"a": torch.ones(2), "b": Call(bytearray, FILLED)}
    torch.save(content, path, _use_new_zipfile_serialization=archive)
    assert path.stat().st_size < 3000
    refused_in_little_memory(reader, path, "bytearray", tmp_path / "report")


@pytest.mark.parametrize("reader", READERS)
def test_one_number_spread_over_a_tensor(tmp_path: Path, reader: Reader) -> None:
    path = tmp_path / "w.pt"
    torch.save({"a": torch.ones(1).expand(10**6, 10**6)}, path)
    refused_in_little_memory(reader, path, "claim 4000000000000 bytes", tmp_path / "report")
    torch.save({"a": torch.ones(1).expand(ALWAYS_ALLOWED // 8)}, path)  # a small one is what some buffers are
    reader(path)


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("strange", [torch.empty(10**6, 10**6, device="meta"), torch.ones(2).to_sparse()])
def test_tensors_without_values_of_their_own(tmp_path: Path, reader: Reader, strange: torch.Tensor) -> None:
    torch.save({"a": torch.ones(2), "b": [strange]}, tmp_path / "w.pt")
    with pytest.raises(InputError, match=r"w\.pt.*Cure"):
        reader(tmp_path / "w.pt")


def test_a_bomb_with_a_valid_checksum(tmp_path: Path) -> None:
    import hashlib
    import struct

    plain, path = tmp_path / "plain.pt", tmp_path / "w.pt"
    torch.save({"a": torch.zeros(10**6)}, plain)
    with zipfile.ZipFile(plain) as source, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as target:
        for part in source.infolist():
            target.writestr(part.filename, source.read(part))
    content = path.read_bytes()[:-2] + struct.pack("<H", COMMENT_BYTES)
    path.write_bytes(content + MARK + hashlib.sha256(content).hexdigest().encode())
    assert path.stat().st_size < 50_000
    for reader in READERS:
        with pytest.raises(InputError, match="compressed"):
            reader(path)


def test_want_of_memory_is_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # the older checkpoint must not be used, and hours of work thrown away, because memory was short for a moment
    from monai_ext.atomic_files import save_tensors

    for name in (LAST, PREVIOUS):
        save_tensors(tmp_path / name, {"a": torch.ones(2)})

    def short(*_: object, **__: object) -> None:
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes")

    monkeypatch.setattr(torch, "load", short)
    with pytest.raises(InputError, match=r"last\.pt: does not fit into memory.*Cure") as caught:
        load_newest([tmp_path / LAST, tmp_path / PREVIOUS], "train again")
    assert not isinstance(caught.value, checkpoint_files.UnreadableCheckpoint)
    with pytest.raises(InputError, match=r"last\.pt: does not fit into memory.*Cure"):
        read_weights(tmp_path / LAST)


@pytest.mark.parametrize(
    "content",
    [
        # an array made by a call, of a size that the file does not hold
        {"model": {"a": Call(np.ndarray, (FILLED,), np.dtype("u1"))}},
        {"model": {"a": Call(np.zeros(1).__reduce__()[0], np.ndarray, (FILLED,), b"b"), "b": np.ones(2)}},
        {"model": {"a": Call(np.float64(0).__reduce__()[0], np.dtype(f"V{FILLED - 8}")), "b": np.ones(2)}},
    ],
)
def test_pickles_of_arrays_take_no_memory_either(tmp_path: Path, content: Any) -> None:
    path = tmp_path / "w.pkl"
    path.write_bytes(pickle.dumps(content, protocol=2))

    def body() -> None:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        try:
            found, _ = read_numpy_pickle(path)
        except InputError as error:
            assert "Cure" in str(error)  # noqa: PT017
        else:
            assert sum(tensor.numel() for tensor in found.values()) <= 2
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**18

    assert in_child(body, tmp_path / "report") == 0


def test_a_far_place_in_the_memory_of_a_pickle(tmp_path: Path) -> None:
    path = tmp_path / "w.pkl"
    path.write_bytes(b"\x80\x02]r\xff\xff\xff\x0f.")  # an empty list, kept under number 2^28 - 1
    refused_in_little_memory(read_numpy_pickle, path, "holds list", tmp_path / "report")


def test_scores_of_numpy_beside_weights_load(tmp_path: Path) -> None:
    torch.save({"model": {"a": torch.ones(2)}, "best": np.float64(0.5)}, tmp_path / "w.pt")
    state, place = read_weights(tmp_path / "w.pt")
    assert place == "model"
    assert torch.equal(state["a"], torch.ones(2))
