"""The test case of a packed bundle: an input that is drawn for the plan, or a person's image, and how it is predicted.

Input values are those of files as the model expects them, so that the whole way from file to file is tested.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from PIL import Image

from monai_ext.datasets.em_writing import write_stack
from monai_ext.datasets.file_names import image_ending
from monai_ext.datasets.input_files import find_inputs
from monai_ext.datasets.instance_phantom import draw_scene
from monai_ext.errors import InputError
from monai_ext.export.segmentation_inputs import drawn_patches
from monai_ext.planning.class_plan import ClassPlan
from monai_ext.planning.em_plan import EmPlan
from monai_ext.planning.instance_plan import InstancePlan
from monai_ext.planning.plan import Plan

CASE = "case"
EM_CASE = "test-volume.tif"  # what the EM bundle looks for in a folder
MOST_PROBABILITIES = 2**22  # numbers; larger cases are compared by their labels alone, and the zip stays small
DRAWN_SCENES = 96, 512  # pixels of a drawn picture with objects

# on every machine the same: processor, float32, plain torch operators, which need no compiler
COMMON_KEYS: dict[str, Any] = {"device": "cpu", "amp": False}
KEYS: dict[str, dict[str, Any]] = {
    "nnunet": {"fused_ops": False, "tta": False, "probabilities": False},
    "unet_em": {"tta": False, "pred_format": "probability"},
    "se_resnext101": {"fused_ops": False, "tta": False, "num_workers": 0, "compile": False},
    "mask_rcnn": {"fused_ops": False, "tta": False, "num_workers": 0, "compile_eval": False, "pred_format": "coco"},
}
COMPARED = {
    "nnunet": ("case.nii.gz", "case.png", "case.npy"),
    "unet_em": ("test-masks.tif",),
    "se_resnext101": ("predictions.json",),
    "mask_rcnn": ("detections.json",),
}


def inference_keys(bundle: str, plan: Any) -> dict[str, Any]:
    """Keys of `inference.json` for the test case: what is predicted, on the processor, in float32, without fused ops.

    Of segmentations of up to 4 million numbers the probabilities are written too.
    """
    keys = {**COMMON_KEYS, **KEYS[bundle]}
    if bundle == "nnunet":
        numbers = plan.num_classes * int(np.prod(_grid(plan)))
        keys["pred_format"] = "nii+npy" if numbers <= MOST_PROBABILITIES else "nii"
    if bundle == "se_resnext101":
        keys["top_k"] = plan.num_classes
    return keys


def draw_case(bundle: str, plan: Any, folder: Path) -> None:
    """Write an input that fits the plan: blobs on noise, or a scene of objects; always the same for a plan.

    - `nnunet`: NIfTI with the plan's spacing, a fourth longer than a patch along one axis, so that windows blend.
    - `unet_em`: one page of a TIFF, as large as the network's output.
    - `se_resnext101`: a picture or volume a little larger than the network's.
    - `mask_rcnn`: a picture with discs and lobed objects.
    """
    folder.mkdir(parents=True, exist_ok=True)
    drawings: dict[str, Callable[[Any, Path], None]] = {
        "nnunet": _volume,
        "unet_em": _page,
        "se_resnext101": _picture,
        "mask_rcnn": _scene,
    }
    drawings[bundle](plan, folder)


def copy_case(bundle: str, plan: Any, image: Path, folder: Path) -> None:
    """Copy a person's image as the input, under a name that tells nothing.

    Args:
        bundle, plan: of the model.
        image: file; with several channels one of its files, or a folder with the files of one case.
        folder: where the copy goes.

    Raises:
        InputError: nothing is there, or no single case.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if bundle == "nnunet":
        cases = find_inputs(image, plan.num_channels)
        files = [file for file in cases[0].images if file.is_file()]
        if len(cases) != 1 or len(files) != len(cases[0].images):
            raise InputError(f"--images {image}: holds no single image file of a case. Cure: one file, or one case")
    else:
        files = [image]
        if not image.is_file():
            raise InputError(f"--images {image}: is no file. Cure: one image for the test case")
    for number, file in enumerate(files):
        name = EM_CASE if bundle == "unet_em" else f"{CASE}{f'_{number:04d}' if len(files) > 1 else ''}"
        ending = "" if bundle == "unet_em" else image_ending(file) or file.suffix.lower()
        shutil.copyfile(file, folder / f"{name}{ending}")


