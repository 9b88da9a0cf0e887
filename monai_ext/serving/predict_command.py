"""`python -m monai_ext predict`: files to label maps without torch."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from monai_ext.datasets.em_stack import TEST
from monai_ext.datasets.em_writing import masks_name, write_stack
from monai_ext.datasets.file_names import image_ending
from monai_ext.datasets.image_files import write_label_map
from monai_ext.datasets.input_files import find_inputs
from monai_ext.datasets.png_labels import is_picture, write_png_labels
from monai_ext.datasets.segmentation_dataset import Case
from monai_ext.errors import InputError
from monai_ext.serving.itk_without_torch import itk_without_torch
from monai_ext.serving.served_segmenter import bundle_of_export
from monai_ext.serving.slice_predictor import SlicePredictor
from monai_ext.serving.volume_predictor import Segmentation, VolumePredictor

SWITCHES = ("tta", "postprocess", "overwrite", "timing")
OPTIONS = ("precision", "providers", "threads", "overlap", "blend", *SWITCHES)


def predict(model: str | Path, source: str | Path, target: str | Path, **options: Any) -> list[Path]:
    """Predict with an export of the bundle `nnunet` (`predict_volumes`) or `unet_em` (`predict_stack`).

    Raises:
        InputError: as these; the export is of another bundle; a place is empty.
    """
    _check_options(options)
    for name, place in (("model", model), ("input", source), ("output", target)):
        if not str(place):  # of a shell's variable that is not set; as a path it would be this folder
            raise InputError(f"--{name}: is empty. Cure: name a folder{' or file' if name == 'input' else ''}")
    bundle = bundle_of_export(model)
    if bundle == "unet_em":
        return predict_stack(model, source, target, **options)
    return predict_volumes(model, source, target, **options)


def predict_stack(model: str | Path, source: str | Path, target: str | Path, **options: Any) -> list[Path]:
    """Write the probabilities of a TIFF's slices, 0 is membrane, as `test-masks.tif` of `test-volume.tif`.

    Args:
        model: folder of an export, or the run that holds it.
        source: TIFF of N pages, or a folder with `test-volume.tif`.
        target: folder of the result.
        options: those of `SlicePredictor`, `overwrite` and `timing` as in `predict_volumes`.

    Raises:
        InputError: an option is unknown, nothing to read, the result is there already, or as `SlicePredictor`.
    """
    _check_options(options)
    if "postprocess" in options:
        raise InputError("--postprocess: is for label maps of volumes. Cure: leave it out")
    overwrite, timing = bool(options.pop("overwrite", False)), bool(options.pop("timing", False))
    times = [time.perf_counter()]
    predictor = SlicePredictor(model, **options)
    times.append(time.perf_counter())
    file = Path(source) / TEST if Path(source).is_dir() else Path(source)
    if not file.is_file():
        raise InputError(f"{file}: does not exist. Cure: a TIFF file, or a folder that holds {TEST}")
    path = Path(target) / masks_name(file)
    if path.exists() and (not overwrite or path.resolve() == file.resolve()):
        raise InputError(f"{path}: exists already. Cure: another folder, or --overwrite True")
    pages = predictor.predict(file)
    times.append(time.perf_counter())
    with itk_without_torch([path]):
        write_stack(path, pages)
    print(f"{len(pages)} pages of {pages.shape[1]} x {pages.shape[2]}, {pages.dtype}: {path.resolve()}")
    if timing:
        print(
            f"{predictor.model.file}: {predictor.model.precision}, opened in {times[1] - times[0]:.2f} s, read and "
            f"predicted in {times[2] - times[1]:.2f} s; written {seconds_since_start():.2f} s after the start"
        )
    return [path]


def predict_volumes(model: str | Path, source: str | Path, target: str | Path, **options: Any) -> list[Path]:
    """Segment a file or a folder of files and write label maps with the geometry of their inputs.

    Args:
        model: folder of an export, or the run that holds it.
        source: image file, folder with a DICOM series, or folder of images.
        target: folder of the label maps.
        options: those of `VolumePredictor`, and

            - `overwrite`: replace label maps that are there;
            - `timing`: print what each step of each case took, and how long after the start of the program the first
              result was written.

    Returns:
        The files written.

    Raises:
        InputError: an option is unknown, nothing to read, label maps are there already, a case cannot be predicted
            (all others are done), or as `VolumePredictor`.
    """
    _check_options(options)
    overwrite, timing = bool(options.pop("overwrite", False)), bool(options.pop("timing", False))
    begin = time.perf_counter()
    predictor = VolumePredictor(model, **options)
    opened = time.perf_counter() - begin
    folder = Path(target)
    cases = _found(Path(source), predictor.plan.num_channels)
    _keep_existing(cases, folder, overwrite)
    if timing:
        print(f"{predictor.model.file}: {predictor.model.precision}, opened in {opened:.2f} s")
    written: list[Path] = []
    failed: list[str] = []
    for number, case in enumerate(cases, 1):
        try:
            result = predictor.predict_files(case.images)
        except InputError as error:
            failed.append(str(error))
            continue
        begin = time.perf_counter()
        written.append(_write(case, result, folder))
        line = f"{case.name} ({number} of {len(cases)})"
        if timing:
            seconds = {**result.seconds, "write": time.perf_counter() - begin}
            line += ": " + ", ".join(f"{step} {value:.3f}" for step, value in seconds.items()) + " s"
            if len(written) == 1:
                line += f"; first result {seconds_since_start():.2f} s after the start"
        print(line)
    if written:
        print(f"{len(written)} files written to {folder.resolve()}")
    if failed:
        listed = "\n".join(f"  - {line}" for line in failed)
        raise InputError(f"{len(failed)} of {len(cases)} cases could not be predicted, all others are done:\n{listed}")
    return written


def seconds_since_start() -> float:
    """Since the start of this program, with all its imports; where the system does not tell, its processor time."""
    try:
        with open("/proc/self/stat", encoding="ascii", errors="replace") as file:
            ticks = int(file.read().rpartition(")")[2].split()[19])
        return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, AttributeError, ValueError):
        return time.process_time()


def _check_options(options: dict[str, Any]) -> None:
    unknown = [f"--{name}" for name in options if name not in OPTIONS]
    if unknown:
        raise InputError(f"{' '.join(unknown)}: unknown. Cure: some of {', '.join('--' + name for name in OPTIONS)}")
    for name in SWITCHES:
        if not isinstance(options.get(name, False), bool):
            raise InputError(f"--{name} {options[name]}: is neither True nor False. Cure: --{name} True")
    for name, kinds in (("threads", int), ("overlap", (int, float))):
        if isinstance(options.get(name, 0), bool) or not isinstance(options.get(name, 0), kinds):
            what, example = ("whole number", 2) if name == "threads" else ("number", 0.5)
            raise InputError(f"--{name} {options[name]}: is no {what}. Cure: --{name} {example}")


def _found(source: Path, num_channels: int) -> list[Case]:
    """Cases to predict; ITK is asked only about folders without images, which may be DICOM series."""
    is_series = source.is_dir() and not any(image_ending(file) for file in source.iterdir())
    with itk_without_torch([source] if is_series else []):
        return find_inputs(source, num_channels)


def _keep_existing(cases: Sequence[Case], folder: Path, overwrite: bool) -> None:
    """Refuse to start if a label map would replace a file; an input in any case."""
    inputs = {image.resolve() for case in cases for image in case.images}
    endings = (".nii.gz", ".png")
    existing = [path for case in cases for end in endings if (path := folder / f"{case.name}{end}").exists()]
    if any(path.resolve() in inputs for path in existing):
        raise InputError(f"{folder}: holds the input itself, which label maps would replace. Cure: another folder")
    if existing and not overwrite:
        listed = "\n".join(f"  - {path}" for path in existing[:10])
        raise InputError(
            f"{len(existing)} label maps are already in {folder}:\n{listed}\nCure: another folder, or --overwrite True"
        )


def _write(case: Case, result: Segmentation, folder: Path) -> Path:
    picture = is_picture(case.images[0]) and len(result.geometry.file_shape) == 2
    path = folder / f"{case.name}{'.png' if picture else '.nii.gz'}"
    (write_png_labels if picture else write_label_map)(path, result.labels, result.geometry)
    return path
