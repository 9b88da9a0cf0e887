"""Packed bundles: made of every bundle, whole where they arrive, and refused with one error where they are not."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from monai.bundle import load, load_bundle_config, verify_metadata, verify_net_in_out

from forked_command import typed_run
from monai_ext.errors import InputError
from monai_ext.export.export_command import export_model
from monai_ext.export.packed_archive import unpack_zip, write_zip
from monai_ext.export.packed_check import verify_packed
from monai_ext.export.trained_model import open_model
from packed_models import MODELS, refusal

SCHEMA = Path(__file__).parents[1] / "bundles" / "metadata_schema.json"


def repacked(path: Path, change: Callable[[Path], object], hashes: bool = False) -> Path:
    """The zip after a change of its unpacked folder; `hashes` brings the list up to date, as a forger would."""
    folder = unpack_zip(path, path.parent / "unpacked")
    change(folder)
    if hashes:
        listing = json.loads((folder / "packed.json").read_text())
        for entry in listing["files"]:
            content = (folder / entry["file"]).read_bytes()
            entry |= {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
        (folder / "packed.json").write_text(json.dumps(listing))
    write_zip(folder, path)
    return path


@pytest.mark.parametrize("bundle", MODELS)
def test_packed_bundles_verify_and_are_monai_bundles(bundle: str, places: dict[str, Path], tmp_path: Path) -> None:
    path = places[bundle] / "export" / f"{bundle}.zip"
    lines: list[str] = []
    compared = verify_packed(path, unpack=tmp_path / "new", say=lines.append)
    assert compared
    assert all(one.passes for one in compared)
    assert lines[-1] == f"{bundle}.zip: verified"
    assert hashlib.sha256(path.read_bytes()).hexdigest() in lines[0]
    # MONAI reads configs in the zip, and the network with its weights from the folder
    assert load_bundle_config(str(path), "inference.json")["run"] == "%inference"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # configs are code, says MONAI
        network: Any = load(bundle, bundle_dir=str(tmp_path / "new"), workflow_type="inference", device="cpu")
    expected = open_model(places[bundle]).network.state_dict()
    assert network.state_dict().keys() == expected.keys()
    for name, weight in network.state_dict().items():
        torch.testing.assert_close(weight, expected[name], rtol=0, atol=0)


@pytest.mark.parametrize("bundle", MODELS)
def test_metadata_is_that_of_the_plan(bundle: str, places: dict[str, Path], tmp_path: Path) -> None:
    folder = unpack_zip(places[bundle] / "export" / f"{bundle}.zip", tmp_path)
    meta, config = folder / "configs" / "metadata.json", folder / "configs" / "inference.json"
    shutil.copy(SCHEMA, tmp_path / "schema.json")
    verify_metadata(meta_file=str(meta), filepath=str(tmp_path / "schema.json"))
    verify_net_in_out(net_id="network_def", meta_file=str(meta), config_file=str(config), device="cpu")
    content, plan = json.loads(meta.read_text()), open_model(folder).plan
    image, pred = (content["network_data_format"][side] for side in ("inputs", "outputs"))
    channels = {"nnunet": 1, "unet_em": 1}.get(bundle) or plan.channels
    assert image["image"]["num_channels"] == channels
    assert len(image["image"]["channel_def"]) == channels
    if bundle != "mask_rcnn":
        assert len(pred["pred"]["channel_def"]) == pred["pred"]["num_channels"]
    if bundle == "nnunet":
        assert pred["pred"]["channel_def"]["0"] == "background"
        assert pred["pred"]["num_channels"] == plan.num_classes


def test_runs_elsewhere_by_the_command_line(zip_file: Path, tmp_path: Path) -> None:
    """Another working directory, nothing but the zip; then a scan by the documented command."""
    place = tmp_path / "elsewhere"
    place.mkdir()
    line = [sys.executable, "-m", "monai_ext", "verify", str(zip_file), "--unpack", "got"]
    done = typed_run(place, line)
    assert done.status == 0, done.err
    assert "equal labels" in done.out
    assert "nnunet.zip: verified" in done.out
    config = str(place / "got" / "nnunet" / "configs" / "inference.json")
    scan = str(place / "got" / "nnunet" / "test" / "input" / "case.nii")
    run = [sys.executable, "-m", "monai.bundle", "run", "inference", "--config_file", config, "--input", scan]
    done = typed_run(place, [*run, "--device", "cpu", "--amp", "False", "--fused_ops", "False"])
    assert done.status == 0, done.err
    found = nibabel.load(place / "predictions" / "case.nii.gz")
    expected = nibabel.load(place / "got" / "nnunet" / "test" / "expected" / "case.nii.gz")
    assert np.mean(np.asarray(found.dataobj) == np.asarray(expected.dataobj)) > 0.999  # type: ignore[attr-defined]
    zip_file.write_bytes(zip_file.read_bytes()[:-100])
    done = typed_run(place, [*line[:4], str(zip_file)])
    assert done.status == 1
    assert done.err.startswith(f"error: {zip_file}: is no zip, cut off or damaged")
    assert "Traceback" not in done.err


def test_the_same_model_gives_the_same_zip(places: dict[str, Path], tmp_path: Path) -> None:
    path = places["se_resnext101"] / "export" / "se_resnext101.zip"
    # out of what came with it, as somebody does who passes it on
    export_model(unpack_zip(path, tmp_path / "new"), "packed", tmp_path)
    assert (tmp_path / path.name).read_bytes() == path.read_bytes()
    verify_packed(path, sha256=hashlib.sha256(path.read_bytes()).hexdigest().upper(), run=False, say=lambda _: None)
    assert "expected 0123" in refusal(path, sha256="0123")


def test_own_image_licence_and_name(
    places: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The image is given a name that tells nothing; what is beside the model goes along."""
    scan = tmp_path / "jane_doe.nii.gz"
    affine = np.diag([1.0, 1.5, 2.0, 1.0])
    values = np.random.default_rng(0).normal(500, 100, (20, 18, 22)).astype(np.float32)
    nibabel.Nifti1Image(values, affine).to_filename(scan)
    (tmp_path / "terms.txt").write_text("CC BY 4.0")
    shutil.copytree(places["nnunet"], tmp_path / "run", ignore=shutil.ignore_patterns("export"))
    (tmp_path / "run" / "postprocessing.json").write_text('{"keep_largest": []}')
    (tmp_path / "run" / "docs").mkdir()
    (tmp_path / "run" / "docs" / "README.md").write_text("# card\n")
    options = {"images": scan, "data_licence": tmp_path / "terms.txt", "name": "spleen-ct"}
    export_model(tmp_path / "run", "packed", tmp_path, **options)
    assert "everybody who gets it can see that image" in capsys.readouterr().out
    verify_packed(tmp_path / "spleen-ct.zip", say=lambda _: None)
    folder = unpack_zip(tmp_path / "spleen-ct.zip", tmp_path / "new")
    assert folder.name == "spleen-ct"
    assert [file.name for file in (folder / "test" / "input").iterdir()] == ["case.nii.gz"]
    assert (folder / "docs" / "data_license.txt").read_text() == "CC BY 4.0"
    assert (folder / "docs" / "README.md").read_text() == "# card\n"
    assert (folder / "models" / "postprocessing.json").is_file()
    assert "jane" not in (folder / "packed.json").read_text()
    expected = nibabel.load(folder / "test" / "expected" / "case.nii.gz")
    np.testing.assert_allclose(expected.affine, affine, atol=1e-6)  # type: ignore[attr-defined]


