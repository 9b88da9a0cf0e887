"""Arrays as tensors without a copy, also where they are read-only memory maps."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

_TYPES = {np.dtype(name) for name in ("f4", "f8", "f2", "u1", "i1", "i2", "i4", "i8")}  # in native byte order


class _AsWritable:
    """Says of an array that it may be written to, and keeps it alive."""

    def __init__(self, array: np.ndarray) -> None:
        interface = array.__array_interface__
        self.__array_interface__: dict[str, Any] = {**interface, "data": (interface["data"][0], False)}
        self.array = array


def stored_tensor(array: np.ndarray | torch.Tensor) -> torch.Tensor | None:
    """The array as a tensor that shares its memory, only to be read: writing to a read-only map ends the process.

    `torch.from_numpy` warns of every array that is not writable.

    Args:
        array: array, memory map or tensor.

    Returns:
        CPU tensor of the same shape and type, or None where the op cannot read it as it lies: on another device, in
        foreign byte order, of a type without a tensor, or with voxels along the last axis apart.
    """
    if isinstance(array, torch.Tensor):
        adjacent = array.shape[-1:] == (1,) or array.stride()[-1:] == (1,)
        return array if array.device.type == "cpu" and adjacent else None
    size = array.itemsize
    if array.dtype not in _TYPES or array.strides[-1] != size or any(step < 0 or step % size for step in array.strides):
        return None
    return torch.from_numpy(array if array.flags.writeable else np.asarray(_AsWritable(array)))
