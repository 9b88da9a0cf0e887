"""Formats that are refused, and packages that are missed before any work."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import pytest
import torch

from monai_ext.errors import InputError, Problems
from monai_ext.export.formats import ALL_FORMATS, FORMATS, check_formats, package_versions, require_packages


def refusal(formats: Sequence[str], precision: str = "float32", known: Sequence[str] = ALL_FORMATS) -> str:
    problems = Problems("export")
    check_formats(problems, formats, precision, known)
    try:
        problems.raise_if_any()
    except InputError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(
    ("formats", "precision", "message"),
    [
        (("onnx", "keras"), "float32", "--format onnx,keras: is not known"),
        ((), "float32", "is not known"),
        (("onnx",), "float8", "--precision float8: is not known"),
        (("torchscript", "onnx"), "bfloat16", "has no ONNX operators"),
        (("tensorrt",), "bfloat16", "has no ONNX operators"),
    ],
)
def test_what_is_refused(formats: Sequence[str], precision: str, message: str) -> None:
    said = refusal(formats, precision)
    assert message in said
    assert "Cure: " in said


def test_what_passes() -> None:
    assert refusal(ALL_FORMATS) == ""
    assert refusal(("torchscript",), "bfloat16") == ""
    assert "--format tensorrt: is not known" in refusal(("tensorrt",), known=FORMATS)


@pytest.mark.parametrize("name", ["onnx", "onnxruntime"])
def test_missing_packages(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    require_packages(("torchscript",))
    with pytest.raises(InputError, match=rf"needs {name}, which is not installed.*Cure: pip install"):
        require_packages(("torchscript", "onnx"))


def test_missing_tensorrt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(InputError, match=r"needs tensorrt, which is not installed.*Cure: pip install tensorrt"):
        require_packages(("tensorrt",))


def test_versions_are_those_of_the_formats() -> None:
    onnx, onnxruntime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    assert package_versions(("torchscript",)) == {"torch": str(torch.__version__)}
    assert package_versions(FORMATS) == {
        "torch": str(torch.__version__),
        "onnx": onnx.__version__,
        "onnxruntime": onnxruntime.__version__,
    }
