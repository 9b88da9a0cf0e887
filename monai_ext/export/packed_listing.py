"""`packed.json`: what a packed bundle holds, the hash of every file, and its test case."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from monai_ext.atomic_files import write_text
from monai_ext.datasets.confined_path import path_fault, shown
from monai_ext.errors import InputError, Problems
from monai_ext.file_digest import file_sha256

LISTING = "packed.json"
LARGEST_LISTING = 2**24  # bytes
FORMAT_VERSION = 1
INPUT, EXPECTED = "test/input", "test/expected"
MANDATORY = (
    "LICENSE",
    "configs/metadata.json",
    "configs/inference.json",
    "configs/keys.json",
    "models/model.pt",
    "models/plan.json",
)
CURE = "fetch the zip again, or export it again"


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class ListedFile(_Part):
    """A file: its path in the bundle with `/`, its SHA-256 in hexadecimal, its size in bytes."""

    file: str
    sha256: str
    bytes: int


class TestCase(_Part):
    """How the expected output was made.

    Attributes:
        source: `drawn`, or `image` for one that a person gave.
        keys: of `inference.json`.
        outputs: files in `test/expected` that are compared.
    """

    __test__ = False  # pytest collects classes of such names

    source: Literal["drawn", "image"]
    keys: dict[str, bool | int | float | str]
    outputs: list[str] = Field(min_length=1)


class Listing(_Part):
    """Content of `packed.json`.

    Attributes:
        format_version: of this file.
        name: of the bundle, also of its folder.
        bundle: `nnunet`, `unet_em`, `se_resnext101` or `mask_rcnn`.
        versions: of monai_ext and the packages that made the expected output.
        copyright: of configs and weights, as in metadata.json.
        data_licence: file with the licence of the training data; empty: nothing was said about it.
        test: the test case.
        files: all files but `packed.json` itself.
    """

    format_version: int
    name: str
    bundle: Literal["nnunet", "unet_em", "se_resnext101", "mask_rcnn"]
    versions: dict[str, str]
    copyright: str
    data_licence: str
    test: TestCase
    files: list[ListedFile]


def list_files(folder: Path) -> list[ListedFile]:
    """Entries of all files in a folder but `packed.json`, sorted by path."""
    files = sorted(file for file in folder.rglob("*") if file.is_file() and file != folder / LISTING)
    return [
        ListedFile(file=file.relative_to(folder).as_posix(), sha256=file_sha256(file), bytes=file.stat().st_size)
        for file in files
    ]


def write_listing(folder: Path, listing: Listing) -> None:
    """Write `packed.json` into the folder of a bundle."""
    write_text(folder / LISTING, listing.model_dump_json(indent=2) + "\n")


def read_listing(folder: Path) -> Listing:
    """Read `packed.json` and compare every file with it.

    Raises:
        InputError: it is missing or damaged, of a later version of monai_ext, or files are missing, changed, or not
            listed; all of them are named.
    """
    path = folder / LISTING
    try:
        if path.stat().st_size > LARGEST_LISTING:
            raise ValueError(f"has {path.stat().st_size} bytes")
        content = path.read_bytes()
        version = Version.model_validate_json(content).format_version
        if version > FORMAT_VERSION:
            raise InputError(
                f"{path}: has format version {version}, known is {FORMAT_VERSION}. Cure: a later monai_ext"
            )
        listing = Listing.model_validate_json(content)
    except (OSError, ValidationError, ValueError, RecursionError) as error:
        if isinstance(error, InputError):
            raise
        reason = "; ".join(_said(error)) if isinstance(error, ValidationError) else str(error)
        raise InputError(f"{path}: is no list of a packed bundle ({reason:.300}). Cure: {CURE}") from error
    _compare(folder, listing)
    return listing


class Version(BaseModel):
    """The one field that every version of `packed.json` has."""

    format_version: int


def _said(error: ValidationError) -> list[str]:
    return [f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors()[:3]]


def _compare(folder: Path, listing: Listing) -> None:
    problems = Problems(str(folder.name))
    present = {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()} - {LISTING}
    listed = {entry.file for entry in listing.files}
    outputs = {f"{EXPECTED}/{name}" for name in listing.test.outputs}
    data_licence = {listing.data_licence} - {""}
    if len(listed) < len(listing.files):
        problems.add(LISTING, "names a file twice", CURE)
    for entry in listing.files:
        file = folder / PurePosixPath(entry.file)
        if fault := path_fault(folder, entry.file):
            problems.add(shown(entry.file), fault, CURE)
        elif not file.is_file():
            problems.add(shown(entry.file), "is listed but missing", CURE)
        elif file.stat().st_size != entry.bytes or file_sha256(file) != entry.sha256:
            problems.add(entry.file, "has changed since the export, its sha256 differs", CURE)
    for name in sorted({*MANDATORY, *outputs, *data_licence} - listed):
        problems.add(shown(name), "is not listed, and no packed bundle is without it", CURE)
    for name in sorted(present - listed):
        problems.add(shown(name), "is not listed", CURE)
    if not any(name.startswith(f"{INPUT}/") for name in listed):
        problems.add(INPUT, "holds no input of the test case", CURE)
    problems.raise_if_any()
