"""EM bundle: inference by the command line."""

from __future__ import annotations

import shutil
from pathlib import Path

import itk
import numpy as np
import pytest

from bundle_commands import UNET_EM, Finished, bundle_run

RUN = Path("runs/unet_em/phantom/0")


def read(path: Path) -> np.ndarray:
    return itk.array_from_image(itk.imread(str(path)))


def infer(cwd: Path, **options: object) -> Finished:
    return bundle_run(cwd, "inference", "inference.json", bundle=UNET_EM, **options)


@pytest.fixture
def raw(trained_em: tuple[Path, Finished]) -> Path:
    return trained_em[0] / "runs/unet_em/phantom/prepared/raw"


@pytest.fixture
def model(trained_em: tuple[Path, Finished]) -> Path:
    return trained_em[0] / RUN / "model.pt"


@pytest.fixture(scope="module")
def predicted(trained_em: tuple[Path, Finished], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Working directory with the test stack predicted by a copy of model and plan alone."""
    folder = tmp_path_factory.mktemp("predicted")
    (folder / "alone").mkdir()
    for name in ("model.pt", "plan.json"):
        shutil.copy(trained_em[0] / RUN / name, folder / "alone" / name)
    raw = trained_em[0] / "runs/unet_em/phantom/prepared/raw"
    done = infer(folder, input=raw, ckpt_path="alone/model.pt")
    assert done.status == 0, done.err
    return folder


def test_stack_of_probabilities(raw: Path, predicted: Path) -> None:
    """Only the model and its plan are needed; a folder means its test stack."""
    pages, images = read(predicted / "predictions" / "test-masks.tif"), read(raw / "test-volume.tif")
    assert pages.shape == images.shape
    assert pages.dtype == np.float32
    assert 0 <= pages.min() < pages.max() <= 1


def test_labels_of_8_bits_and_no_silent_overwriting(raw: Path, model: Path, predicted: Path, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    shutil.copy(predicted / "predictions" / "test-masks.tif", tmp_path / "a" / "test-masks.tif")
    expected = np.where(read(tmp_path / "a" / "test-masks.tif") >= 0.5, 255, 0)
    again = infer(tmp_path, input=raw, ckpt_path=model, output_dir="a")
    assert again.status == 1
    assert "test-masks.tif: exists already" in again.err
    labels = infer(tmp_path, input=raw, ckpt_path=model, output_dir="a", pred_format="labels", overwrite=True)
    assert labels.status == 0, labels.err
    pages = read(tmp_path / "a" / "test-masks.tif")
    assert pages.dtype == np.uint8
    np.testing.assert_array_equal(pages, expected)


def test_views_change_the_prediction(raw: Path, model: Path, predicted: Path, tmp_path: Path) -> None:
    done = infer(tmp_path, input=raw, ckpt_path=model, output_dir="eight", tta=True)
    assert done.status == 0, done.err
    one, eight = read(predicted / "predictions" / "test-masks.tif"), read(tmp_path / "eight" / "test-masks.tif")
    assert one.shape == eight.shape
    assert 0 < np.abs(one - eight).mean() < 0.2


def test_folds_are_averaged(raw: Path, model: Path, predicted: Path, tmp_path: Path) -> None:
    """A folder that holds folds is an ensemble: twice the same model gives what one gives."""
    for fold in "01":
        (tmp_path / "folds" / fold).mkdir(parents=True)
        for name in ("model.pt", "plan.json"):
            shutil.copy(model.parent / name, tmp_path / "folds" / fold / name)
    done = infer(tmp_path, input=raw, ckpt_path="folds", output_dir="two")
    assert done.status == 0, done.err
    assert "ensemble of 2 models" in done.out + done.err
    one, two = read(predicted / "predictions" / "test-masks.tif"), read(tmp_path / "two" / "test-masks.tif")
    np.testing.assert_allclose(one, two, atol=1e-2)  # logits may be bfloat16


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ({"input": "text.tif"}, ["text.tif", "Cure"]),
        ({"input": "small.tif"}, ["small.tif", "smaller than the receptive field"]),
    ],
)
def test_mistakes_end_with_one_message(raw: Path, model: Path, tmp_path: Path, options: dict, parts: list[str]) -> None:
    (tmp_path / "raw").symlink_to(raw)
    (tmp_path / "text.tif").write_text("no picture")
    itk.imwrite(itk.image_from_array(np.zeros((2, 30, 30), np.uint8)), str(tmp_path / "small.tif"))
    done = infer(tmp_path, **{"ckpt_path": model, **options})
    assert done.status == 1
    message = done.err[done.err.index("error: ") :]
    assert all(part in message for part in parts), message
    assert "Traceback" not in done.err
    assert not (tmp_path / "predictions" / "test-masks.tif").exists()


def test_train_and_predict(tmp_path: Path) -> None:
    done = bundle_run(tmp_path, "train_and_predict", "train.json", "tiny.json", bundle=UNET_EM)
    assert done.status == 0, done.err
    pages = read(tmp_path / RUN / "predictions" / "test-masks.tif")
    assert pages.dtype == np.float32
    assert pages.shape[1:] == (256, 256)
