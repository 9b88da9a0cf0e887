"""Coded terms and colours of classes, from a file or by default; every mistake of the file is told at once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from monai_ext.datasets.segment_codes import TISSUE, SegmentCode, segment_codes
from monai_ext.errors import InputError

CLASSES = ["liver", "tumour"]
LIVER = ["10200004", "SCT", "Liver"]


def test_what_the_file_leaves_out_is_tissue_in_a_colour_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "codes.json").write_text(json.dumps({"liver": {"type": LIVER, "colour": [1, 2, 3]}}))
    found = segment_codes(tmp_path / "codes.json", CLASSES)
    assert list(found) == CLASSES
    assert found["liver"] == SegmentCode(TISSUE, tuple(LIVER), (1, 2, 3))
    default = segment_codes("", CLASSES)
    assert found["tumour"] == default["tumour"]
    assert {code.type for code in default.values()} == {TISSUE}
    assert len({code.colour for code in default.values()}) == 2


def test_every_mistake_is_told_at_once(tmp_path: Path) -> None:
    content = {
        "lung": {},
        "liver": {"type": ["10200004", "SCT"], "category": ["1" * 17, "SCT", "x" * 65], "color": [1, 2, 3]},
        "tumour": {"colour": [0, 0, 256]},
    }
    (tmp_path / "codes.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match="5 problems") as error:
        segment_codes(tmp_path / "codes.json", CLASSES)
    for words in (
        "lung: is no class of the model, which has liver, tumour",
        "liver.type: must be three texts (value, coding scheme, meaning), found ['10200004', 'SCT']",
        "found value of 17, meaning of 65",
        "liver.color: is unknown",
        "tumour.colour: must be three whole numbers of 0 to 255, found [0, 0, 256]",
    ):
        assert words in str(error.value)


@pytest.mark.parametrize("content", ["{", "[]", "\xff", '{"liver": 3}', '{"liver": {"colour": [true, 1, 1]}}'])
def test_files_of_another_form_are_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "codes.json").write_text(content, encoding="latin-1")
    with pytest.raises(InputError, match=r"codes\.json(.|\n)*Cure: write \{\"CLASS\""):
        segment_codes(tmp_path / "codes.json", CLASSES)


@pytest.mark.parametrize(
    ("colour", "lab"),
    [
        ((255, 255, 255), (100.0, 0.0, 0.0)),
        ((0, 0, 0), (0.0, 0.0, 0.0)),
        ((255, 0, 0), (54.29, 80.81, 69.89)),
        ((0, 255, 0), (87.82, -79.27, 80.99)),
        ((0, 0, 255), (29.57, 68.30, -112.03)),
    ],
)
def test_colours_are_those_of_cielab(colour: tuple[int, int, int], lab: tuple[float, float, float]) -> None:
    """Published values of sRGB's primaries for a white of D50."""
    lightness, a, b = SegmentCode(colour=colour).cielab()
    # two decimals of the published values, and a step of 1/257
    assert (lightness / 655.35, a / 257 - 128, b / 257 - 128) == pytest.approx(lab, abs=0.02)