def _grid(plan: Plan) -> tuple[int, ...]:
    """Raw size (z, y, x) of a drawn volume."""
    first, *rest = plan.patch_size
    size = (first + first // 4, *rest)
    if plan.spatial_dims == 2:
        size = (2, *size)
    return tuple(size[stored] for stored in _stored_axes(plan))


def _stored_axes(plan: Plan) -> tuple[int, ...]:
    """Of every raw axis (z, y, x) the stored one; slices of a 2D plan are stored axis 0."""
    if plan.spatial_dims == 3:
        raw_of_stored = list(plan.axes)
    else:
        within = [axis for axis in range(3) if axis != plan.slice_axis]
        raw_of_stored = [plan.slice_axis, *(within[axis] for axis in plan.axes)]
    return tuple(raw_of_stored.index(axis) for axis in range(3))


def _volume(plan: Plan, folder: Path) -> None:
    size, stored = _grid(plan), _stored_axes(plan)
    spacing = [plan.voxel_size[axis] for axis in stored]
    drawn = drawn_patches(plan.num_channels, size, count=1)[0].numpy()
    for number, values in enumerate(drawn):
        scheme, found = plan.normalization[number], plan.intensity[number]
        if scheme == "ct":
            values = found.mean + max(found.std, 1.0) * values
        elif scheme == "rgb_to_0_1":
            values = np.clip(128 + 40 * values, 0, 255)
        elif scheme != "none":
            values = 1000 + 100 * values
        values = values if scheme == "none" else np.rint(values)
        affine = np.diag([*spacing[::-1], 1.0])
        image = nibabel.Nifti1Image(np.ascontiguousarray(values.astype(np.float32).T), affine)
        image.header.set_xyzt_units("mm")
        image.to_filename(folder / f"{CASE}{f'_{number:04d}' if len(drawn) > 1 else ''}.nii")


def _page(plan: EmPlan, folder: Path) -> None:
    least = 2 * plan.margin + 1
    height, width = (max(edge, least) for edge in plan.output_size)
    write_stack(folder / EM_CASE, _within(plan.value_range, drawn_patches(1, (height, width), count=1)[0].numpy()))


def _picture(plan: ClassPlan, folder: Path) -> None:
    size = tuple(edge + edge // 4 for edge in plan.image_size)
    values = _within(plan.value_range, drawn_patches(plan.channels, size, count=1)[0].numpy())
    if plan.spatial_dims != 2:
        volume = values[0].astype(np.float32).T  # one channel
        nibabel.Nifti1Image(np.ascontiguousarray(volume), np.eye(4)).to_filename(folder / f"{CASE}.nii")
        return
    if values.dtype != np.uint8:
        write_stack(folder / f"{CASE}.tif", values[:1])
        return
    _write_png(folder, values)


def _scene(plan: InstancePlan, folder: Path) -> None:
    smallest, largest = DRAWN_SCENES
    size = min(max(smallest, round(min(plan.image_size) / plan.scale)), largest)
    picture = draw_scene(seed=0, index=0, size=size)[0]
    _write_png(folder, np.repeat(picture[None], 3 if plan.channels == 3 else 1, axis=0))


def _write_png(folder: Path, values: np.ndarray) -> None:
    """`[C, H, W]` uint8, one or three channels."""
    pixels = values[0] if len(values) == 1 else np.ascontiguousarray(values[:3].transpose(1, 2, 0))
    Image.fromarray(pixels).save(folder / f"{CASE}.png")


def _within(limits: tuple[float, float], values: np.ndarray) -> np.ndarray:
    """Values of mean 0 and deviation 1 brought between two grey values; uint8 where those are of 8-bit files."""
    low, high = limits
    values = low + (high - low) * np.clip(0.5 + 0.2 * values, 0, 1)
    return np.rint(values).astype(np.uint8) if (low, high) == (0, 255) else values.astype(np.float32)
