"""Predictions of a packed test case against the expected ones: what passes and what does not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from monai_ext.errors import InputError
from monai_ext.export.packed_comparison import compare_output


def test_comparison_of_outputs(tmp_path: Path) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    a.mkdir()
    b.mkdir()

    def both(name: str, write: Callable[[Path, Any], object], first: Any, second: Any) -> Any:
        write(a / name, first)
        write(b / name, second)
        return compare_output(a / name, b / name)

    def nifti(path: Path, shift: float) -> None:
        nibabel.Nifti1Image(np.eye(4, dtype=np.uint8)[..., None], np.eye(4) + shift).to_filename(path)

    values = np.zeros((2, 3), dtype=np.float32)
    assert both("case.npy", np.save, values, values + 5e-4).passes
    assert not both("case.npy", np.save, values, values + 2e-3).passes
    assert not both("case.npy", np.save, values, values * np.nan).passes
    with pytest.raises(InputError, match="has shape"):
        both("case.npy", np.save, values, values[:1])
    assert both("case.nii.gz", nifti, 0.0, 5e-4).value == 1
    with pytest.raises(InputError, match=r"lies 0\.01 mm from where it should"):
        both("case.nii.gz", nifti, 0.0, 0.01)

    def text(path: Path, content: Any) -> None:
        path.write_text(json.dumps(content))

    def classes(**probabilities: float) -> dict[str, Any]:
        return {
            "predictions": [{"file": "x", "top": [{"class": k, "probability": p} for k, p in probabilities.items()]}]
        }

    # equally likely classes may change places
    assert both("predictions.json", text, classes(a=0.5, b=0.5), classes(b=0.5001, a=0.4999)).passes
    assert not both("predictions.json", text, classes(a=0.6, b=0.4), classes(b=0.6, a=0.4)).passes
    with pytest.raises(InputError, match="lists other images or classes"):
        both("predictions.json", text, classes(a=1.0), classes(b=1.0))

    def found(*scores: float, x: float = 0.0, kind: int = 1) -> list[dict[str, Any]]:
        return [{"bbox": [10.0 * n + x, 0, 8, 8], "score": s, "category_id": kind} for n, s in enumerate(scores)]

    assert both("detections.json", text, found(0.9, 0.8), found(0.9, 0.8)[::-1]).passes
    assert both("detections.json", text, [], []).about.endswith("says little")
    for other in (found(0.9), found(0.9, 0.8, 0.7), found(0.9, 0.7), found(0.9, 0.8, x=2), found(0.9, 0.8, kind=2), []):
        assert not both("detections.json", text, found(0.9, 0.8), other).passes
    with pytest.raises(InputError, match="was not written"):
        compare_output(a / "detections.json", b / "none" / "detections.json")
    (b / "detections.json").write_text("[{")
    with pytest.raises(InputError, match="cannot be compared"):
        compare_output(a / "detections.json", b / "detections.json")
