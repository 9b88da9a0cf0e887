"""`python -m monai_ext COMMAND`: what belongs to no bundle."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from monai_ext.benchmark.commands import BenchmarkCommands
from monai_ext.datasets.dataset_commands import DatasetCommands
from monai_ext.errors import InputError


class Commands:
    """Commands beside the bundles."""

    dataset = DatasetCommands()
    benchmark = BenchmarkCommands()

    def environment(self) -> None:
        """Print what a bug report needs: versions and device."""
        import platform
        from importlib.metadata import version

        from monai_ext import __version__
        from monai_ext.results import device_name

        print(f"monai_ext {__version__}, Python {platform.python_version()}, {platform.platform()}")
        for package in ("torch", "monai", "pytorch-ignite", "numpy", "nibabel", "itk"):
            print(f"{package} {version(package)}")
        print(device_name())

    def ops(self) -> None:
        """Print which form of every fused op runs on which device, and why."""
        from dataclasses import asdict

        from monai_ext.benchmark.measurement_rows import format_table
        from monai_ext.ops.forms import describe_forms

        print(format_table([asdict(form) for form in describe_forms()], ("op", "device", "form", "why"), left=4))

    def anchors(self, dataset: str, **options: Any) -> None:
        """Print sizes of a dataset's objects, how anchors of a Mask R-CNN fit them, and a proposal for its config.

        Args:
            dataset: folder in COCO's layout, or with images and label maps.
            options: --scale 2, --fit 832,1344, --stem_stride 1, --sizes "[[12,16],...]" to compare, --aspect_ratios,
                --canonical_size, --anchor_offset, --round_anchors, --select type=fluorescence, --part all, --layout,
                --skip_broken, --write FILE.json for the proposal.
        """
        from monai_ext.planning.anchor_command import print_anchors

        print_anchors(str(dataset), options)

    def export(self, place: str, format: str = "torchscript,onnx", output_dir: str = "", **options: Any) -> None:
        """Write a trained model in the formats that servers read, after comparing every file with the network.

        Args:
            place: output folder of a training, its model.pt, or the folder of a bundle.
            format: torchscript, onnx, or both with a comma.
            output_dir: empty takes `export` beside the model.
            options: --precision float32|float16|bfloat16, --quantize int8, --output logits|probabilities|labels,
                --dynamic True (free spatial sizes), --images FOLDER (compare and calibrate on these scans),
                --tolerance, --opset, --overwrite True.
        """
        from monai_ext.export.export_command import export_model

        formats = ",".join(map(str, format)) if isinstance(format, (list, tuple)) else str(format)
        export_model(str(place), formats, str(output_dir), **options)

    def record(self, run: str, results: str, command: str, recipe: str = "train.json") -> None:
        """Append a finished training and its evaluation to a result file (CSV).

        Args:
            run: output folder of `train_and_evaluate`.
            results: CSV file with a row per result.
            command: what was typed.
            recipe: name of the config or overlay in the table.
        """
        from monai_ext.results import append_row, result_row

        append_row(Path(results), result_row(Path(run), command, recipe))

    def compare(self, a: str, b: str, name_a: str = "A", name_b: str = "B") -> None:
        """Compare two evaluations of the same cases, case by case: means, 95 % interval, Wilcoxon test.

        Args:
            a, b: folder `evaluation` of a run, or its metrics.json.
            name_a, name_b: what the table calls them.
        """
        from monai_ext.evaluation.paired_comparison import compare, format_comparison

        print(format_comparison(compare(Path(a), Path(b)), (str(name_a), str(name_b))))

    def curve(self, run: str, name: str, curves: str, picture: str = "", title: str = "") -> None:
        """Put the validation Dice of a training into a file of curves, and draw it.

        Args:
            run: output folder of the training.
            name: what the picture calls it.
            curves: CSV file with the points of all runs.
            picture: PNG file, drawn anew from all runs if given.
            title: of the picture.
        """
        from monai_ext.dice_curves import add_curve, draw_curves

        print(f"{name}: {add_curve(Path(curves), name, Path(run) / 'log.jsonl')} points")
        if picture:
            draw_curves(Path(curves), Path(picture), title)

    def tables(self, *documents: str) -> None:
        """Fill the result tables of Markdown files from the result files that they name."""
        from monai_ext.results import fill_tables

        for document in documents:
            print(f"{document}: {fill_tables(Path(document))} tables")


def main() -> None:
    """Entry point of the command line."""
    import fire

    try:
        fire.Fire(Commands, name="monai_ext")
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
