"""Networks as TorchScript files that load without this package."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from monai.data.torchscript_utils import load_net_with_metadata, save_net_with_metadata
from torch import nn

from monai_ext.atomic_files import replacing

WAYS = ("script", "trace")


def export_torchscript(
    module: nn.Module,
    path: str | Path,
    example: torch.Tensor | None = None,
    way: str = "script",
    about: Mapping[str, Any] | None = None,
    texts: Mapping[str, str] | None = None,
) -> Path:
    """Write a network in evaluation mode, in MONAI's form (`monai.data.load_net_with_metadata` reads it).

    Args:
        module: on the CPU; its mode is restored.
        path: ends in `.ts`.
        example: input `[B, ...]`, needed to trace.
        way: `script` keeps all branches; `trace` records what one input runs.
        about: values for the metadata inside of the file; JSON can hold them.
        texts: further files inside of the file, name to content.

    Raises:
        ValueError: the way is unknown, or tracing has no example.
    """
    if way not in WAYS or (way == "trace" and example is None):
        raise ValueError(f"way must be one of {', '.join(WAYS)}, and tracing needs an example; got {way!r}")
    path = Path(path)
    was_training = module.training
    module.eval()
    try:
        # torch announces TorchScript's successor at every call; MONAI and servers read TorchScript
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            # exported files are compared with the network by those who call this: no second look at the trace
            scripted = (
                torch.jit.script(module) if way == "script" else torch.jit.trace(module, example, check_trace=False)
            )
            with replacing(path) as partial:
                save_net_with_metadata(
                    scripted,
                    str(partial),
                    include_config_vals=False,  # they hold the time of day: equal networks would be unequal files
                    append_timestamp=False,
                    meta_values=dict(about or {}),
                    more_extra_files={name: text.encode() for name, text in (texts or {}).items()},
                )
    finally:
        module.train(was_training)
    return path


def torchscript_runner(path: str | Path) -> Callable[[torch.Tensor], torch.Tensor]:
    """Load a file and return a function from an input to its output, on the CPU."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        network = load_net_with_metadata(str(path))[0].eval()

    def run(x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return network(x)

    return run