def test_refused_options(places: dict[str, Path], tmp_path: Path) -> None:
    run = places["unet_em"]
    for options, message in (
        ({}, r"unet_em\.zip: exists"),
        ({"name": "../up"}, r"--name \.\./up: is no plain name"),
        ({"precision": "float16", "dynamic": True}, "--precision, --dynamic: no option of --format packed"),
        ({"name": "a", "bundle_dir": tmp_path}, r"no folder with configs/metadata\.json"),
        ({"name": "a", "images": tmp_path}, "is no file"),
        ({"name": "a", "data_licence": tmp_path / "none.txt"}, r"none\.txt: is no file"),
    ):
        with pytest.raises(InputError, match=message):
            export_model(run, "packed", **options)
    with pytest.raises(InputError, match="packed comes alone"):
        export_model(run, "packed,onnx")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "a.txt").touch()
    assert "is not empty" in refusal(run / "export" / "unet_em.zip", unpack=tmp_path / "full")
    assert "is no file" in refusal(tmp_path / "nowhere.zip")


def test_other_weights_than_the_test_case_was_made_with(zip_file: Path) -> None:
    """Hashes that were brought up to date hide a change from everything but the expected output."""

    def change(folder: Path) -> None:
        weights = torch.load(folder / "models" / "model.pt", weights_only=True)
        generator = torch.Generator().manual_seed(1)
        for weight in weights.values():
            weight += 0.5 * torch.randn(weight.shape, generator=generator)
        torch.save(weights, folder / "models" / "model.pt")

    message = refusal(repacked(zip_file, change, hashes=True))
    assert message.startswith("test case of nnunet: ")
    assert "largest difference" in message
    assert "allowed 0.001" in message


