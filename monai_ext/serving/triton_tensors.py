"""Arrays from and to Triton's Python backend by DLPack.

The backend's own way, `Tensor.as_numpy` and `Tensor(name, array)`, depends on numpy's binary interface. Programs built
for numpy 1 read wrong strides from numpy 2: no error, but a volume of one repeated value, and answers of no bytes.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np


class _GivenAway:
    """An array for a consumer that takes DLPack's memory over and frees it."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array

    def __dlpack_device__(self) -> tuple[int, int]:
        return (1, 0)  # memory of the processor

    def __dlpack__(self, **options: Any) -> Any:
        capsule = self.array.__dlpack__()
        # the backend renames the capsule otherwise than numpy expects, whose destructor would print an error each time
        ctypes.pythonapi.PyCapsule_SetDestructor(ctypes.py_object(capsule), None)
        return capsule


def array_of(tensor: Any) -> np.ndarray:
    """The values of a request's tensor, which may not be written to."""
    return np.from_dlpack(tensor)


def tensor_of(backend: Any, name: str, array: np.ndarray) -> Any:
    """A tensor of a response.

    Args:
        backend: module `triton_python_backend_utils`.
        name: of the output.
        array: any shape; float32 or unsigned integers.
    """
    array = np.ascontiguousarray(array)
    # DLPack has no word for memory that may not be written to
    return backend.Tensor.from_dlpack(name, _GivenAway(array if array.flags.writeable else array.copy()))
