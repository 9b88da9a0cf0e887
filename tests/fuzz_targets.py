"""What `fuzz_inputs` damages: a small real file of every kind, and the functions that read it."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import itk
import nibabel
import numpy as np
import torch
from PIL import Image

from coco_sets import annotation, content, write_coco
from monai_ext.datasets.class_table import read_class_table
from monai_ext.datasets.coco_dataset import read_coco
from monai_ext.datasets.em_stack import read_em_images
from monai_ext.datasets.folds import load_splits, read_groups
from monai_ext.datasets.image_files import read_image, read_label
from monai_ext.datasets.image_index import inspect_image
from monai_ext.datasets.label_map_dataset import read_instance_map, read_label_maps
from monai_ext.datasets.msd import read_msd
from monai_ext.datasets.picture import open_picture
from monai_ext.datasets.picture_resolution import picture_resolution
from monai_ext.datasets.picture_size import picture_size
from monai_ext.engines.checkpoint_files import load_tensors
from monai_ext.evaluation.calibration import Temperature
from monai_ext.evaluation.postprocessing import Postprocessing
from monai_ext.networks.mask_rcnn.detector_sources import read_detector_file
from monai_ext.networks.mask_rcnn.numpy_pickle import read_numpy_pickle
from monai_ext.networks.weight_files import read_weights
from monai_ext.planning.class_plan import ClassPlan
from monai_ext.planning.em_plan import EmPlan
from monai_ext.planning.fingerprint import Fingerprint, compute_fingerprint
from monai_ext.planning.instance_plan import InstancePlan
from monai_ext.planning.plan import Plan

BUNDLES = Path(__file__).parents[1] / "bundles"
BINARY, GZIP, JSON, TEXT = "binary", "gzip", "json", "text"
Reader = Callable[[Path], Any]


@dataclass(frozen=True)
class Target:
    """One kind of file.

    Attributes:
        name: of the kind.
        file: that is damaged.
        damage: how: bytes, bytes inside a gzip file, values of JSON, or text.
        readers: each is given the damaged file.
    """

    name: str
    file: Path
    damage: str
    readers: tuple[Reader, ...]


def make_targets(folder: Path) -> list[Target]:
    """Write one file of every kind below `folder`."""
    return [*_volumes(folder), *_pictures(folder), *_tables(folder), *_plans(folder), *_weights(folder)]


def _volumes(folder: Path) -> list[Target]:
    rng = np.random.default_rng(0)
    voxels = rng.integers(0, 3, (6, 5, 4)).astype(np.uint8)
    readers: tuple[Reader, ...] = (lambda p: read_image([p]), read_label, picture_resolution)
    targets = []
    for name, version in (("volume.nii", 1), ("second.nii", 2), ("volume.nii.gz", 1)):
        kind = nibabel.Nifti1Image if version == 1 else nibabel.Nifti2Image
        path = _inside(folder, f"nifti{len(targets)}", name)
        nibabel.save(kind(voxels, np.diag([1.0, 2.0, 3.0, 1.0])), path)
        targets.append(Target(f"nifti {name}", path, BINARY, readers))
    targets.append(Target("nifti inside gzip", targets[-1].file, GZIP, readers))
    for name, packed in (("v.nrrd", False), ("g.nrrd", True), ("v.nhdr", False), ("v.mha", False), ("g.mha", True)):
        path = _inside(folder, name.replace(".", "_"), name)
        itk.imwrite(itk.image_from_array(voxels), str(path), compression=packed)
        targets.append(Target(f"itk {name}", path, BINARY, readers))
    path = _inside(folder, "v_mhd", "v.mhd")
    itk.imwrite(itk.image_from_array(voxels), str(path))
    targets.append(Target("itk v.mhd", path, TEXT, readers))
    series = _inside(folder, "series", "s.dcm")
    itk.imwrite(itk.image_from_array(voxels[:1].astype(np.int16)), str(series))
    single: tuple[Reader, ...] = (lambda p: open_picture(p, 1), inspect_image, lambda p: read_image([p.parent]))
    return [*targets, Target("dicom", series, BINARY, single)]


def _pictures(folder: Path) -> list[Target]:
    rng = np.random.default_rng(1)
    colours = rng.integers(0, 256, (14, 18, 3)).astype(np.uint8)
    grey = Image.fromarray(colours[..., 0])
    wide = Image.fromarray(colours[..., 0].astype(np.uint16) * 200)
    readers: tuple[Reader, ...] = (
        lambda p: read_image([p]),
        read_label,
        lambda p: open_picture(p, 3).crop_resized((0, 0, 4, 5), (2, 2)),
        lambda p: inspect_image(p, with_statistics=True),
        picture_size,
        picture_resolution,
    )
    pictures: dict[str, tuple[Image.Image, dict[str, Any]]] = {
        "colour.png": (Image.fromarray(colours), {}),
        "wide.png": (wide, {}),
        "palette.png": (Image.fromarray(colours).convert("P"), {"transparency": 3}),
        "colour.jpg": (Image.fromarray(colours), {}),
        "progressive.jpg": (Image.fromarray(colours), {"progressive": True}),
        "colour.bmp": (Image.fromarray(colours), {}),
        "grey.tif": (grey, {}),
        "packed.tif": (Image.fromarray(colours), {"compression": "tiff_lzw"}),
        "wide.tif": (wide, {}),
        "palette.tif": (grey.convert("P"), {}),
        "pages.tif": (grey, {"save_all": True, "append_images": [grey, grey]}),
    }
    targets = []
    for name, (picture, options) in pictures.items():
        path = _inside(folder, name.replace(".", "_"), name)
        picture.save(path, **options)
        further: tuple[Reader, ...] = () if name.endswith((".jpg", ".bmp")) else (read_instance_map,)
        if name.endswith(".tif"):
            further += (read_em_images,)
        targets.append(Target(f"picture {name}", path, BINARY, (*readers, *further)))
    return targets


def _tables(folder: Path) -> list[Target]:
    msd = folder / "msd"
    for name in ("imagesTr/a.nii", "imagesTr/b.nii", "labelsTr/a.nii", "labelsTr/b.nii"):
        voxels = np.arange(27, dtype=np.uint8).reshape(3, 3, 3) // (1 if "images" in name else 20)
        nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4)), _inside(msd, *name.split("/")))
    description = {
        "name": "Set", "tensorImageSize": "3D", "modality": {"0": "MRI"}, "numTraining": 2,
        "labels": {"0": "background", "1": "front"}, "test": [],
        "training": [{"image": f"./imagesTr/{n}.nii", "label": f"./labelsTr/{n}.nii"} for n in "ab"],
    }  # fmt: skip
    (msd / "dataset.json").write_text(json.dumps(description))
    splits = _inside(folder, "splits", "splits_final.json")
    splits.write_text(json.dumps([{"train": ["a"], "val": ["b"]}, {"train": ["b"], "val": ["a"]}]))
    runs = {"size": [10, 12], "counts": [10, 5, 105]}
    whole = content(annotations=[annotation(1), annotation(2, segmentation=runs, bbox=None)])
    coco = write_coco(folder / "coco", whole) / "annotations" / "instances_train.json"
    table = _inside(folder, "table", "labels.csv")
    for name in ("a.png", "b.png"):
        Image.new("L", (8, 9)).save(table.parent / name)
    table.write_text("file,label,split,patient\na.png,cat,train,p1\nb.png,dog;cat,val,p2\n")
    maps = _inside(folder, "maps", "images.csv")
    for part in ("images", "labels"):
        Image.new("L", (8, 9)).save(_inside(maps.parent, part, "a.png"))
    maps.write_text("file,kind\na.png,small\n")
    cases = _inside(folder, "cases", "cases.csv")
    cases.write_text("case,patient\na,p1\nb,p2\n")
    readers: tuple[Reader, ...] = (
        lambda p: read_coco(p.parents[1]),
        lambda p: read_coco(p.parents[1], skip_broken=True),
    )
    return [
        Target("dataset.json", msd / "dataset.json", JSON, (lambda p: read_msd(p.parent),)),
        Target("splits", splits, JSON, (lambda p: load_splits(p, ["a", "b"]),)),
        Target("coco", coco, JSON, readers),
        Target("class table", table, TEXT, (lambda p: read_class_table(p),)),
        Target("images.csv", maps, TEXT, (lambda p: read_label_maps(p.parent),)),
        Target("groups", cases, TEXT, (lambda p: read_groups(read_msd(msd), f"{p}:patient"),)),
    ]


def _plans(folder: Path) -> list[Target]:
    targets = []
    kinds = {"nnunet": Plan, "unet_em": EmPlan, "se_resnext101": ClassPlan, "mask_rcnn": InstancePlan}
    for bundle, kind in kinds.items():
        path = _inside(folder, bundle, "plan.json")
        path.write_bytes((BUNDLES / bundle / "configs" / "default_plan.json").read_bytes())
        targets.append(Target(f"plan {bundle}", path, JSON, (kind.load,)))
    fingerprint = compute_fingerprint(read_msd(folder / "msd"), num_workers=1, progress=False)
    temperature = {"temperature": 1.5, "cases": 9, "nll_before": 0.5, "nll_after": 0.4, "model_sha256": ""}
    others: dict[str, tuple[Any, Reader]] = {
        "fingerprint": (json.loads(fingerprint.to_json()), Fingerprint.load),
        "postprocessing": ({"keep_largest": [[1]]}, Postprocessing.load),
        "temperature": (temperature, Temperature.load),
    }
    for name, (value, reader) in others.items():
        path = _inside(folder, name, f"{name}.json")
        path.write_text(json.dumps(value))
        targets.append(Target(name, path, JSON, (reader,)))
    return targets


def _weights(folder: Path) -> list[Target]:
    state = {"conv.weight": torch.ones(2, 3), "conv.bias": torch.zeros(2)}
    model = _inside(folder, "weights", "model.pt")
    torch.save(state, model)
    legacy = _inside(folder, "weights", "old.pth")
    torch.save(state, legacy, _use_new_zipfile_serialization=False)
    header = json.dumps({"a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}}).encode()
    safe = _inside(folder, "weights", "a.safetensors")
    safe.write_bytes(len(header).to_bytes(8, "little") + header + bytes(24))
    arrays = _inside(folder, "weights", "a.pkl")
    arrays.write_bytes(pickle.dumps({"model": {"a": np.ones((2, 3), np.float32)}}, protocol=2))
    readers: tuple[Reader, ...] = (read_weights, lambda p: load_tensors(p, "train again"))
    return [
        Target("weights model.pt", model, BINARY, readers),
        # not by `load_tensors`, which lets a want of memory through: the old form can claim strings of 4 GB
        Target("weights old.pth", legacy, BINARY, (read_weights,)),
        Target("weights safetensors", safe, BINARY, (read_weights,)),
        Target("weights pickle", arrays, BINARY, (read_numpy_pickle, read_detector_file)),
    ]


def _inside(folder: Path, *names: str) -> Path:
    path = folder.joinpath(*names)
    path.parent.mkdir(parents=True, exist_ok=True)
    return path
