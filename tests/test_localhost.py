"""Commands that people copy open nothing to the network."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
OPEN_TO_ALL = re.compile(
    r"--bind_all|--host[= ](?!localhost|127\.0\.0\.1)|--ip[= ](?!localhost|127\.0\.0\.1)|0\.0\.0\.0"
)
DOCUMENTS = sorted(
    [REPOSITORY / "README.md", *REPOSITORY.glob("bundles/*/docs/*.md"), *REPOSITORY.glob("bundles/*/configs/*.json")]
)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_no_command_listens_beyond_this_machine(document: Path) -> None:
    assert OPEN_TO_ALL.findall(document.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("notebook", sorted(REPOSITORY.glob("notebooks/*.ipynb")), ids=lambda path: path.stem)
def test_no_cell_does(notebook: Path) -> None:
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    assert OPEN_TO_ALL.findall("\n".join("".join(cell["source"]) for cell in cells)) == []


@pytest.mark.parametrize("command", ["tensorboard --bind_all", "--host 0.0.0.0", "jupyter --ip=0.0.0.0"])
def test_such_commands_are_found(command: str) -> None:
    assert OPEN_TO_ALL.search(command)


def test_tensorboard_answers_on_localhost_unless_told() -> None:
    from tensorboard.plugins.core.core_plugin import CorePluginLoader
    from tensorboard.program import TensorBoard, WerkzeugServer

    board = TensorBoard(plugins=[CorePluginLoader()])
    flags = board.configure(argv=["", "--logdir", "runs", "--port", "0"])
    server = WerkzeugServer(lambda *_: [], board.flags)
    try:
        assert server.server_address[0] in ("127.0.0.1", "::1", "localhost")
        assert flags is not None
    finally:
        server.server_close()
