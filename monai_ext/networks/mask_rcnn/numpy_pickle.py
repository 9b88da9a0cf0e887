"""Pickle files of numpy arrays, the form of detectron2's and Detectron's weights, read without running code."""

from __future__ import annotations

import pickle
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from monai_ext.errors import InputError
from monai_ext.networks.numpy_numbers import number_of_bytes
from monai_ext.tensor_loading import out_of_memory

_CURE = "a file of detectron2's model zoo, or its state dict by torch.save"


def _as_bytes(text: str, encoding: str = "latin1") -> bytes:
    """What Python 3 writes for bytes in old protocols; other encodings of the codecs module are not needed."""
    if encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError(f"encoding {encoding}")
    return text.encode("latin1")


def _no_bytes() -> bytes:
    """And for no bytes at all."""
    return b""


class _ArrayName:
    """Stands for `numpy.ndarray`, which a pickle names and must not call: `ndarray((10**6, 10**6))`."""


def _empty_array(kind: Any, *_: Any) -> np.ndarray:
    """What pickles begin an array with; numpy writes a size of 0 there, others would take memory."""
    if kind is not _ArrayName:
        raise pickle.UnpicklingError("asks for an array of another kind")
    return np.zeros(0, dtype=np.int8)


# taken from an array itself since its module's name changed with numpy 2
_FROM_BUFFER: Any = np.zeros(1).__reduce_ex__(5)[0]
_ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): _ArrayName,
    ("numpy", "dtype"): np.dtype,
    ("collections", "OrderedDict"): OrderedDict,
    ("_codecs", "encode"): _as_bytes,
    ("__builtin__", "bytes"): _no_bytes,
} | {
    (f"numpy.{core}.{module}", name): function
    for core in ("core", "_core")
    for module, name, function in (
        ("multiarray", "_reconstruct", _empty_array),
        ("multiarray", "scalar", number_of_bytes),
        ("numeric", "_frombuffer", _FROM_BUFFER),
    )
}


# the unpickler written in C fills a table as large as any number in the file that it is asked to remember a value under
class _ArrayUnpickler(pickle._Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"asks for {module}.{name}")
        return _ALLOWED[module, name]


def read_numpy_pickle(path: str | Path) -> tuple[dict[str, torch.Tensor], str]:
    """Arrays of a `.pkl` file as tensors.

    The file holds names and arrays, or has them under `model` or `blobs`. Whatever is no array of numbers stays out,
    and so do the momenta of Caffe2's training.

    Returns:
        tensors by name, on the CPU, and the file's `__author__`, empty without one.

    Raises:
        InputError: the file is missing or damaged, asks for anything but numpy arrays, or holds none.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            content = _ArrayUnpickler(file, encoding="latin1").load()
    except FileNotFoundError:
        raise InputError(f"{path}: weight file not found. Cure: the path of a .pkl file") from None
    except MemoryError as error:
        raise InputError(out_of_memory(path, path.stat().st_size)) from error
    except Exception as error:  # a damaged pickle may raise anything
        reason = " ".join(str(error).split())
        raise InputError(f"{path}: is no pickle of numpy arrays alone ({reason:.240}). Cure: {_CURE}") from error
    if not isinstance(content, Mapping):
        raise InputError(f"{path}: holds {type(content).__name__}, not names and arrays. Cure: {_CURE}")
    author = content.get("__author__", "")
    held = next((content[key] for key in ("model", "blobs") if isinstance(content.get(key), Mapping)), content)
    tensors = {
        name: torch.from_numpy(np.array(array))
        for name, array in held.items()
        if isinstance(name, str) and _is_numbers(array) and not name.endswith("_momentum")
    }
    if not tensors:
        raise InputError(f"{path}: holds no arrays. Cure: {_CURE}")
    return tensors, author if isinstance(author, str) else ""


def _is_numbers(array: Any) -> bool:
    return isinstance(array, np.ndarray) and array.dtype.kind in "fiub" and array.dtype.isnative
