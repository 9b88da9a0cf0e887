"""What `fuzz_inputs` damages: a small real file of every kind, and the functions that read it."""

from __future__ import annotations

import hashlib
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
from monai_ext.atomic_files import save_tensors
from monai_ext.datasets.bids_layout import plan_bids
from monai_ext.datasets.class_table import read_class_table
from monai_ext.datasets.classification_dataset import ImageCase
from monai_ext.datasets.coco_dataset import read_coco
from monai_ext.datasets.em_stack import read_em_images
from monai_ext.datasets.folds import Fold, load_splits, read_groups
from monai_ext.datasets.geometry import Geometry
from monai_ext.datasets.image_files import read_image, read_label
from monai_ext.datasets.image_index import inspect_image, inspect_images
from monai_ext.datasets.instance_selection import restricted
from monai_ext.datasets.label_map_dataset import read_instance_map, read_label_maps
from monai_ext.datasets.msd import read_msd
from monai_ext.datasets.picture import open_picture
from monai_ext.datasets.picture_resolution import picture_resolution
from monai_ext.datasets.picture_size import picture_size
from monai_ext.engines.checkpoint_files import load_newest, load_tensors
from monai_ext.engines.run_protection import check_held_out
from monai_ext.evaluation.calibration import Temperature
from monai_ext.evaluation.paired_comparison import compare
from monai_ext.evaluation.postprocessing import Postprocessing
from monai_ext.export.manifest import read_manifest
from monai_ext.networks.mask_rcnn.detector_sources import read_detector_file
from monai_ext.networks.mask_rcnn.numpy_pickle import read_numpy_pickle
from monai_ext.networks.weight_files import read_weights
from monai_ext.planning.class_plan import ClassPlan
from monai_ext.planning.em_plan import EmPlan
from monai_ext.planning.fingerprint import Fingerprint, compute_fingerprint
from monai_ext.planning.instance_plan import InstancePlan
from monai_ext.planning.plan import Plan
from monai_ext.preprocessing.case_preprocessing import Placement
from monai_ext.preprocessing.case_store import CaseStore
from monai_ext.preprocessing.case_writing import write_case

BUNDLES = Path(__file__).parents[1] / "bundles"
BINARY, GZIP, JSON, TEXT, TIFF, PNG = "binary", "gzip", "json", "text", "tiff", "png"
Reader = Callable[[Path], Any]


@dataclass(frozen=True)
class Target:
    """One kind of file.

    Attributes:
        name: of the kind.
        file: that is damaged.
        damage: how, see `fuzz_damage`.
        readers: each is given the damaged file.
    """

    name: str
    file: Path
    damage: str
    readers: tuple[Reader, ...]


def make_targets(folder: Path) -> list[Target]:
    """Write one file of every kind below `folder`."""
    return [
        *_volumes(folder),
        *_pictures(folder),
        *_tables(folder),
        *_plans(folder),
        *_own_files(folder),
        *_weights(folder),
    ]


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
    targets.append(Target("dicom", series, BINARY, single))
    return [*targets, Target("dicom folder", _dicom_folder(folder), BINARY, (lambda p: read_image([p.parent]),))]


def _dicom_folder(folder: Path) -> Path:
    """The middle one of three slices of a series."""
    for k in range(3):
        image = itk.image_from_array(np.full((1, 5, 4), k, np.int16))
        image.SetOrigin([0.0, 0.0, 2.0 * k])
        tags = image.GetMetaDataDictionary()
        tags["0008|0060"], tags["0020|000d"], tags["0020|000e"], tags["0020|0013"] = "MR", "1.2.3", "1.2.4", str(k + 1)
        writer = itk.GDCMImageIO.New()
        writer.SetKeepOriginalUID(True)
        itk.imwrite(image, str(_inside(folder, "slices", f"{k}.dcm")), imageio=writer)
    return folder / "slices" / "1.dcm"


def _cropped(path: Path) -> Any:
    picture = open_picture(path, 3)
    return picture.crop_resized((0, 0, min(4, picture.size[-2]), min(5, picture.size[-1])), (2, 2))


def _pictures(folder: Path) -> list[Target]:
    rng = np.random.default_rng(1)
    colours = rng.integers(0, 256, (14, 18, 3)).astype(np.uint8)
    grey = Image.fromarray(colours[..., 0])
    wide = Image.fromarray(colours[..., 0].astype(np.uint16) * 200)
    readers: tuple[Reader, ...] = (
        lambda p: read_image([p]),
        read_label,
        _cropped,
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
        if name.endswith(".tif"):
            targets.append(Target(f"tags of {name}", path, TIFF, (*readers, *further)))
        if name.endswith(".png"):
            targets.append(Target(f"chunks of {name}", path, PNG, (*readers, *further)))
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
        *_lists(folder),
        Target("groups", cases, TEXT, (lambda p: read_groups(read_msd(msd), f"{p}:patient"),)),
    ]


