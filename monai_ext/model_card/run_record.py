"""What a run notes for its model card beside what it writes anyway: data, versions, device and commands.

`docs/record.json` of a run has the entries `data` (at the start of a training), `training` and `evaluation` (at the end
of each) and `given` (what a person has stated about licences and use).
"""

from __future__ import annotations

import json
import logging
import os
import platform
import re
import shlex
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from monai_ext.atomic_files import make_folder, write_text

logger = logging.getLogger(__name__)
DOCS = "docs"
RECORD_FILE = "record.json"
PACKAGES = ("monai_ext", "torch", "monai", "pytorch-ignite", "numpy")


def read_record(folder: str | Path) -> dict[str, Any]:
    """Entries of the record of a run; empty where there is none or it is damaged, which is said in a warning."""
    path = Path(folder) / DOCS / RECORD_FILE
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        logger.warning("%s is damaged: what it held is not in the model card", path)
        return {}
    return {name: entry for name, entry in content.items() if isinstance(entry, dict)}


def add_to_record(folder: str | Path, part: str, content: dict[str, Any]) -> None:
    """Put an entry into the record of a run, in place of an earlier one of that name."""
    path = Path(folder) / DOCS / RECORD_FILE
    record = {**read_record(folder), part: content}
    make_folder(path.parent)
    write_text(path, json.dumps(record, indent=1, ensure_ascii=False) + "\n")


def circumstances(device: object = "cpu") -> dict[str, Any]:
    """Versions, device, number of processes, and the command where one was typed.

    Args:
        device: of the network, such as `cuda:0`.
    """
    import torch

    from monai_ext.engines import process_group
    from monai_ext.results import device_name

    chosen = torch.device(str(device))
    if chosen.type == "cuda":
        name = torch.cuda.get_device_name(chosen)
    else:  # where there is a GPU, that is not what ran
        name = f"CPU, {torch.get_num_threads()} threads" if torch.cuda.is_available() else device_name()
    return {
        "versions": {**{package: _version(package) for package in PACKAGES}, "Python": platform.python_version()},
        "platform": platform.platform(),
        "device": name,
        "processes": process_group.world_size(),
        "command": typed_command(),
    }


# the last part of a path that begins at the root, also within a list: folders above it may name people and servers
_ELSEWHERE = re.compile(r"(?:(?<=^)|(?<=['\"=\[,(\s]))(?:[A-Za-z]:)?[/\\](?:[^/\\'\",\]]+[/\\])+([^/\\'\",\]]+)")


def typed_command() -> str:
    """The command that started this process, as it is typed; empty where the bundle runs in another program."""
    from monai_ext.engines.workflow import from_command_line

    words = list(sys.orig_argv)
    if not from_command_line() or "-m" not in words:
        return ""
    return " ".join(["python", *(_quoted(_short(word)) for word in words[words.index("-m") :])])


def _short(word: str) -> str:
    """Without the working folder, the person's home and folders of other places: the card is made to be given away."""
    for place, inside, itself in ((Path.cwd(), "", "."), (Path.home(), f"~{os.sep}", "~")):
        if place != Path(place.anchor):
            word = word.replace(f"{place}{os.sep}", inside)
            word = itself if word == str(place) else word
    return _ELSEWHERE.sub(r".../\1", word)


def _quoted(word: str) -> str:
    """As a person would quote it: lists of configs hold single quotes."""
    return f'"{word}"' if "'" in word and not set(word) & set('"$`\\!') else shlex.quote(word)


def _version(package: str) -> str:
    if package == "monai_ext":
        from monai_ext import __version__

        return __version__
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
