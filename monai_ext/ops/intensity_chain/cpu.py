"""Chains in C++: pointwise steps fused in cache-sized blocks, statistics gathered on the way."""

from __future__ import annotations

import ctypes
from array import array
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from monai_ext.ops import cpu_build
from monai_ext.ops.intensity_chain import reference
from monai_ext.ops.intensity_chain.axis_maps import coarse_size

Step = Mapping[str, Any]
_KINDS = {"noise": 0, "blur": 1, "brightness": 2, "contrast": 3, "low_resolution": 5, "gamma": 6}
_CONTRAST_ZERO = 4

_run = cpu_build.load("intensity_chain").intensity_chain
_run.restype = ctypes.c_int
_run.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, *[ctypes.c_void_p] * 5, ctypes.c_int]


def intensity_chain(images: torch.Tensor, chains: Sequence[Sequence[Step]]) -> torch.Tensor:
    """As the public function, for float32; float64 is left to the reference."""
    if images.dtype != torch.float32:
        return reference.intensity_chain(images, chains)
    images = images.contiguous()
    out = torch.empty_like(images)
    size = [1, *images.shape[2:]] if images.ndim == 4 else list(images.shape[2:])
    starts, kinds, offsets, values = array("q", [0]), array("i"), array("q"), array("d")
    for chain in chains:
        for step in chain:
            kinds.append(_CONTRAST_ZERO if step.get("about") == "zero" else _KINDS[step["name"]])
            offsets.append(len(values))
            values.extend(_values(step, size))
        starts.append(len(kinds))
    arrays: list[array[Any]] = [array("q", size), starts, kinds, offsets, values]
    addresses = [a.buffer_info()[0] for a in arrays]
    samples, channels = images.shape[:2]
    if _run(images.data_ptr(), out.data_ptr(), samples, channels, *addresses, torch.get_num_threads()):
        raise MemoryError(f"intensity_chain: no memory for two channels of {size} voxels")
    return out


def _values(step: Step, size: Sequence[int]) -> Sequence[float]:
    """Parameters in the order in which the kernel reads them; a 2D image is one plane, which is left as it is."""
    name = step["name"]
    if name == "noise":
        return [step["std"], step["seed"] & 0xFFFFFFFF, step["seed"] >> 32]
    if name == "gamma":
        return [step["invert"], step["keep_stats"], *step["exponent"]]
    if name == "blur":
        return [sigma for row in step["sigma"] for sigma in [0.0] * (3 - len(row)) + list(row)]
    if name == "low_resolution":
        rows = ([1.0] * (3 - len(row)) + list(row) for row in step["zoom"])
        return [coarse_size(n, zoom) for row in rows for n, zoom in zip(size, row, strict=True)]
    return step["factor"]
