"""`python -m monai_ext anchors`: a proposal that is a config overlay, and options that are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from monai_ext.__main__ import Commands
from monai_ext.datasets.instance_phantom import make_instance_phantom
from monai_ext.errors import InputError
from monai_ext.planning.anchor_command import anchors_of_dataset


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_instance_phantom(tmp_path_factory.mktemp("phantom"), num_train=4, num_val=2)


def test_the_proposal_is_an_overlay(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "anchors.json"
    Commands().anchors(str(folder), stem_stride=1, write=str(file))
    overlay = json.loads(file.read_text())
    shown = capsys.readouterr().out
    assert list(overlay) == ["resize", "scale", "canonical_size", "anchor_sizes", "stem_stride", "aspect_ratios"]
    assert (overlay["resize"], overlay["stem_stride"], overlay["aspect_ratios"]) == ("scale", 1, [0.5, 1.0, 2.0])
    assert [len(level) for level in overlay["anchor_sizes"]] == [2] * 5
    assert f"--scale {overlay['scale']:g} --canonical_size {overlay['canonical_size']:g}" in shown
    assert "4 images" in shown  # those of the training part
    file = tmp_path / "fit.json"
    anchors_of_dataset(str(folder), fit=128, write=str(file))
    fitted = json.loads(file.read_text())
    assert (fitted["resize"], fitted["image_size"]) == ("fit", [128, 128])
    assert "scale" not in fitted
    assert "6 images" in anchors_of_dataset(str(folder), part="all", sizes=[8, 16, 32, 64, 128])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"stride": 2, "scal": 1}, "--scal, --stride: unknown"),
        ({"stem_stride": 4}, "--stem_stride 4: is not known"),
        ({"scale": -1}, "--scale -1: must be a number above 0"),
        ({"scale": "x"}, "--scale x: must be a number above 0"),
        ({"scale": 2, "fit": 128}, "exclude each other"),
        ({"sizes": [1, 2]}, "are not sizes above 0 for 5 levels"),
        ({"sizes": "abc"}, "are not sizes above 0 for 5 levels"),
        ({"part": "val"}, "--part val: is not known"),
        ({"fit": [1, 2, 3]}, "must be one or two numbers"),
        ({"select": "a"}, "is not NAME=VALUE"),
    ],
)
def test_wrong_options(folder: Path, options: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        Commands().anchors(str(folder), **options)


def test_the_overlay_must_be_a_json_file(folder: Path, tmp_path: Path) -> None:
    for wrong in (tmp_path, tmp_path / "anchors.txt"):
        with pytest.raises(InputError, match=r"--write .*: is no name of a JSON file"):
            anchors_of_dataset(str(folder), write=str(wrong))


def test_no_file_is_replaced(tmp_path: Path) -> None:
    make_instance_phantom(tmp_path / "data", num_train=4, num_val=1)
    (tmp_path / "train.json").write_text("{}")
    with pytest.raises(InputError, match="exists already"):
        anchors_of_dataset(str(tmp_path / "data"), write=str(tmp_path / "train.json"))
    assert (tmp_path / "train.json").read_text() == "{}"
