"""Pickles of numpy arrays are read, and no pickle runs code."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from monai_ext.errors import InputError
from monai_ext.networks.mask_rcnn.numpy_pickle import read_numpy_pickle

# what Python 2 wrote for {"a": numpy.array([1, 2], "float32")} in protocol 0, as Detectron's files are
PYTHON_2 = (
    b"(dp0\nS'a'\np1\ncnumpy.core.multiarray\n_reconstruct\np2\n(cnumpy\nndarray\np3\n(I0\ntp4\nS'b'\np5\ntp6\nRp7\n"
    b"(I1\n(I2\ntp8\ncnumpy\ndtype\np9\n(S'f4'\np10\nI0\nI1\ntp11\nRp12\n(I3\nS'<'\np13\nNNNI-1\nI-1\nI0\ntp14\nb"
    b"I00\nS'\\x00\\x00\\x80?\\x00\\x00\\x00@'\np15\ntp16\nbs."
)


class Ran:
    """Makes a folder when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def written(path: Path, content: Any, protocol: int = 2) -> Path:
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    return path


@pytest.mark.parametrize("protocol", range(6))
def test_arrays_of_every_protocol(tmp_path: Path, protocol: int) -> None:
    arrays = {
        "a": np.arange(6, dtype=np.float32).reshape(2, 3),
        "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "count": np.array(7),
        "empty": np.zeros((0, 4), np.float16),
    }
    found, author = read_numpy_pickle(written(tmp_path / "a.pkl", arrays, protocol))
    assert author == ""
    assert set(found) == set(arrays)
    for name, array in arrays.items():
        assert torch.equal(found[name], torch.from_numpy(np.array(array)))
    found["a"].add_(1)  # memory of its own


def test_files_of_python_2(tmp_path: Path) -> None:
    (tmp_path / "a.pkl").write_bytes(PYTHON_2)
    assert read_numpy_pickle(tmp_path / "a.pkl")[0]["a"].tolist() == [1, 2]


def test_what_lies_beside_the_weights(tmp_path: Path) -> None:
    weights = {"w": np.ones(2), "w_momentum": np.ones(2), "names": np.array(["a"]), "note": "b", 3: np.ones(1)}
    for key in ("model", "blobs"):
        content = {key: weights, "__author__": "Caffe2", "matching_heuristics": True, "score": np.float64(0.3)}
        found, author = read_numpy_pickle(written(tmp_path / "a.pkl", content))
        assert (list(found), author) == (["w"], "Caffe2")


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_code_is_not_run(tmp_path: Path, protocol: int) -> None:
    mark = tmp_path / "mark"
    path = written(tmp_path / "a.pkl", {"model": {"w": np.ones(2), "x": Ran(mark)}}, protocol)
    with pytest.raises(InputError, match=r"no pickle of numpy arrays alone \(asks for (posix|nt)\.mkdir\)"):
        read_numpy_pickle(path)
    assert not mark.exists()
    pickle.loads(path.read_bytes())
    assert mark.exists()


def test_other_encodings_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.pkl").write_bytes(b"c_codecs\nencode\n(Va\nVzip\ntR.")
    with pytest.raises(InputError, match="encoding zip"):
        read_numpy_pickle(tmp_path / "a.pkl")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (pickle.dumps([1, 2]), "holds list, not names and arrays"),
        (pickle.dumps({"a": 1}), "holds no arrays"),
        (pickle.dumps({"a": np.ones(50)})[:-40], "is no pickle of numpy arrays alone"),
        (b"", "is no pickle of numpy arrays alone"),
        (pickle.dumps({"a": np.array([object()], dtype=object)}, 2), "asks for"),
    ],
    ids=["list", "numbers", "cut", "empty", "objects"],
)
def test_damaged_files(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "a.pkl").write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_numpy_pickle(tmp_path / "a.pkl")
    with pytest.raises(InputError, match="weight file not found"):
        read_numpy_pickle(tmp_path / "none.pkl")
