"""`python -m monai_ext benchmark ...`."""

from __future__ import annotations

from pathlib import Path
from typing import Any


class BenchmarkCommands:
    """Throughput and latency of the bundles."""

    def nnunet(
        self,
        mode: str = "train",
        spatial_dims: int = 3,
        batch_size: int = 0,
        amp: bool = False,
        compile: bool = False,
        channels_last: bool = False,
        patch_size: tuple[int, ...] = (),
        channels: int = 4,
        classes: int = 4,
        base_features: int = 32,
        deep_supervision: bool = False,
        optimizer: str = "adam",
        warmup_steps: int = -1,
        bench_batches: int = 0,
        device: str = "",
        results: str = "",
        dataset_dir: str = "",
        config_file: str = "bundles/nnunet/configs/train.json",
    ) -> None:
        """Time training steps or forward passes on random patches, or the real training and prediction of a dataset.

        Args:
            mode: `train` (forward, loss, backward, optimiser step) or `predict` (forward pass of fixed patches).
            spatial_dims: 2 or 3.
            batch_size: patches, or slices in 2D; 0 takes 2, in 2D 64.
            amp: mixed precision (float16 on CUDA, bfloat16 on processors that have it).
            compile: torch.compile.
            channels_last: layout of activations.
            patch_size: such as 128,128,128 (the default) or 192,160 (the default in 2D).
            channels, classes, base_features, deep_supervision, optimizer: of the network and its training.
            warmup_steps: not timed; -1 takes 50, on a CPU 2.
            bench_batches: timed; 0 takes 150, on a CPU 10.
            device: such as cuda:0; empty takes a GPU if there is one.
            results: CSV file to append the row to.
            dataset_dir: times the bundle on real data instead, its loader and augmentation included
                (`training_benchmark` or `inference_benchmark` of `config_file`).
            config_file: of the bundle, for `dataset_dir`.
        """
        import torch

        from monai_ext.benchmark.benchmark_results import (
            append_benchmark,
            benchmark_row,
            format_benchmark,
            published_figures,
        )
        from monai_ext.benchmark.nnunet import DEFAULT_BATCH, DEFAULT_PATCH, BenchmarkOptions, run_benchmark

        device = device or ("cuda:0" if torch.cuda.is_available() else "cpu")
        on_gpu = device.startswith("cuda")
        warmup_steps = warmup_steps if warmup_steps >= 0 else 50 if on_gpu else 2
        bench_batches = bench_batches or (150 if on_gpu else 10)
        if dataset_dir:
            keys: dict[str, Any] = {
                "spatial_dims": spatial_dims,
                "amp": amp,
                "compile": compile,
                "channels_last": channels_last,
            }
            keys |= {"base_features": base_features, "optimizer": optimizer, "deep_supervision": deep_supervision}
            keys |= {"batch_size": batch_size} if batch_size else {}
            keys |= {"patch_size": list(patch_size)} if patch_size else {}
            limits = {"warmup_steps": warmup_steps, "bench_batches": bench_batches, "results_file": results}
            _run_bundle(mode, config_file, {"dataset_dir": dataset_dir, "device": device, **keys, **limits})
            return
        options = BenchmarkOptions(
            mode,
            spatial_dims,
            batch_size or DEFAULT_BATCH.get(spatial_dims, 1),
            amp,
            compile,
            channels_last,
            tuple(patch_size) or DEFAULT_PATCH.get(spatial_dims, ()),
            channels,
            classes,
            base_features,
            deep_supervision,
            optimizer,
            warmup_steps,
            bench_batches,
            device,
        )
        timing, about = run_benchmark(options)
        row = benchmark_row("nnunet", timing, {**about, "data": "random"})
        print(format_benchmark(row, published_figures(options) if options.is_published else []))
        if results:
            append_benchmark(Path(results), row)
            print(f"row appended to {Path(results).resolve()}")

    def plot(self, results: str, picture: str) -> None:
        """Draw the throughput of every row of a result file (CSV) into a PNG file."""
        from monai_ext.benchmark.benchmark_results import draw_benchmarks

        draw_benchmarks(Path(results), Path(picture))
        print(f"drawn: {Path(picture).resolve()}")


def _run_bundle(mode: str, config_file: str, keys: dict[str, Any]) -> None:
    from monai.bundle import run

    from monai_ext.errors import InputError

    if not Path(config_file).is_file():
        raise InputError(f"--config_file {config_file}: not found. Cure: give the train.json of the nnunet bundle")
    run("training_benchmark" if mode == "train" else "inference_benchmark", config_file=config_file, **keys)
