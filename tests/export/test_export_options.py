"""Options of the command `export`: what a command line makes of them is checked before anything is computed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from monai_ext.errors import InputError
from monai_ext.export.export_command import export_model
from monai_ext.export.export_options import checked_options, require_switch


def export(
    model: Any, folder: Any, formats: Any, output: str = "logits", dynamic: bool = False, tolerance: float = 0.0,
    opset: int = 17, images: str | Path = "",
) -> None:  # fmt: skip
    raise AssertionError("options are checked without a call")


def test_options_that_fit() -> None:
    given = {"dynamic": True, "tolerance": 1, "opset": 18, "images": 5, "output": "labels"}
    assert checked_options(export, "nnunet", given) == {**given, "images": "5"}  # a folder may be called 5
    assert checked_options(export, "nnunet", {"images": Path("a b")}) == {"images": "a b"}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"dynamic": "false"}, "--dynamic false: is neither True nor False. Cure: --dynamic True"),
        ({"dynamic": 1}, "--dynamic 1: is neither"),
        ({"tolerance": "abc"}, "--tolerance abc: is no number"),
        ({"tolerance": float("nan")}, "--tolerance nan: is no number from 0 on"),
        ({"tolerance": float("inf")}, "--tolerance inf: is no number from 0 on"),
        ({"tolerance": -1}, "--tolerance -1: is no number from 0 on"),
        ({"tolerance": True}, "--tolerance True: is no number"),
        ({"opset": 17.5}, "--opset 17.5: is no whole number. Cure: for example --opset 17"),
        (
            {"colour": 1, "folder": 2},
            "--colour, --folder: no option of the export of nnunet. Cure: --output,",
        ),
    ],
)
def test_options_that_do_not_fit(given: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        checked_options(export, "nnunet", given)
    assert message in str(caught.value)


def test_all_at_once_and_before_the_model_is_opened(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="2 problems"):
        checked_options(export, "nnunet", {"dynamic": "no", "opset": "x"})
    for value in ("false", "no", 0, None):
        with pytest.raises(InputError, match=f"--overwrite {value}: is neither True nor False"):
            export_model(tmp_path / "nowhere", "packed", overwrite=value)  # type: ignore[arg-type]
    require_switch("overwrite", False)
