"""Classification bundle: inference and export by the command line."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from bundle_commands import SE_RESNEXT, Finished, bundle_run

RUN = Path("runs/se_resnext101/phantom/0")
RAW = Path("runs/se_resnext101/phantom/prepared/raw")


def infer(cwd: Path, **options: object) -> Finished:
    return bundle_run(cwd, "inference", "inference.json", bundle=SE_RESNEXT, **options)


def probabilities(folder: Path) -> dict[str, dict[str, float]]:
    content = json.loads((folder / "predictions.json").read_text())
    return {e["file"]: {t["class"]: t["probability"] for t in e["top"]} for e in content["predictions"]}


@pytest.fixture
def model(trained_class: tuple[Path, Finished]) -> Path:
    return trained_class[0] / RUN / "model.pt"


@pytest.fixture(scope="module")
def predicted(trained_class: tuple[Path, Finished], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Working directory with the validation pictures predicted by a copy of model and plan alone."""
    folder = tmp_path_factory.mktemp("predicted")
    (folder / "alone").mkdir()
    for name in ("model.pt", "plan.json"):
        shutil.copy(trained_class[0] / RUN / name, folder / "alone" / name)
    shutil.copytree(trained_class[0] / RAW / "val" / "discs", folder / "pictures")
    done = infer(folder, input="pictures", ckpt_path="alone/model.pt", top_k=4, cam=True, amp=False)
    assert done.status == 0, done.err
    return folder


def test_folder_becomes_a_table(predicted: Path, trained_class: tuple[Path, Finished]) -> None:
    """Probabilities of every picture, highest first, equal to those of the evaluation; a heat map beside each."""
    out = predicted / "predictions"
    rows = list(csv.DictReader((out / "predictions.csv").open()))
    assert len(rows) == 20 * 4
    assert [row["rank"] for row in rows[:4]] == ["1", "2", "3", "4"]
    found = probabilities(out)
    assert len(found) == 20
    for name, top in found.items():
        assert list(top.values()) == sorted(top.values(), reverse=True)
        assert sum(top.values()) == pytest.approx(1, abs=1e-5)
        assert (out / "activations" / f"{name}.png").stat().st_size > 0
    evaluated = list(csv.DictReader((trained_class[0] / RUN / "evaluation" / "predictions.csv").open()))
    for row in evaluated:
        if Path(row["name"]).name in found:  # logits of the evaluation may be bfloat16
            assert found[Path(row["name"]).name]["discs"] == pytest.approx(float(row["p_discs"]), abs=0.02)


def test_nothing_is_overwritten_silently(predicted: Path, model: Path, tmp_path: Path) -> None:
    shutil.copytree(predicted / "predictions", tmp_path / "a")
    one = sorted((predicted / "pictures").iterdir())[0]
    again = infer(tmp_path, input=one, ckpt_path=model, output_dir="a")
    assert again.status == 1
    assert "exists already" in again.err
    done = infer(tmp_path, input=one, ckpt_path=model, output_dir="a", overwrite=True, top_k=1)
    assert done.status == 0, done.err
    assert list(probabilities(tmp_path / "a")) == [one.name]


def test_folds_are_averaged_and_views_too(predicted: Path, model: Path, tmp_path: Path) -> None:
    """A folder that holds folds is an ensemble: twice the same model gives what one gives, mirrored views do not."""
    for fold in "01":
        (tmp_path / "folds" / fold).mkdir(parents=True)
        for name in ("model.pt", "plan.json"):
            shutil.copy(model.parent / name, tmp_path / "folds" / fold / name)
    options = {"input": predicted / "pictures", "top_k": 4, "amp": False}
    done = infer(tmp_path, ckpt_path="folds", output_dir="two", **options)
    assert done.status == 0, done.err
    assert "ensemble of 2 models" in done.out + done.err
    done = infer(tmp_path, ckpt_path="folds/0", output_dir="views", tta=True, flip_axes="[0,1]", **options)
    assert done.status == 0, done.err
    one, two, views = (probabilities(f) for f in (predicted / "predictions", tmp_path / "two", tmp_path / "views"))
    difference = 0.0
    for name, top in one.items():
        assert two[name] == pytest.approx(top, abs=1e-4)
        difference = max(difference, *(abs(views[name][k] - p) for k, p in top.items()))
    assert difference > 1e-3


def test_damaged_input_is_named(predicted: Path, model: Path, tmp_path: Path) -> None:
    shutil.copytree(predicted / "pictures", tmp_path / "pictures")
    (tmp_path / "pictures" / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 no picture")
    done = infer(tmp_path, input="pictures", ckpt_path=model)
    assert done.status == 1
    assert "broken.jpg" in done.err
    assert "Traceback" not in done.err
    assert not (tmp_path / "predictions" / "predictions.csv").exists()
    done = infer(tmp_path, input="pictures", ckpt_path=model, skip_unreadable=True)
    assert done.status == 0, done.err
    assert len(probabilities(tmp_path / "predictions")) == 20


def test_export_to_eight_bits(trained_class: tuple[Path, Finished], tmp_path: Path) -> None:
    """TorchScript alone needs nothing of this package; 8-bit ONNX runs beside it."""
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    shutil.copytree(trained_class[0] / "runs", tmp_path / "runs")
    options = {"quantize": "ptq", "quant_symmetric": True, "export_format": "torchscript+onnx"}
    done = bundle_run(tmp_path, "export", "train.json", "tiny.json", bundle=SE_RESNEXT, **options)
    assert done.status == 0, done.err
    folder = tmp_path / RUN / "export"
    manifest = json.loads((folder / "manifest.json").read_text())
    assert {a["file"] for a in manifest["artefacts"]} == {"model.ts", "model.onnx", "model_int8.onnx"}
    assert manifest["symmetric"] is True
    network = torch.jit.load(str(folder / "model.ts"))
    images = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    found = network(images)
    assert found.shape == (3, 4)
    np.testing.assert_allclose(found.sum(1).numpy(), 1, atol=1e-5)
