"""Reading of weight files of many origins: one flat state dict out of whatever holds it."""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from monai_ext.archive_checksum import DamagedArchive, check_archive
from monai_ext.errors import InputError
from monai_ext.networks.numpy_numbers import number_of_bytes
from monai_ext.networks.safetensors_file import is_safetensors, read_safetensors
from monai_ext.tensor_loading import load_bounded, out_of_memory

# averaged weights first: they are what a published accuracy was measured with; `network` and `average` are last.pt's
CONTAINERS = (
    "state_dict_ema", "model_ema", "ema_state_dict", "average", "weights",
    "state_dict", "model_state_dict", "model", "network",
)  # fmt: skip
PREFIXES = ("module.", "_orig_mod.", "model.")
LFS_POINTER = b"version https://git-lfs"
# beside tensors, training scripts store their arguments and the best score; neither type runs code when it is loaded
HARMLESS_TYPES: list[Any] = [
    argparse.Namespace,
    np.dtype,
    type(np.dtype("float64")),
    type(np.dtype("float32")),
    (number_of_bytes, "numpy.core.multiarray.scalar"),
    (number_of_bytes, "numpy._core.multiarray.scalar"),
]


def read_weights(path: str | Path) -> tuple[dict[str, torch.Tensor], str]:
    """State dict of a `.pt`, `.pth`, `.pth.tar` or `.safetensors` file, told apart by content; loads no code.

    A training checkpoint is searched for its state dict, averaged weights before others; prefixes that wrappers leave
    (`module.`, `_orig_mod.`, `model.`) go.

    Returns:
        tensors by name, on the CPU, and the keys under which they were found (`state_dict_ema`), empty at the top.

    Raises:
        InputError: the file is missing, damaged, holds code, or holds no tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: weight file not found. Cure: the path of a .pt, .pth, .tar or .safetensors file")
    if path.stat().st_size == 0:
        raise InputError(f"{path}: is empty. Cure: fetch it again")
    if is_safetensors(path):
        found, place = dict(read_safetensors(path)), ""
    else:
        found, place = _state_dict(_unpickled(path), "")
    if not found:
        raise InputError(f"{path}: holds no state dict. Cure: a file of torch.save(network.state_dict(), path)")
    state: dict[str, torch.Tensor] = {}
    for name, tensor in found.items():
        bare = _without_prefixes(name)
        if bare in state:
            raise InputError(f"{path}: holds {bare} twice, once as {name}. Cure: a file with one state dict")
        state[bare] = tensor
    return state, place


def _unpickled(path: Path) -> Any:
    with path.open("rb") as file:
        if file.read(len(LFS_POINTER)) == LFS_POINTER:
            raise InputError(f"{path}: is a pointer of Git LFS, not the file. Cure: git lfs pull")
    try:
        # an open file: by a name ending in .safetensors PyTorch would ask for that library
        with path.open("rb") as file, torch.serialization.safe_globals(HARMLESS_TYPES), warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # TorchScript, which is refused in the next moment
            check_archive(file)
            return load_bounded(file)
    except DamagedArchive as error:
        raise InputError(f"{path}: is no file of weights alone ({error}). Cure: fetch or copy it again") from error
    except MemoryError as error:
        raise InputError(out_of_memory(path, path.stat().st_size)) from error
    except Exception as error:  # a damaged file makes the unpickler raise nearly anything
        reason = " ".join(str(error).split())
        raise InputError(
            f"{path}: is no file of weights alone ({reason:.240}). Cure: save the state dict by itself, "
            "torch.save(network.state_dict(), path), where the file comes from"
        ) from error


def _state_dict(content: Any, place: str) -> tuple[dict[str, torch.Tensor], str]:
    if not isinstance(content, Mapping):
        return {}, place
    for name in CONTAINERS:
        inner = content.get(name)
        if isinstance(inner, Mapping) and inner:
            found = _state_dict(inner, f"{place}.{name}".lstrip("."))
            if found[0]:
                return found
    return {k: v for k, v in content.items() if isinstance(k, str) and isinstance(v, torch.Tensor)}, place


def _without_prefixes(name: str) -> str:
    while name.startswith(PREFIXES):
        name = name.partition(".")[2]
    return name
