from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from monai_ext.datasets.image_files import Geometry
from monai_ext.errors import InputError
from monai_ext.preprocessing.case_preprocessing import Placement
from monai_ext.preprocessing.case_store import CaseStore, write_case

SHAPE = (8, 9, 10)
GEOMETRY = Geometry.from_affine(np.diag([1.0, 2.0, 3.0, 1.0]), (10, 9, 8))
PLACEMENT = Placement(SHAPE, ((0, 8), (0, 9), (0, 10)), SHAPE)


def write(folder: Path, name: str = "a", value: float = 0, label: bool = True) -> np.ndarray:
    image = np.random.default_rng(0).normal(value, 1, (2, *SHAPE)).astype(np.float32)
    description = {"geometry": GEOMETRY.to_dict(), "placement": PLACEMENT.to_dict()}
    labels = np.ones(SHAPE, dtype=np.uint8) if label else None
    write_case(folder, name, image, labels, {1: np.zeros((5, 3), dtype=np.int32)}, description)
    return image


def test_round_trip(tmp_path: Path) -> None:
    image = write(tmp_path)
    write(tmp_path, "b", label=False)
    store = CaseStore(tmp_path)
    assert store.names == ["a", "b"]
    case = store.load("a")
    assert isinstance(case.image, np.memmap)
    assert case.image.dtype == np.float32
    np.testing.assert_array_equal(case.image, image)
    assert case.label is not None
    assert case.label.dtype == np.uint8
    assert case.locations[1].shape == (5, 3)
    assert (case.placement, case.geometry) == (PLACEMENT, GEOMETRY)
    assert store.load("b").label is None
    assert CaseStore(tmp_path, ["b"]).names == ["b"]
    assert CaseStore(tmp_path / "nothing").names == []
    with pytest.raises(ValueError, match="read-only"):
        case.image[0] = 0


def test_unknown_case(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no case 'x'.*Cure"):
        CaseStore(tmp_path).load("x")


@pytest.mark.parametrize("name", ["image.npy", "label.npy", "locations.npz"])
def test_verify_finds_one_wrong_byte(tmp_path: Path, name: str) -> None:
    write(tmp_path)
    store = CaseStore(tmp_path)
    store.verify("a")
    content = bytearray((tmp_path / "a" / name).read_bytes())
    content[-3] ^= 1
    (tmp_path / "a" / name).write_bytes(content)
    with pytest.raises(InputError, match=rf"{name}: damaged.*Cure"):
        store.verify("a")


@pytest.mark.parametrize("name", ["image.npy", "label.npy", "locations.npz", "case.json"])
@pytest.mark.parametrize("keep", [0, 100, None])
def test_load_names_the_damaged_file(tmp_path: Path, name: str, keep: int | None) -> None:
    write(tmp_path)
    path = tmp_path / "a" / name
    if keep is None:
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:keep])
    match = "no case" if name == "case.json" and keep is None else name
    with pytest.raises(InputError, match=rf"{match}.*Cure"):
        CaseStore(tmp_path).load("a")
