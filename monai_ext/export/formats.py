"""Formats of exports: which are known, what they go with, the packages they need and the versions of those."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from monai_ext.errors import Problems
from monai_ext.export.half_precision import PRECISIONS
from monai_ext.export.onnx_packages import onnx_package
from monai_ext.export.tensorrt_engine import tensorrt_package

FORMATS = ("torchscript", "onnx")
ALL_FORMATS = (*FORMATS, "tensorrt")
ONNX_PACKAGES = ("onnx", "onnxruntime")


def check_formats(
    problems: Problems,
    formats: Sequence[str],
    precision: str,
    known: Sequence[str] = ALL_FORMATS,
    key: str = "--format",
) -> None:
    """Add to `problems` what is wrong with formats and precision: unknown names, none at all, or no match."""
    if not formats or set(formats) - set(known):
        problems.add(f"{key} {','.join(formats)}", "is not known", f"some of {', '.join(known)}")
    if precision not in PRECISIONS:
        problems.add(f"--precision {precision}", "is not known", f"one of {', '.join(PRECISIONS)}")
    if precision == "bfloat16" and set(formats) & {"onnx", "tensorrt"}:
        problems.add("--precision bfloat16", "has no ONNX operators on processors", "float16, or torchscript")


def require_packages(formats: Sequence[str]) -> None:
    """Look for the packages of some formats; TensorRT builds its engine from an ONNX file.

    Raises:
        InputError: one is not installed, or TensorRT has no GPU.
    """
    if "tensorrt" in formats:
        tensorrt_package()
    if set(formats) & {"onnx", "tensorrt"}:
        for name in ONNX_PACKAGES:
            onnx_package(name)


def package_versions(formats: Sequence[str]) -> dict[str, str]:
    """Versions of the packages that wrote, and ran, files of some formats."""
    versions = {"torch": str(torch.__version__)}
    if set(formats) & {"onnx", "tensorrt"}:
        versions |= {name: str(onnx_package(name).__version__) for name in ONNX_PACKAGES}
    if "tensorrt" in formats:
        versions["tensorrt"] = str(tensorrt_package().__version__)
    return versions
