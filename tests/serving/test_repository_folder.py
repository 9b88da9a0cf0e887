"""Model repositories as folders: versions, what is replaced, what is refused, and what a failure leaves."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from monai_ext.errors import InputError
from monai_ext.export.trained_model import open_model
from monai_ext.serving.serving_options import ServingOptions
from monai_ext.serving.triton_config import Batching
from monai_ext.serving.triton_repository import write_repository
from small_segmenter import small_plan

pytest.importorskip("onnxruntime")
pytest.importorskip("onnx")

MakeRun = Callable[..., Path]


@pytest.fixture(scope="module")
def run(make_run: MakeRun) -> Path:
    return make_run(small_plan(), seed=3)


def test_versions(run: Path, tmp_path: Path) -> None:
    model = open_model(run)
    options: dict[str, Any] = {"name": "a", "backends": ("torchscript",), "outputs": ("labels",), "pipeline": False}
    (folder,) = write_repository(model, tmp_path, ServingOptions(**options))
    first = (folder / "1" / "model.pt").stat().st_mtime_ns
    with pytest.raises(InputError, match=r"has a version 1\. Cure: --version 2, or --overwrite True"):
        write_repository(model, tmp_path, ServingOptions(**options))
    write_repository(model, tmp_path, ServingOptions(**options, version=2))
    assert (folder / "1" / "model.pt").stat().st_mtime_ns == first
    assert (folder / "2" / "model.pt").is_file()
    with pytest.raises(InputError, match=r"config\.pbtxt: differs from the new version's"):
        write_repository(model, tmp_path, ServingOptions(**options, version=3, batching=Batching(8)))
    assert {path.name for path in tmp_path.iterdir()} == {folder.name}
    assert not (folder / "3").exists()
    write_repository(model, tmp_path, ServingOptions(**options, overwrite=True, batching=Batching(8)))
    assert {path.name for path in folder.iterdir()} == {"1", "config.pbtxt"}
    assert "max_batch_size: 8\n" in (folder / "config.pbtxt").read_text()


def test_what_is_replaced_is_lost_at_no_time(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that polls must not see a model without its files, nor a person lose it to a disk that fails."""
    model, place = open_model(run), tmp_path / "repository"
    options = ServingOptions(name="a", backends=("torchscript",), outputs=("labels",), pipeline=False, overwrite=True)
    (folder,) = write_repository(model, place, options)
    held = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    rename = Path.rename

    def failing(self: Path, target: Path) -> Path:
        if target == folder and not self.name.startswith(".replaced"):
            assert not folder.exists()  # moved away in one step
            raise OSError(errno.EIO, "Input/output error")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(InputError, match="Input/output error"):
        write_repository(model, place, options)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == held
    assert [path.name for path in tmp_path.iterdir()] == ["repository"]


def test_everything_that_cannot_be_is_said_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    model = SimpleNamespace(bundle="mask_rcnn", ckpt_path="model.pt")
    no: Any = "no"  # which the command line gives as text
    options = ServingOptions("a/b", ("onnx", "keras"), ("boxes",), no, 0, Batching(2, (4,), -1), 0, "tpu", -1, False)
    with pytest.raises(InputError) as caught:
        write_repository(model, tmp_path / "file", options)
    for part in (
        "bundle mask_rcnn", "is a file", "--name a/b", "--backends keras", "--outputs boxes", "--device tpu",
        "--version 0", "--instances 0", "--threads -1", "--queue_delay_us -1", "--preferred 4", "--pipeline no",
    ):  # fmt: skip
        assert part in str(caught.value), part


def test_failed_export_leaves_nothing(run: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="differs from the network"):
        write_repository(open_model(run), tmp_path / "a", ServingOptions(), precision="float16", tolerance=1e-9)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(InputError, match=r"--speed.*: unknown"):
        write_repository(open_model(run), tmp_path / "a", ServingOptions(), speed=3)
    with pytest.raises(InputError, match="leave nothing to serve"):
        write_repository(open_model(run), tmp_path / "a", ServingOptions(outputs=()))
    assert list(tmp_path.iterdir()) == []
