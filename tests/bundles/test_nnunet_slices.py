"""nnU-Net bundle in 2D: slices of volumes and images, from training to files in the geometry of the input."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image

from bundle_commands import Finished, bundle_run
from monai_ext.planning.plan import Plan

TINY = ("train.json", "tiny.json")
SLICES = {"spatial_dims": 2, "patch_size": "[16, 16]", "batch_size": 4, "overlap": 0}
RUN = Path("runs/nnunet/phantom/0_2d")


@pytest.fixture(scope="module")
def trained_slices(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Finished]:
    folder = tmp_path_factory.mktemp("slices")
    return folder, bundle_run(folder, "train_and_evaluate", *TINY, **SLICES, nvol=2, mirror=0.5, tta=True)


def test_slices_of_volumes_are_trained_and_evaluated_as_volumes(trained_slices: tuple[Path, Finished]) -> None:
    folder, done = trained_slices
    assert done.status == 0, done.err
    plan = Plan.load(folder / RUN / "plan.json")
    assert plan.spatial_dims == 2
    assert len(plan.patch_size) == 2
    assert plan.mirror_axes == (0, 1)
    metrics = json.loads((folder / RUN / "evaluation" / "metrics.json").read_text())
    assert len(metrics) == 4
    raw = folder / "runs/nnunet/phantom/prepared/raw/labelsTr"
    for name, classes in metrics.items():
        label = np.asarray(nibabel.load(raw / f"{name}.nii.gz").dataobj)
        for value, counts in enumerate(classes.values(), start=1):
            assert counts["reference_voxels"] == int((label == value).sum())
    assert (folder / RUN / "overlay.png").stat().st_size > 0


def test_slices_are_put_back_into_volumes_by_inference(trained_slices: tuple[Path, Finished]) -> None:
    folder, _ = trained_slices
    source = next((folder / "runs/nnunet/phantom/prepared/raw/imagesTs").glob("*.nii.gz"))
    done = bundle_run(
        folder, "inference", "inference.json", ckpt_path=RUN / "model.pt", input=source, output_dir="out", tta=True
    )
    assert done.status == 0, done.err
    given, written = nibabel.load(source), nibabel.load(folder / "out" / source.name)
    assert written.shape == given.shape
    np.testing.assert_array_equal(written.affine, given.affine)


def test_number_of_volumes_must_divide_the_batch(tmp_path: Path) -> None:
    done = bundle_run(tmp_path, "training", *TINY, **SLICES, nvol=3)
    assert done.status == 1
    assert "--nvol 3" in done.err
    assert "--batch_size 3 or 6" in done.err
    assert "Traceback" not in done.err


def discs(folder: Path, number: int = 8, channels: int = 3) -> Path:
    """Images with a bright disc, as PNG, with a dataset.json in MSD form."""
    rng = np.random.default_rng(0)
    for name in ("imagesTr", "labelsTr", "imagesTs"):
        (folder / name).mkdir(parents=True)
    training = []
    y, x = np.mgrid[:40, :48]
    for i in range(number):
        mask = (y - rng.integers(12, 28)) ** 2 + (x - rng.integers(12, 36)) ** 2 < rng.integers(6, 10) ** 2
        image = rng.integers(20, 60, (40, 48, 3)) + 150 * mask[..., None]
        pixels = image.astype(np.uint8) if channels == 3 else image[..., 0].astype(np.uint8)
        if i == 0:
            Image.fromarray(pixels).save(folder / "imagesTs" / "test_0.png")
        Image.fromarray(pixels).save(folder / "imagesTr" / f"disc_{i}.png")
        Image.fromarray(mask.astype(np.uint8)).save(folder / "labelsTr" / f"disc_{i}.png")
        training.append({"image": f"./imagesTr/disc_{i}.png", "label": f"./labelsTr/disc_{i}.png"})
    description = {
        "name": "discs",
        "tensorImageSize": "2D",
        "modality": {str(i): n for i, n in enumerate("RGB"[:channels])},
        "labels": {"0": "background", "1": "disc"},
        "numTraining": number,
        "training": training,
        "numTest": 1,
        "test": ["./imagesTs/test_0.png"],
    }
    (folder / "dataset.json").write_text(json.dumps(description))
    return folder


@pytest.mark.parametrize("channels", [1, 3])
def test_images_are_trained_evaluated_and_predicted(tmp_path: Path, channels: int) -> None:
    dataset = discs(tmp_path / "discs", channels=channels)
    options = {**SLICES, "patch_size": "[32, 32]", "base_features": 8, "max_epochs": 3, "epoch_length": 10}
    done = bundle_run(
        tmp_path, "train_and_evaluate", *TINY, dataset_dir=dataset, data2d_dim=2, output_dir="run", **options
    )
    assert done.status == 0, done.err
    summary = json.loads((tmp_path / "run" / "evaluation" / "summary.json").read_text())
    assert summary["classes"]["disc"]["dice"]["mean"] > 0.8  # bright discs on a dark ground: nearly a threshold
    done = bundle_run(
        tmp_path, "inference", "inference.json", ckpt_path="run/model.pt", input=dataset / "imagesTs", output_dir="out"
    )
    assert done.status == 0, done.err
    predicted = np.asarray(Image.open(tmp_path / "out" / "test_0.png"))
    reference = np.asarray(Image.open(dataset / "labelsTr" / "disc_0.png"))
    assert predicted.shape == reference.shape
    overlap = 2 * ((predicted == 1) & (reference == 1)).sum() / ((predicted == 1).sum() + (reference == 1).sum())
    assert overlap > 0.8


def test_images_need_a_2d_network_and_one_size(tmp_path: Path) -> None:
    dataset = discs(tmp_path / "discs")
    done = bundle_run(tmp_path, "training", *TINY, dataset_dir=dataset)
    assert done.status == 1
    assert "--spatial_dims 2" in done.err
    done = bundle_run(tmp_path, "training", *TINY, **SLICES, dataset_dir=dataset, data2d_dim=3)
    assert done.status == 1
    assert "--data2d_dim 2" in done.err
    for part in ("imagesTr", "labelsTr"):
        path = dataset / part / "disc_3.png"
        Image.open(path).crop((0, 0, 40, 40)).save(path)
    done = bundle_run(tmp_path, "training", *TINY, **SLICES, dataset_dir=dataset)
    assert done.status == 1
    assert "disc_3" in done.err
    assert "--mixed_sizes True" in done.err
    assert "Traceback" not in done.err
    done = bundle_run(tmp_path, "training", *TINY, **SLICES, dataset_dir=dataset, mixed_sizes=True)
    assert done.status == 0, done.err
