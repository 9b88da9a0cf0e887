"""NRRD and MetaImage headers: what they claim, and what ITK is not given."""

from __future__ import annotations

from pathlib import Path

import itk
import numpy as np
import pytest

from monai_ext.datasets.text_headers import VoxelClaim, check_text_header
from monai_ext.errors import InputError

NRRD = "NRRD0004\ntype: short\ndimension: 3\nsizes: 2 3 4\nencoding: raw\nendian: little\n\n"
META = "ObjectType = Image\nNDims = 3\nDimSize = 2 3 4\nElementType = MET_SHORT\nElementDataFile = LOCAL\n"


def written(path: Path, header: str, data: bytes = bytes(48)) -> Path:
    path.write_bytes(header.encode() + data)
    return path


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("ending", [".nrrd", ".nhdr", ".mha", ".mhd"])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.float32, np.float64])
def test_headers_that_itk_writes(dtype: type, ending: str, packed: bool, tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(0, 100, (4, 3, 2)).astype(dtype)
    path = tmp_path / f"v{ending}"
    itk.imwrite(itk.image_from_array(array), str(path), compression=packed)
    claim = check_text_header(path)
    assert int(np.prod(claim.shape)) * claim.value_bytes == array.nbytes
    assert claim.encoding == ("gzip" if packed else "raw")
    assert claim.files[0].parent == tmp_path
    assert (claim.files[0] == path) == (ending in (".nrrd", ".mha"))


def test_claims(tmp_path: Path) -> None:
    path = written(tmp_path / "v.nrrd", NRRD)
    assert check_text_header(path) == VoxelClaim((2, 3, 4), 2, "raw", (path,), len(NRRD))
    path = written(tmp_path / "v.mha", META)
    assert check_text_header(path) == VoxelClaim((2, 3, 4, 1), 2, "raw", (path,), len(META))


WRONG = {
    "no file of the kind": (NRRD, "NRRD0004", "PNG", "is no NRRD file"),
    "type": (NRRD, "short", "quark", "voxels of type 'quark' cannot be read"),
    "block of no size": (NRRD, "short", "block", "voxels of type 'block' cannot be read"),
    "sizes": (NRRD, "2 3 4", "2 x 4", "are no whole numbers"),
    "negative": (NRRD, "2 3 4", "2 -3 4", "are no whole numbers"),
    "zero": (NRRD, "2 3 4", "2 0 4", "are not 3 whole numbers above 0"),
    "too few": (NRRD, "2 3 4", "2 12", "are not 3 whole numbers above 0"),
    "too many axes": (NRRD, "2 3 4", " ".join("2" * 11), "are no whole numbers"),
    "digits": (NRRD, "2 3 4", "2 3 " + "4" * 30, "are no whole numbers"),
    "encoding": (NRRD, "raw", "bzip3", "encoding 'bzip3' cannot be read"),
    "twice": (NRRD, "endian", "sizes", "states 'sizes' twice"),
    "more than is there": (NRRD, "2 3 4", "2 3 5", "60 bytes are claimed, 48 are there"),
    "cut off": (NRRD, "endian: little\n\n", "", "is cut off within its header"),
    "axes of MetaImage": (META, "NDims = 3", "NDims = 1000000", "are not 1000000 whole numbers"),
    "axes no number": (META, "NDims = 3", "NDims = 0 0 0 1", "are no whole numbers"),
    "less data": (META, "2 3 4", "2 3 5", "60 bytes are claimed, 48 are there"),
    "compressed": (META, "NDims", "CompressedData = True\nCompressedDataSize = 99999\nNDims", "99999 compressed bytes"),
    "offset": (META, "NDims", "HeaderSize = -7\nNDims", "HeaderSize is -7"),
    "case": (META, "NDims = 3", "ndims = 3\nNDims = 3", "states 'ndims' twice"),
    "pattern": (META, "LOCAL", "v%03d.raw 1 4 1", "its voxels are in several files"),
    "missing": (META, "LOCAL", "w.raw", "the file w.raw with its voxels is missing"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_does_not_fit_is_refused(case: str, tmp_path: Path) -> None:
    header, old, new, message = WRONG[case]
    assert header.count(old) == 1
    path = written(tmp_path / ("v.nrrd" if header is NRRD else "v.mha"), header.replace(old, new))
    with pytest.raises(InputError, match=message) as caught:
        check_text_header(path)
    assert str(caught.value).startswith(str(path))
    assert "Cure: " in str(caught.value)