def test_configs_that_do_not_run(zip_file: Path) -> None:
    def change(folder: Path) -> None:
        config = folder / "configs" / "inference.json"
        content = json.loads(config.read_text())
        content["inferer"]["_target_"] = "monai_ext.inferers.nowhere.Nothing"
        config.write_text(json.dumps(content))

    assert "nnunet: the test case cannot be predicted" in refusal(repacked(zip_file, change, hashes=True))
    lines: list[str] = []
    assert verify_packed(zip_file, run=False, say=lines.append) == []
    assert lines[-1] == "nnunet.zip: whole; its test case was not run"


def test_changed_missing_and_unlisted_files(zip_file: Path) -> None:
    def change(folder: Path) -> None:
        (folder / "LICENSE").unlink()
        (folder / "configs" / "train.json").write_text("{}")
        (folder / "configs" / "more.json").write_text("{}")

    message = refusal(repacked(zip_file, change))
    assert message.startswith("nnunet: 3 problems")
    assert "LICENSE: is listed but missing" in message
    assert "configs/train.json: has changed since the export" in message
    assert "configs/more.json: is not listed" in message


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("format_version", 2, "has format version 2, known is 1"),
        ("bundle", "unet_em", "says it is of unet_em, its plan is of nnunet"),
        ("bundle", "other", "is no list of a packed bundle"),
        ("files", [], "models/model.pt: is not listed, and no packed bundle is without it"),
        ("test", {"source": "drawn", "keys": {"device": "$exit(3)"}, "outputs": ["case.npy"]}, "is not one that an"),
        ("test", {"source": "drawn", "keys": {"imports": "no"}, "outputs": ["case.npy"]}, "is not one that an export"),
        ("test", {"source": "drawn", "keys": {}, "outputs": ["../../a"]}, "test/expected/../../a: is not listed"),
        ("test", {"source": "drawn", "keys": {}, "outputs": []}, "outputs: List should have at least 1 item"),
        ("extra", 1, "extra: Extra inputs are not permitted"),
    ],
)
def test_lists_that_do_not_fit(zip_file: Path, key: str, value: object, message: str) -> None:
    def change(folder: Path) -> None:
        listing = json.loads((folder / "packed.json").read_text())
        if key == "bundle" and value == "unet_em":
            listing["test"] = {"source": "drawn", "keys": {"device": "cpu"}, "outputs": ["test-masks.tif"]}
            (folder / "test" / "expected" / "test-masks.tif").write_bytes(b"x")
            digest = hashlib.sha256(b"x").hexdigest()
            listing["files"].append({"file": "test/expected/test-masks.tif", "sha256": digest, "bytes": 1})
        (folder / "packed.json").write_text(json.dumps(listing | {key: value}))

    assert message in refusal(repacked(zip_file, change))


def test_lost_list_and_plan_of_another_network(zip_file: Path, places: dict[str, Path]) -> None:
    assert "is no list of a packed bundle" in refusal(
        repacked(zip_file, lambda folder: (folder / "packed.json").unlink())
    )
    shutil.rmtree(zip_file.parent / "unpacked")
    shutil.copy(places["nnunet"] / "export" / "nnunet.zip", zip_file)

    def other_plan(folder: Path) -> None:
        plan = json.loads((folder / "models" / "plan.json").read_text())
        plan["features"] = [2 * features for features in plan["features"]]
        (folder / "models" / "plan.json").write_text(json.dumps(plan))

    assert "do not fit the network of the plan" in refusal(repacked(zip_file, other_plan, hashes=True))
