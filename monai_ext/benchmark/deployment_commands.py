"""`python -m monai_ext benchmark`: deployed models, beside torch and on inference servers."""

from __future__ import annotations

from pathlib import Path


class DeploymentBenchmarkCommands:
    """Measure exported models: predictions, servers under load, many small images."""

    def deployed(
        self,
        run: str,
        dataset_dir: str,
        export_dir: str = "",
        rounds: int = 7,
        timed_cases: int = 4,
        most_cases: int = 0,
        sw_batch_size: int = 2,
        results: str = "",
    ) -> None:
        """Predict the validation cases of a trained nnU-Net by torch and by ONNX Runtime: agreement, Dice, and time.

        Args:
            run: output folder of a training, with fold.json or an evaluation.
            dataset_dir: what it was trained on.
            export_dir: of ONNX files; empty takes `export` in `run`. Made if no export is there, with 8-bit ranges from
                training cases.
            rounds: timings per side, in turns; 0 compares only.
            timed_cases: evenly spread over the fold.
            most_cases: validation cases that are compared; 0 takes all.
            sw_batch_size: windows per call of the network.
            results: CSV file to append the rows to.

        Raises:
            InputError: the model or the dataset does not fit, or the file has other columns.
        """
        from monai_ext.benchmark.deployed_prediction import run_deployed_benchmark

        run_deployed_benchmark(
            str(run), str(dataset_dir), str(export_dir), rounds, timed_cases, most_cases, sw_batch_size, results
        )
        if results:
            print(f"rows appended to {Path(results).resolve()}")

    def serving(
        self,
        model: str,
        address: str = "localhost:8000",
        repository: str = "",
        batch_sizes: tuple[int, ...] | int = (1, 2, 4),
        clients: tuple[int, ...] | int = (1, 2, 4, 8),
        requests: int = 30,
        size: tuple[int, ...] | int = (),
        results: str = "",
    ) -> None:
        """Load a model of an inference server: batches one after another (offline), many clients at a time (online).

        Args:
            model: name in the server's repository.
            address: host:port of the server's HTTP service.
            repository: folder that `serve-repository` wrote: starts a server for the measurement, on this machine, with
                the program that MONAI_EXT_TRITONSERVER names; empty takes the running server at `address`.
            batch_sizes: of the offline part; 1 for models of whole volumes.
            clients: of the online part, numbers of them.
            requests: of every client.
            size: of an image where the model leaves it free, such as 40,56,40.
            results: CSV file to append the rows to.

        Raises:
            InputError: no server answers, an option is impossible, or the file has other columns.
        """
        from monai_ext.benchmark.serving_load import Load, run_serving_load

        sizes, numbers, free = (
            (given,) if isinstance(given, int) else tuple(given) for given in (batch_sizes, clients, size)
        )
        run_serving_load(str(model), str(address), str(repository), Load(sizes, numbers, requests, free), str(results))
        if results:
            print(f"rows appended to {Path(results).resolve()}")

    def serving_images(
        self,
        run: str,
        images: str,
        config_file: str = "bundles/nnunet/configs/inference.json",
        count: int = 250,
        command_runs: int = 3,
        results: str = "",
    ) -> None:
        """Segment many small 2D images through a server of this machine, and some by one command each.

        Args:
            run: output folder of a 2D training of the bundle nnunet.
            images: folder of scans, whose slices are the images.
            config_file: of the bundle's inference.
            count: images.
            command_runs: commands that are run; the time of `count` is extrapolated.
            results: CSV file to append the row to.

        Raises:
            InputError: no server's program (see `benchmark serving`), another model, or an option is impossible.
        """
        from monai_ext.benchmark.serving_images import run_serving_images

        run_serving_images(str(run), str(images), str(config_file), count, command_runs, str(results))
        if results:
            print(f"rows appended to {Path(results).resolve()}")
