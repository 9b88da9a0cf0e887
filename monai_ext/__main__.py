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
            format: torchscript, onnx, tensorrt, or some with commas; or packed, a zip of the bundle with a test case.
            output_dir: empty takes `export` beside the model.
            options: --precision float32|float16|bfloat16, --quantize int8, --output logits|probabilities|labels,
                --dynamic True (free spatial sizes), --images FOLDER (compare and calibrate on these scans),
                --tolerance, --opset, --overwrite True. Of packed: --name, --images FILE (its test case), --data_licence
                FILE, --bundle_dir, --overwrite True.
        """
        from monai_ext.export.export_command import export_model

        formats = ",".join(map(str, format)) if isinstance(format, (list, tuple)) else str(format)
        export_model(str(place), formats, str(output_dir), **options)

    def predict(self, model: str, input: str, output: str, **options: Any) -> None:
        """Predict with an exported nnU-Net or UNet-EM on ONNX Runtime, without loading torch.

        Args:
            model: folder that `export` wrote (format onnx), or the output folder of the training that holds it.
            input: image file, folder with a DICOM series, or folder of images; of UNet-EM a TIFF of slices.
            output: folder for `<case>.nii.gz` (`<case>.png` of pictures); of UNet-EM for `<name>-masks.tif`.
            options: --precision float32|float16|int8 (what was exported), --providers cpu|cuda|tensorrt, --threads 2,
                --overlap 0.5, --blend gaussian|constant, --tta True, --postprocess False, --overwrite True,
                --timing True (print what each step took).
        """
        from monai_ext.serving.predict_command import predict

        predict(str(model), str(input), str(output), **options)

    def verify(self, file: str, sha256: str = "", unpack: str = "", run: bool = True) -> None:
        """Check a packed bundle: hashes of all files, weights against the plan, and its test case's output.

        Args:
            file: zip written by `export --format packed`.
            sha256: of the zip, as told by who made it.
            unpack: new folder for the bundle.
            run: False looks only: configs are code, and the test case runs it.
        """
        from monai_ext.export.packed_check import verify_packed

        verify_packed(str(file), str(sha256), str(unpack), run)

    def serve_repository(self, place: str, output_dir: str, **options: Any) -> None:
        """Write a trained model as a model repository for Triton Inference Server: networks, and whole volumes.

        Args:
            place: output folder of a training, its model.pt, or the folder of a bundle.
            output_dir: of the repository; models and versions are added to what is there.
            options: --name, --backends onnx,torchscript,python, --outputs labels,probabilities, --pipeline False,
                --version 2, --max_batch_size 4, --preferred 2,4, --queue_delay_us 100, --instances 1, --device cpu|gpu,
                --threads, --overwrite True, and those of `export`: --precision, --quantize, --dynamic, --images.
        """
        from monai_ext.serving.repository_command import serve_repository

        serve_repository(str(place), str(output_dir), **options)

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

    def card(
        self,
        run: str,
        authors: str | None = None,
        intended_use: str | None = None,
        data_licence: str | None = None,
        weights_licence: str | None = None,
        contact: str | None = None,
    ) -> None:
        """Write the model card of a trained run, docs/README.md in its folder, from the files of the run.

        Args:
            run: output folder of a training, or its model.pt.
            authors, intended_use, data_licence, weights_licence, contact: what the files of a run cannot tell; kept for
                later cards of the run, an empty text removes one.
        """
        from monai_ext.model_card.card import write_card

        stated = {
            "authors": authors,
            "intended_use": intended_use,
            "data_licence": data_licence,
            "weights_licence": weights_licence,
            "contact": contact,
        }
        path = write_card(str(run), {name: str(text) for name, text in stated.items() if text is not None})
        print(f"model card: {path.resolve()}")

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
