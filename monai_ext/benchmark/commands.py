"""`python -m monai_ext benchmark ...`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from monai_ext.benchmark.deployment_commands import DeploymentBenchmarkCommands


class BenchmarkCommands(DeploymentBenchmarkCommands):
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
        output_dir: str = "",
        profile: str = "",
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
                (`training_benchmark` or `inference_benchmark` of `config_file`); channels and classes are then the
                dataset's.
            config_file: of the bundle, for `dataset_dir`.
            output_dir: for `dataset_dir`: folder of the plan; empty takes one apart from that of trainings.
            profile: folder for a trace of a few more steps after the timed ones; empty for none.

        Raises:
            InputError: an option is impossible, or the device runs out of memory.
        """
        import torch

        from monai_ext.benchmark.benchmark_results import (
            append_benchmark,
            benchmark_row,
            format_benchmark,
            published_figures,
        )
        from monai_ext.benchmark.nnunet import DEFAULT_BATCH, DEFAULT_PATCH, BenchmarkOptions, run_benchmark

        patch_size = (patch_size,) if isinstance(patch_size, int) else tuple(patch_size)
        device = device or ("cuda:0" if torch.cuda.is_available() else "cpu")
        on_gpu = device.startswith("cuda")
        warmup_steps = warmup_steps if warmup_steps >= 0 else 50 if on_gpu else 2
        bench_batches = bench_batches or (150 if on_gpu else 10)
        if dataset_dir:
            _check_bundle_options(mode, config_file, profile)
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
            name = f"benchmark_{spatial_dims}d"
            folder = output_dir or str(Path("runs") / "benchmark" / Path(dataset_dir).resolve().name / name)
            places = {"dataset_dir": dataset_dir, "output_dir": folder, "device": device}
            _run_bundle(mode, config_file, {**places, **keys, **limits})
            return
        options = BenchmarkOptions(
            mode,
            spatial_dims,
            batch_size or DEFAULT_BATCH.get(spatial_dims, 1),
            amp,
            compile,
            channels_last,
            patch_size or DEFAULT_PATCH.get(spatial_dims, ()),
            channels,
            classes,
            base_features,
            deep_supervision,
            optimizer,
            warmup_steps,
            bench_batches,
            device,
        )
        timing, about = run_benchmark(options, profile)
        row = benchmark_row("nnunet", timing, {**about, "data": "random"})
        figures = published_figures("nnunet", options.mode, options.spatial_dims, options.batch_size)
        print(format_benchmark(row, figures if options.is_published else []))
        if results:
            append_benchmark(Path(results), row)
            print(f"row appended to {Path(results).resolve()}")
        if profile:
            print(f"trace in {Path(profile).resolve()}")

    def ops(self, op: str = "", device: str = "cpu", rounds: int = 7, results: str = "") -> None:
        """Time the fused ops against plain torch and torch.compile, at the sizes of the recipes.

        An op that fails its check gets no times.

        Args:
            op: one op; empty takes all.
            device: such as cuda:0.
            rounds: timings per form, in turns.
            results: CSV file to append the rows to.

        Raises:
            InputError: an option is impossible, or the file has other columns.
        """
        from monai_ext.benchmark.op_benchmark import run_op_benchmark

        run_op_benchmark(op, device, rounds, results)
        if results:
            print(f"rows appended to {Path(results).resolve()}")

    def peers(
        self,
        work: tuple[str, ...] | str = (),
        rounds: int = 7,
        results: str = "",
        dataset_dir: str = "",
        device: str = "cpu",
        tiny: bool = False,
    ) -> None:
        """Time this package against MONAI and nnU-Net on the same work, in turns.

        Args:
            work: names of comparisons or kinds of work, such as resampling,export; empty takes all.
            rounds: timings per side; a peer slower than 20 s has one.
            results: CSV file to append the rows to.
            dataset_dir: in MSD format, for the preparation of a dataset; empty takes a phantom.
            device: such as cuda:0, for the comparisons that are not for processors only.
            tiny: the sizes of the tests, to see whether everything runs.

        Raises:
            InputError: an option is impossible, or the file has other columns.
        """
        from monai_ext.benchmark.peer_benchmark import run_peer_benchmark

        run_peer_benchmark(_names(work), rounds, results, dataset_dir, device, tiny)
        if results:
            print(f"rows appended to {Path(results).resolve()}")

    def pictures(
        self, folder: str = "", image_size: int = 224, batch_size: int = 32, rounds: int = 7, results: str = ""
    ) -> None:
        """Time the loading of pictures on one core: decoding, cropping, augmenting, collating; ours and MONAI's.

        Args:
            folder: with pictures, searched through; empty makes JPEGs of 500 x 375 pixels.
            image_size: edge of the network's input, in pixels.
            batch_size: pictures per timing.
            rounds: timings per side, in turns.
            results: CSV file to append the rows to.

        Raises:
            InputError: an option is impossible, the folder holds no picture, or the file has other columns.
        """
        from monai_ext.benchmark.picture_loading import run_picture_benchmark

        run_picture_benchmark(folder, image_size, batch_size, rounds, results)
        if results:
            print(f"rows appended to {Path(results).resolve()}")

    def scaling(
        self,
        bundle: str = "nnunet",
        ranks: int = 2,
        rounds: int = 5,
        steps: int = 2,
        patch_size: tuple[int, ...] = (),
        batch_size: int = 0,
        base_features: int = 0,
        amp: bool = False,
        settings: tuple[str, ...] | str = "chosen",
        device: str = "cpu",
        results: str = "",
    ) -> None:
        """Time training steps on one and on several ranks that do as much each (weak scaling), and count messages.

        Args:
            bundle: nnunet or unet_em.
            ranks: processes, on the CPU of one thread each; 1 only counts. Under torchrun its processes are the ranks.
            rounds: blocks of steps per side, in turns.
            steps: in a block.
            patch_size, batch_size, base_features: of one rank; empty or 0 takes those of the bundle on the device.
            amp: bfloat16.
            settings: of DDP, such as chosen,dynamic_graph,copied_gradients,bucket_5_mb,bucket_100_mb.
            device: cpu or cuda.
            results: CSV file to append the rows to.

        Raises:
            InputError: an option is impossible, or the file has other columns.
        """
        import os

        from monai_ext.benchmark.scaled_step import StepSize
        from monai_ext.benchmark.weak_scaling import run_as_rank, run_weak_scaling

        patch_size = (patch_size,) if isinstance(patch_size, int) else tuple(patch_size)
        size = StepSize(bundle, patch_size, batch_size, base_features, amp)
        if "LOCAL_RANK" in os.environ:
            run_as_rank(size, rounds, steps, _names(settings), results, device)
        else:
            run_weak_scaling(size, ranks, rounds, steps, _names(settings), results, device)

    def scaling_model(
        self, counts: str, bundle: str = "nnunet", step_ms: float = 0, most: int = 1024, **assumed: Any
    ) -> None:
        """Print how efficient training on up to 1024 GPUs should be, from counted messages and an assumed network.

        Args:
            counts: CSV file that `benchmark scaling` wrote.
            bundle: whose last counts to take.
            step_ms: of a training step on one GPU; 0 takes the step that was counted.
            most: GPUs.
            assumed: --link_gbits 400, --links 8, --gpus 8, --link_share 0.8, --inside_gbits 2400, --latency_us 5,
                --inside_latency_us 1.5, --launch_us 20, --overlap_cost 0.1, --jitter 0.005; see `Interconnect`.

        Raises:
            InputError: an option is impossible, or the file has no counts of that bundle.
        """
        from monai_ext.benchmark.scaling_model import print_model

        print_model(Path(counts), str(bundle), step_ms, most, assumed)

    def plot(self, results: str, picture: str) -> None:
        """Draw the throughput of every row of a result file (CSV) into a PNG file."""
        from monai_ext.benchmark.plot import draw_benchmarks

        draw_benchmarks(Path(results), Path(picture))
        print(f"drawn: {Path(picture).resolve()}")

    def plot_peers(self, results: str, picture: str) -> None:
        """Draw how many times faster than the peers the rows of a result file (CSV) are, into a PNG file."""
        from monai_ext.benchmark.comparison_plot import draw_comparison

        draw_comparison(Path(results), Path(picture))
        print(f"drawn: {Path(picture).resolve()}")


def _names(given: tuple[str, ...] | str) -> tuple[str, ...]:
    """`a,b` is a tuple to the command line, `a` a string."""
    return tuple(given.split(",")) if isinstance(given, str) and given else tuple(given)


def _check_bundle_options(mode: str, config_file: str, profile: str) -> None:
    from monai_ext.benchmark.nnunet import MODES
    from monai_ext.errors import Problems

    problems = Problems("benchmark nnunet")
    if mode not in MODES:
        problems.add(f"--mode {mode}", "unknown", f"one of {', '.join(MODES)}")
    if not Path(config_file).is_file():
        problems.add(f"--config_file {config_file}", "not found", "give the train.json of the nnunet bundle")
    if profile:
        problems.add(f"--profile {profile}", "is for random patches", "run id training with --profile trace")
    problems.raise_if_any()


def _run_bundle(mode: str, config_file: str, keys: dict[str, Any]) -> None:
    from monai.bundle import run

    from monai_ext.engines.person_errors import find_input_error

    try:
        run("training_benchmark" if mode == "train" else "inference_benchmark", config_file=config_file, **keys)
    except Exception as error:
        mistake = find_input_error(error)
        if mistake is None or mistake is error:
            raise
        raise mistake from error
