"""Running an exported file back: what it differs, how fast it is, and whether it may be used."""

from __future__ import annotations

import logging
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from monai_ext.errors import InputError
from monai_ext.export.comparison import Comparison, Runner, compare, require_near
from monai_ext.export.manifest import Artefact
from monai_ext.export.onnx_model import onnx_runner
from monai_ext.export.tensorrt_engine import tensorrt_runner
from monai_ext.export.torchscript import torchscript_runner
from monai_ext.file_digest import file_sha256

TIMED_CALLS = 5
ROUNDED = ("int8", "int8 simulated")
RUNNERS = {"torchscript": torchscript_runner, "onnx": onnx_runner, "tensorrt": tensorrt_runner}

logger = logging.getLogger(__name__)


class ArtefactCheck:
    """Compares files with the network they were made of, on the CPU, and makes their entries of the manifest.

    Args:
        folder: of the files.
        expected: the network, whose outputs are right.
        batches: inputs `[B, ...]`; of two batch sizes, so that a file with a fixed one is noticed.
        tolerances: largest difference by precision, relative to the largest output where that is above 1. Of 8-bit
            files it is the mean difference: a single value near the boundary of classes says little.
        score: called with a function from inputs to outputs; higher is better.
        max_score_drop: by how much a file's score may be below the network's.
    """

    def __init__(
        self,
        folder: Path,
        expected: nn.Module,
        batches: Sequence[torch.Tensor],
        tolerances: Mapping[str, float],
        score: Callable[[Runner], float] | None = None,
        max_score_drop: float = 0.01,
    ) -> None:
        self.folder = folder
        self.expected = expected
        self.batches = list(batches)
        self.tolerances = dict(tolerances)
        self.score = score
        self.max_score_drop = max_score_drop
        self.network_score = None if score is None else float(score(self._network))
        self.network_latency_ms = latency_ms(self._network, self.batches[0])

    def _network(self, x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return self.expected(x)

    def __call__(self, path: Path, kind: str, precision: str) -> Artefact:
        """Check one file.

        Raises:
            InputError: it differs more, or scores less, than allowed.
        """
        run = RUNNERS[kind](path)
        found = compare(self._network, run, self.batches)
        tolerance = self.tolerances[precision] * max(1.0, found.largest)
        require_near(path.name, found, tolerance, mean=precision in ROUNDED)
        score = None if self.score is None else float(self.score(run))
        if score is not None and self.network_score is not None and score < self.network_score - self.max_score_drop:
            raise InputError(
                f"{path.name}: scores {score:.4f}, the network {self.network_score:.4f}; allowed is a drop of "
                f"{self.max_score_drop:g}. Cure: more calibration images, quantize qat, or a larger max_score_drop"
            )
        logger.info(
            "export: %s, largest difference %.2g, same class for %.2f %% on %d inputs",
            path.name, found.max_difference, 100 * found.agreement, sum(map(len, self.batches)),
        )  # fmt: skip
        latencies = latency_ms(run, self.batches[0]), self.network_latency_ms
        return listed(path, kind, precision, found, tolerance, latencies, score)


def listed(
    path: Path,
    kind: str,
    precision: str,
    found: Comparison,
    tolerance: float,
    latencies: tuple[float, float],
    score: float | None = None,
) -> Artefact:
    """Entry of a file that has passed: what it is, how near to the network, and milliseconds of file and network."""
    return Artefact(
        file=path.name,
        format=kind,
        precision=precision,
        sha256=file_sha256(path),
        bytes=path.stat().st_size,
        max_difference=found.max_difference,
        mean_difference=found.mean_difference,
        tolerance=tolerance,
        agreement=found.agreement,
        latency_ms=latencies[0],
        network_latency_ms=latencies[1],
        score=score,
    )


def latency_ms(run: Callable[[torch.Tensor], Any], x: torch.Tensor, calls: int = TIMED_CALLS) -> float:
    """Median milliseconds of a call, after one that is not timed."""
    run(x)
    times = []
    for _ in range(calls):
        start = time.perf_counter()
        run(x)
        times.append(1e3 * (time.perf_counter() - start))
    return statistics.median(times)
