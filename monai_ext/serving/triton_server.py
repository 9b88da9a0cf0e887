"""A Triton Inference Server of this machine, started for a test or a measurement and bound to localhost.

The wheel of nvidia-pytriton holds a `tritonserver` with the Python backend alone: unpack it (`pip download --no-deps
nvidia-pytriton`, then `python -m zipfile -e`) and name the program by the variable `MONAI_EXT_TRITONSERVER`. A server
of NVIDIA's containers has all backends and is used as it is.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path
from types import TracebackType

from monai_ext.errors import InputError
from monai_ext.serving.triton_client import TritonClient

VARIABLE = "MONAI_EXT_TRITONSERVER"
HOST = "127.0.0.1"
START_S = 180.0
STOP_S = 40.0


def find_tritonserver() -> Path | None:
    """The program that `MONAI_EXT_TRITONSERVER` names, else the one on the path; None where there is none.

    Raises:
        InputError: the variable names no file.
    """
    given = os.environ.get(VARIABLE, "").strip()
    if given and not Path(given).is_file():
        raise InputError(f"{VARIABLE}={given}: is no file. Cure: the path of the program tritonserver")
    found = given or shutil.which("tritonserver")
    return Path(found).resolve() if found else None


def unfit_path(repository: Path) -> str:
    """What is wrong with the path of a repository, whose parts Triton hands to its Python backend; empty if nothing."""
    path = str(repository)
    if path.isascii() and not any(letter.isspace() for letter in path):
        return ""
    return (
        f"{repository}: Triton's Python backend cannot load models from a path with blanks or letters beyond ASCII. "
        "Cure: move the repository, or mount it under another name"
    )


class LocalTritonServer:
    """A running server; used in a `with` statement, which ends it.

    Args:
        repository: model repository.
        program: `tritonserver`; None takes `find_tritonserver()`.
        start_s: seconds to wait until all models are ready.
        arguments: more of the program's, such as `--log-verbose=1`.

    Attributes:
        address: `host:port` of its HTTP service, while it runs.

    Raises:
        InputError: no program; a path that the Python backend cannot take; on entering, the server does not get ready,
            with what its log says.
    """

    def __init__(
        self,
        repository: str | Path,
        program: str | Path | None = None,
        start_s: float = START_S,
        arguments: tuple[str, ...] = (),
    ) -> None:
        self.repository = Path(repository).resolve()
        found = find_tritonserver() if program is None else Path(program)
        if found is None:
            raise InputError(f"no tritonserver on the path. Cure: set {VARIABLE} to the program")
        if problem := unfit_path(self.repository):
            raise InputError(problem)
        self.program = found
        self.start_s = start_s
        self.arguments = arguments
        self.address = ""
        self._process: subprocess.Popen[bytes] | None = None
        self._scratch: tempfile.TemporaryDirectory[str] | None = None

    @property
    def log(self) -> str:
        """What the server has written so far."""
        place = Path(self._scratch.name) / "log" if self._scratch else None
        return place.read_text(errors="replace") if place and place.exists() else ""

    def __enter__(self) -> LocalTritonServer:
        self._scratch = tempfile.TemporaryDirectory(prefix="tritonserver-")
        scratch = Path(self._scratch.name)
        port = _free_port()
        self.address = f"{HOST}:{port}"
        command = [str(self.program), "--model-repository", str(self.repository)]
        command += ["--http-address", HOST, "--http-port", str(port), "--allow-grpc=false", "--allow-metrics=false"]
        command += [f"--backend-config=python,shm-region-prefix-name=monai_ext_{os.getpid()}_{port}"]
        environment = dict(os.environ)
        environment["PATH"] = f"{Path(sys.prefix) / 'bin'}{os.pathsep}{environment.get('PATH', '')}"
        environment["PYTHONPATH"] = _joined(str(Path(__file__).parents[2]), environment.get("PYTHONPATH", ""))
        if (stubs := self.program.parents[1] / "python_backend_stubs").is_dir():
            command += ["--backend-directory", str(_backends(self.program.parents[1], stubs, scratch / "backends"))]
            libraries = [
                sysconfig.get_config_var("LIBDIR") or "",
                str(self.program.parents[3] / "nvidia_pytriton.libs"),
            ]
            environment["LD_LIBRARY_PATH"] = _joined(*libraries, environment.get("LD_LIBRARY_PATH", ""))
        try:
            with (scratch / "log").open("wb") as log:
                self._process = subprocess.Popen(
                    [*command, *self.arguments], stdout=log, stderr=subprocess.STDOUT, env=environment
                )
            self._wait_until_ready()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        process, self._process = self._process, None
        if process is not None and process.poll() is None:
            process.terminate()
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if self._scratch is not None:
            self._scratch.cleanup()
            self._scratch = None

    def _wait_until_ready(self) -> None:
        assert self._process is not None
        end = time.monotonic() + self.start_s
        while time.monotonic() < end:
            if self._process.poll() is not None:
                raise InputError(f"{self.program}: ended with {self._process.returncode}: {_reasons(self.log)}")
            with TritonClient(self.address, timeout_s=5) as client:
                if client.ready():
                    return
            time.sleep(0.1)
        raise InputError(f"{self.program}: not ready after {self.start_s:g} s: {_reasons(self.log)}")


def _backends(root: Path, stubs: Path, folder: Path) -> Path:
    """Folder of the wheel's backends with the program of this Python's version, which the wheel keeps apart."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    stub = stubs / version / "triton_python_backend_stub"
    if not stub.is_file():
        raise InputError(f"{stub}: not found. Cure: one of Python {', '.join(sorted(p.name for p in stubs.iterdir()))}")
    python = folder / "python"
    python.mkdir(parents=True)
    for file in (root / "backends" / "python").iterdir():
        if file.name != stub.name:
            (python / file.name).symlink_to(file)
    # a copy: unpacked by `python -m zipfile`, programs may not be run
    shutil.copyfile(stub, python / stub.name)
    (python / stub.name).chmod(0o755)
    if not os.access(root / "bin" / "tritonserver", os.X_OK):
        raise InputError(f"{root / 'bin' / 'tritonserver'}: may not be run. Cure: chmod +x")
    return folder


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind((HOST, 0))
        return int(listener.getsockname()[1])


def _joined(*places: str) -> str:
    return os.pathsep.join(place for place in places if place)


def _reasons(log: str) -> str:
    """Lines of errors in the log, else its end; what a machine without a GPU always says is left out."""
    lines = [line for line in log.splitlines() if line.strip() and "CudaDriverHelper" not in line]
    errors = [line for line in lines if re.match(r"E\d{4}|.*(?:Error|error while)", line)]
    return " | ".join((errors or lines)[-5:])
