"""The list of what was exported: files, hashes, what goes in and out, and how near each is to the network."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from monai_ext.atomic_files import write_text
from monai_ext.datasets.confined_path import path_fault, shown
from monai_ext.errors import InputError, Problems
from monai_ext.file_digest import file_sha256

MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Artefact:
    """One exported file.

    Attributes:
        file: name in the folder of the manifest.
        format: `torchscript`, `onnx` or `tensorrt`.
        precision: `float32`, `float16`, `bfloat16` or `int8`.
        sha256: of the file, hexadecimal.
        bytes: size of the file.
        max_difference, mean_difference: of outputs from the network's.
        tolerance: what the largest difference may be, of 8-bit files the mean one.
        agreement: share of test inputs whose largest output is the network's.
        latency_ms, network_latency_ms: median time of the file and of the network for the first test input.
        score: what a given function says of it, None without one.
    """

    file: str
    format: str
    precision: str
    sha256: str
    bytes: int
    max_difference: float
    mean_difference: float
    tolerance: float
    agreement: float
    latency_ms: float
    network_latency_ms: float
    score: float | None = None


def write_manifest(folder: str | Path, about: dict[str, Any], artefacts: list[Artefact]) -> dict[str, Any]:
    """Write `manifest.json` and return its content: `about` and the list `artefacts`."""
    content = {**about, "artefacts": [asdict(artefact) for artefact in artefacts]}
    # what a file in JSON gives back, lists instead of tuples
    content = json.loads(json.dumps(content))
    write_text(Path(folder) / MANIFEST, json.dumps(content, indent=2) + "\n")
    return content


def read_manifest(folder: str | Path) -> dict[str, Any]:
    """Read `manifest.json` and compare the files with their hashes.

    Raises:
        InputError: it is missing or not a manifest, or files are missing or changed.
    """
    path = Path(folder) / MANIFEST
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        named = [(entry["file"], entry["sha256"]) for entry in content["artefacts"]]
        if not all(isinstance(text, str) for pair in named for text in pair):
            raise TypeError("names and hashes must be text")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(f"{path}: is not a manifest of an export ({error}). Cure: export again") from error
    problems = Problems(str(path))
    for name, sha256 in named:
        file = path.parent / name
        if fault := path_fault(path.parent, name):
            problems.add(shown(name), fault, "export again")
        elif not file.is_file():
            problems.add(file, "is listed but does not exist", "export again")
        elif file_sha256(file) != sha256:
            problems.add(file, "has changed since the export, its sha256 differs", "export again")
    problems.raise_if_any()
    return content
