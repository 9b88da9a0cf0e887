"""The commands of the README are the ones that CI runs."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        (
            "quickstart",
            ["pip install", "python -m monai.bundle run training --config_file bundles/nnunet/configs/train.json"],
        ),
        ("tests", ['".[test]"', "python -m pytest"]),
    ],
)
def test_command_is_one_line_that_ci_finds(name: str, parts: list[str]) -> None:
    script = (REPOSITORY / ".ci" / "run").read_text()
    finder = re.search(r"readme_line\(\) \{.*?\n\}", script, re.DOTALL)
    assert finder
    assert f"$(readme_line {name})" in script
    done = subprocess.run(
        ["bash", "-c", f"{finder[0]}\nreadme_line {name}"], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    line = done.stdout.strip()
    assert "\n" not in line
    assert line.startswith("python3 -m venv .venv && . .venv/bin/activate && pip install ")
    assert all(part in line for part in parts)


def test_linked_files_exist() -> None:
    for document in (REPOSITORY / "README.md", *REPOSITORY.glob("bundles/*/docs/README.md")):
        for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", document.read_text()):
            assert (document.parent / target).exists(), f"{document}: {target}"
