"""A real Triton Inference Server bound to localhost, where its program is found."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch

from monai_ext.benchmark.serving_images import TARGET, compare_with_commands
from monai_ext.benchmark.serving_load import Load, measure_load
from monai_ext.datasets.image_files import read_image
from monai_ext.errors import InputError
from monai_ext.export.segmentation_inputs import drawn_patches
from monai_ext.export.trained_model import open_model
from monai_ext.serving.serving_options import ServingOptions
from monai_ext.serving.triton_client import TritonClient
from monai_ext.serving.triton_config import Batching
from monai_ext.serving.triton_repository import write_repository
from monai_ext.serving.triton_server import VARIABLE, LocalTritonServer, find_tritonserver
from monai_ext.serving.volume_predictor import VolumePredictor
from small_segmenter import flat_plan, small_plan

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
needs_program = pytest.mark.skipif(find_tritonserver() is None, reason=f"no tritonserver: {VARIABLE} is not set")
MakeRun = Callable[..., Path]
REPOSITORY = Path(__file__).parents[2]


def test_without_a_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv(VARIABLE, raising=False)
    with pytest.raises(InputError, match=f"no tritonserver on the path. Cure: set {VARIABLE}"):
        LocalTritonServer(tmp_path)
    monkeypatch.setenv(VARIABLE, str(tmp_path / "tritonserver"))
    with pytest.raises(InputError, match="is no file"):
        LocalTritonServer(tmp_path)


@pytest.mark.parametrize("name", ["two words", "dépôt"])
def test_paths_that_the_server_cannot_take(name: str, tmp_path: Path) -> None:
    """Its Python backend ends, or the server waits for it for ever."""
    program = tmp_path / "tritonserver"
    program.touch()
    with pytest.raises(InputError, match=rf"{name}: Triton's Python backend cannot load.*Cure: move"):
        LocalTritonServer(tmp_path / name, program)


def test_a_program_that_ends_says_why(tmp_path: Path) -> None:
    program = tmp_path / "bin" / "tritonserver"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\necho 'I0101 fine'\necho 'E0101 no such model repository'\nexit 3\n")
    program.chmod(0o755)
    with (
        pytest.raises(InputError, match=r"ended with 3: E0101 no such model repository$"),
        LocalTritonServer(tmp_path, program),
    ):
        pass


@pytest.fixture(scope="module")
def run(make_run: MakeRun) -> Path:
    return make_run(small_plan(), seed=3)


@pytest.fixture(scope="module")
def repository(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("served") / "repository"
    batching = Batching(4, (2, 4), queue_delay_us=50_000)
    write_repository(open_model(run), place, ServingOptions("scan", ("python",), batching=batching))
    return place


@pytest.fixture(scope="module")
def server(repository: Path) -> Iterator[LocalTritonServer]:
    with LocalTritonServer(repository) as running:
        yield running


@pytest.mark.long
@needs_program
def test_real_server_segments_volumes(server: LocalTritonServer, repository: Path) -> None:
    predictor = VolumePredictor(repository / "scan_volume" / "1")
    random = np.random.default_rng(0)
    with TritonClient(server.address) as client:
        for shape in ((9, 30, 21), (20, 17, 16)):
            image = random.normal(100, 20, (predictor.plan.num_channels, *shape)).astype(np.float32)
            spacing = np.array([1.5, 1, 1.2], np.float32)
            labels = client.infer("scan_volume", {"image": image, "spacing": spacing})["labels"]
            np.testing.assert_array_equal(labels, predictor.predict(image, tuple(spacing.tolist())))
            assert len(np.unique(labels)) > 1


@pytest.mark.long
@needs_program
def test_real_server_refuses_what_does_not_fit(server: LocalTritonServer) -> None:
    spacing = np.ones(3, np.float32)
    with TritonClient(server.address) as client:
        with pytest.raises(InputError, match=r"answers 400: .*unexpected shape for input 'image'.*got \[7,8,8,8\]"):
            client.infer("scan_volume", {"image": np.zeros((7, 8, 8, 8), np.float32), "spacing": spacing})
        image = np.ones((1, 8, 16, 16), np.float32)
        with pytest.raises(InputError, match=r"answers 400: spacing .*three positive numbers"):
            client.infer("scan_volume", {"image": image, "spacing": 0 * spacing})
        with pytest.raises(InputError, match=r"answers 400: .*got \[1,7,8,16,16\]"):
            client.infer("scan_python_labels", {"image": np.zeros((1, 7, 8, 16, 16), np.float32)})
        with pytest.raises(InputError, match=r"answers 404: .*nobody"):
            client.metadata("nobody")
        assert client.ready()


@pytest.mark.long
@needs_program
def test_real_server_puts_requests_together(server: LocalTritonServer, run: Path) -> None:
    model = open_model(run)
    patches = drawn_patches(model.plan.num_channels, model.plan.patch_size, 4, seed=5)
    with torch.no_grad():
        expected = model.network(patches).softmax(1).numpy()
    found: dict[int, np.ndarray] = {}
    with TritonClient(server.address) as client:
        before = client.statistics("scan_python_probabilities")

        def ask(number: int) -> None:
            with TritonClient(server.address) as mine:
                image = patches[number : number + 1].numpy()
                found[number] = mine.infer("scan_python_probabilities", {"image": image})["probabilities"]

        threads = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        after = client.statistics("scan_python_probabilities")
    # every client gets its own part of the batch; Winograd's products cost a digit
    np.testing.assert_allclose(np.concatenate([found[i] for i in range(4)]), expected, atol=1e-3)
    grown = {key: int(after[key]) - int(before[key]) for key in ("inference_count", "execution_count")}
    assert grown["inference_count"] == 4
    assert grown["execution_count"] < 4
    rows = measure_load(server.address, "scan_python_labels", Load((1, 4), (4,), requests=5))
    assert [row["requests"] for row in rows] == [5, 5, 20]
    assert float(rows[1]["images_per_execution"]) == 4
    assert 1 < float(rows[2]["images_per_execution"]) <= 4


@pytest.mark.long
@needs_program
def test_model_that_cannot_be_loaded(repository: Path, tmp_path: Path) -> None:
    shutil.copytree(repository / "scan_volume", tmp_path / "scan_volume")
    (tmp_path / "scan_volume" / "1" / "export" / "manifest.json").unlink()
    with pytest.raises(InputError, match=r"manifest\.json"), LocalTritonServer(tmp_path, start_s=60):
        pass


@pytest.mark.long
@needs_program
def test_small_images_are_served_ten_times_faster_than_by_commands(make_run: MakeRun, tmp_path: Path) -> None:
    scans = tmp_path / "scans"
    scans.mkdir()
    for number in range(5):
        voxels = np.random.default_rng(number).normal(100, 20, (36, 50, 12)).astype(np.float32)
        nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4)), scans / f"scan_{number}.nii.gz")
    config = REPOSITORY / "bundles" / "nnunet" / "configs" / "inference.json"
    row = compare_with_commands(make_run(flat_plan(), seed=1), scans, config, count=30, command_runs=1)
    assert float(row["times_faster_with_start"]) >= TARGET
    assert float(row["agreement"]) >= 0.99  # voxels of an untrained network that are between two classes


@pytest.mark.long
@pytest.mark.real_data
@needs_program
@pytest.mark.skipif("MONAI_EXT_TEST_RUN" not in os.environ, reason="MONAI_EXT_TEST_RUN: run of the hippocampus")
def test_trained_model_on_real_scans(tmp_path: Path) -> None:
    run = Path(os.environ["MONAI_EXT_TEST_RUN"])
    write_repository(open_model(run), tmp_path, ServingOptions("scan", ()))
    predictor = VolumePredictor(tmp_path / "scan_volume" / "1")
    folder = Path(os.environ["MONAI_EXT_TEST_DATA"]) / "Task04_Hippocampus" / "imagesTr"
    files = sorted(folder.glob("*.nii*"))[:5]
    assert len(files) == 5
    with LocalTritonServer(tmp_path) as server, TritonClient(server.address) as client:
        for file in files:
            image, geometry = read_image([file])
            request = {"image": image.astype(np.float32), "spacing": np.array(geometry.spacing, np.float32)}
            labels = client.infer("scan_volume", request)["labels"]
            np.testing.assert_array_equal(labels, predictor.predict_files([file]).labels)
            assert set(np.unique(labels)) == {0, 1, 2}
