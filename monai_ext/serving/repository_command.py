"""`python -m monai_ext serve-repository`: a trained model as a model repository for Triton Inference Server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from monai_ext.serving.serving_options import ServingOptions
from monai_ext.serving.triton_config import Batching
from monai_ext.serving.triton_repository import write_repository
from monai_ext.serving.triton_server import unfit_path


def serve_repository(
    place: str | Path,
    output_dir: str | Path,
    name: str = "",
    backends: Any = ServingOptions.backends,
    outputs: Any = ServingOptions.outputs,
    pipeline: bool = True,
    version: int = 1,
    max_batch_size: int = Batching.max_batch_size,
    preferred: Any = (),
    queue_delay_us: int = Batching.queue_delay_us,
    instances: int = 1,
    device: str = "cpu",
    threads: int = 0,
    overwrite: bool = False,
    **export: Any,
) -> None:
    """Write the repository and print its models.

    Args:
        place: output folder of a training, its `model.pt`, or the folder of a bundle.
        output_dir: of the repository.
        name, backends, outputs, pipeline, version, instances, device, threads, overwrite: see `ServingOptions`; lists
            with commas.
        max_batch_size, preferred, queue_delay_us: see `Batching`; without `preferred` 2, 4, 8 and so on.
        export: options of the export.

    Raises:
        InputError: see `write_repository`.
    """
    from monai_ext.export.trained_model import open_model

    options = ServingOptions(
        str(name),
        _listed(backends),
        _listed(outputs),
        pipeline,
        version,
        Batching(max_batch_size, _listed(preferred) or _doubled(max_batch_size), queue_delay_us),
        instances,
        str(device),
        threads,
        overwrite,
    )
    for folder in write_repository(open_model(place), output_dir, options, **export):
        print(f"{folder.name}: version {version}")
    if problem := unfit_path(Path(output_dir).resolve()):
        print(f"note: {problem}")
    print(f"tritonserver --model-repository {Path(output_dir).resolve()} --http-address 127.0.0.1 --allow-grpc=false")


def _doubled(most: Any) -> tuple[int, ...]:
    return tuple(2**n for n in range(1, 11) if isinstance(most, int) and 2**n <= most)


def _listed(given: Any) -> tuple[Any, ...]:
    """`a,b` is a tuple to the command line, `a` a string, `2` a number, and `()` a tuple."""
    if isinstance(given, str):
        return tuple(part.strip() for part in given.split(",") if part.strip())
    return tuple(given) if isinstance(given, (list, tuple)) else (given,)