def _lists(folder: Path) -> list[Target]:
    second = folder / "nnunet_raw"
    for name in ("imagesTr/a_0000.nii", "imagesTr/b_0000.nii", "labelsTr/a.nii", "labelsTr/b.nii"):
        nibabel.save(nibabel.Nifti1Image(np.ones((2, 2, 2), np.uint8), np.eye(4)), _inside(second, *name.split("/")))
    description = {"channel_names": {"0": "MRI"}, "labels": {"background": 0, "front": 1}, "file_ending": ".nii"}
    (second / "dataset.json").write_text(json.dumps(description | {"numTraining": 2}))
    names = _inside(folder, "table2", "classes.txt")
    Image.new("L", (8, 9)).save(names.parent / "a.png")
    Image.new("L", (9, 8)).save(names.parent / "b.png")
    (names.parent / "labels.csv").write_text("file,label\na.png,cat\nb.png,dog\n")
    names.write_text("cat\ndog\n")
    bids = folder / "bids"
    for subject in ("sub-01", "sub-02"):
        image = nibabel.Nifti1Image(np.ones((2, 2, 2), np.uint8), np.eye(4))
        nibabel.save(image, _inside(bids, subject, "anat", f"{subject}_T1w.nii"))
        nibabel.save(image, _inside(bids, "derivatives", subject, "anat", f"{subject}_dseg.nii"))
    (bids / "dseg.tsv").write_text("index\tname\n0\tbackground\n1\tfront\n")
    (bids / "participants.tsv").write_text("participant_id\tage\nsub-01\t40\nsub-02\t41\n")
    listed = _inside(folder, "listed", "images.txt")
    listed.write_text("train/a.png\nb\n")
    among: Reader = lambda p: restricted(["train/a.png", "val/b.png", "val/c.png"], str(p), "images")  # noqa: E731
    bids_reader: tuple[Reader, ...] = (lambda _: plan_bids(bids),)
    return [
        Target("nnunet dataset.json", second / "dataset.json", JSON, (lambda p: read_msd(p.parent),)),
        Target("class names", names, TEXT, (lambda p: read_class_table(p.with_name("labels.csv")),)),
        Target("bids classes", bids / "dseg.tsv", TEXT, bids_reader),
        Target("bids participants", bids / "participants.tsv", TEXT, bids_reader),
        Target("list of images", listed, TEXT, (among,)),
    ]


def _own_files(folder: Path) -> list[Target]:
    """What runs leave for later ones and for people."""
    exported = _inside(folder, "export", "model.onnx")
    exported.write_bytes(b"graph")
    about = {"file": exported.name, "sha256": hashlib.sha256(b"graph").hexdigest()}
    manifest = _inside(folder, "export", "manifest.json")
    manifest.write_text(json.dumps({"name": "net", "artefacts": [about]}))
    metrics = _inside(folder, "evaluation", "metrics.json")
    metrics.write_text(json.dumps({case: {"front": {"dice": 0.5, "hd95": None}} for case in "abc"}))
    trained = _inside(folder, "run", "fold.json")
    trained.write_text(json.dumps({"train": ["a"], "val": ["b"], "data": "0"}))
    fold = Fold(("a",), ("b",))
    picture = _inside(folder, "indexed", "a.png")
    Image.new("L", (8, 9)).save(picture)
    case = ImageCase("a", picture, ())
    index = _inside(folder, "indexed", "index.json")
    inspect_images([case], index, with_statistics=["a"])
    stored = _inside(folder, "store", "case", "case.json")
    geometry = Geometry.from_affine(np.diag([1.0, 2.0, 3.0, 1.0]), (4, 3, 2))
    placement = Placement((2, 3, 4), ((0, 2), (0, 3), (0, 4)), (2, 3, 4))
    description = {"geometry": geometry.to_dict(), "placement": placement.to_dict(), "preprocessing_hash": ""}
    image = np.zeros((1, 2, 3, 4), np.float32)
    write_case(folder / "store", "case", image, None, {1: np.zeros((2, 3), np.int32)}, description)
    store: Reader = lambda p: CaseStore(p.parents[1]).load("case")  # noqa: E731
    return [
        Target("export manifest", manifest, JSON, (lambda p: read_manifest(p.parent),)),
        Target("metrics", metrics, JSON, (lambda p: compare(p, p),)),
        Target(
            "fold of a training", trained, JSON, (lambda p: check_held_out(fold, str(p.with_name("model.pt")), "0"),)
        ),
        Target("image index", index, JSON, (lambda p: inspect_images([case], p, with_statistics=["a"]),)),
        Target("stored case", stored, JSON, (store,)),
        Target("stored voxels", stored.with_name("image.npy"), BINARY, (lambda p: store(p),)),
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
    last = _inside(folder, "weights", "last.pt")
    save_tensors(last, {"network": state, "iteration": 3})
    header = json.dumps({"a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}}).encode()
    safe = _inside(folder, "weights", "a.safetensors")
    safe.write_bytes(len(header).to_bytes(8, "little") + header + bytes(24))
    arrays = _inside(folder, "weights", "a.pkl")
    arrays.write_bytes(pickle.dumps({"model": {"a": np.ones((2, 3), np.float32)}}, protocol=2))
    readers: tuple[Reader, ...] = (read_weights, lambda p: load_tensors(p, "train again"))
    return [
        Target("weights model.pt", model, BINARY, readers),
        Target("weights old.pth", legacy, BINARY, readers),
        Target("weights last.pt", last, BINARY, (lambda p: load_newest([p], "train again"), *readers)),
        Target("weights safetensors", safe, BINARY, (read_weights,)),
        Target("weights pickle", arrays, BINARY, (read_numpy_pickle, read_detector_file)),
    ]


def _inside(folder: Path, *names: str) -> Path:
    path = folder.joinpath(*names)
    path.parent.mkdir(parents=True, exist_ok=True)
    return path
