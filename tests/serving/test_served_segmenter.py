"""Exports that cannot be served: one clear error each."""

from __future__ import annotations

import builtins
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from monai_ext.errors import InputError
from monai_ext.file_digest import file_sha256
from monai_ext.serving.onnx_session import open_session
from monai_ext.serving.served_segmenter import export_folder, open_segmenter


@pytest.fixture
def folder(exported: Path, tmp_path: Path) -> Path:
    """A copy of an export, to be spoilt."""
    return Path(shutil.copytree(exported, tmp_path / "export"))


def edit_manifest(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    for entry in manifest["artefacts"]:
        entry["sha256"] = file_sha256(folder / entry["file"])
    path.write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.pop("plan"), "manifest.json: holds no plan, without which no image can be prepared"),
        (lambda m: m["plan"].pop("spacing"), "manifest.json, plan is not a valid plan"),
        (lambda m: m["plan"].update(spacing=[1.0]), "spacing has 1 entries for 3 axes"),
        (lambda m: m["plan"].update(channels=["T1", "T2"], normalization=["none"] * 2,
                                    intensity=m["plan"]["intensity"] * 2),
         "model.onnx: 1 problem\n  - input: is .*1, 8, 16, 16.*, the plan's windows are .*2, 8, 16, 16"),
        (lambda m: m["plan"].update(patch_size=[16, 16, 16]), "the plan's windows are .*1, 16, 16, 16"),
        (lambda m: m["plan"]["labels"].update(more=3), "output: has 3 channels, logits of this plan have 4"),
        (lambda m: m.update(plan={"geometry": "tile"}), "is a model of unet_em, this takes one of nnunet"),
        (lambda m: m.update(plan={"a": 1}), "is a model of no known bundle"),
        (lambda m: m.update(output={"name": "boxes"}), "output 'boxes' is none of logits, probabilities, labels"),
        (lambda m: m.update(output="logits"), "output None is none of"),
        (lambda m: m.update(format_version=2), "format_version 2 is not 1"),
        (lambda m: m["artefacts"][0].update(format="torchscript"), "lists no ONNX file"),
    ],
)  # fmt: skip
def test_manifests_that_do_not_fit(folder: Path, change: Callable[[dict[str, Any]], Any], message: str) -> None:
    edit_manifest(folder, change)
    with pytest.raises(InputError, match=message) as caught:
        open_segmenter(folder)
    assert "Cure: " in str(caught.value)


def test_unknown_operator_set(folder: Path) -> None:
    import onnx

    model = onnx.load(folder / "model.onnx")
    model.opset_import[0].version = 99
    onnx.save(model, folder / "model.onnx")
    edit_manifest(folder, lambda m: None)
    with pytest.raises(
        InputError, match=r"asks for operators that onnxruntime .* does not have \(Opset 99 .*Cure: a newer"
    ):
        open_segmenter(folder)


def test_unknown_operator(folder: Path) -> None:
    import onnx

    model = onnx.load(folder / "model.onnx")
    next(node for node in model.graph.node if node.op_type == "Conv").op_type = "Convolution4D"
    onnx.save(model, folder / "model.onnx")
    edit_manifest(folder, lambda m: None)
    with pytest.raises(InputError, match=r"does not have \(No Op registered for Convolution4D"):
        open_segmenter(folder)


def test_changed_and_damaged_files(folder: Path) -> None:
    file = folder / "model.onnx"
    content = file.read_bytes()
    file.write_bytes(content[:1000])
    with pytest.raises(InputError, match=r"model\.onnx: has changed since the export"):
        open_segmenter(folder)
    edit_manifest(folder, lambda m: None)
    with pytest.raises(InputError, match=r"model\.onnx: cannot be run by onnxruntime .* Cure: export it again"):
        open_segmenter(folder)
    file.unlink()
    with pytest.raises(InputError, match=r"model\.onnx: is listed but does not exist"):
        open_segmenter(folder)
    with pytest.raises(InputError, match="does not exist"):
        open_session(file)


def test_folders(exported: Path, tmp_path: Path) -> None:
    assert export_folder(exported) == exported
    assert export_folder(exported.parent) == exported
    with pytest.raises(InputError, match=r"holds no manifest\.json. Cure: export the model first"):
        export_folder(tmp_path)
    with pytest.raises(InputError, match=r"nowhere: is no folder. Cure: export the model first"):
        export_folder(tmp_path / "nowhere")


def test_providers(exported: Path) -> None:
    with pytest.raises(InputError, match=r"--providers npu: is not known. Cure: one of cpu, cuda, tensorrt"):
        open_segmenter(exported, providers="npu")
    for threads in (-1, 100_000):
        with pytest.raises(InputError, match=f"threads {threads}: must be from 0 to 1024"):
            open_segmenter(exported, threads=threads)
    import onnxruntime

    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        with pytest.raises(
            InputError, match=r"--providers cuda: onnxruntime has .* only. Cure: --providers cpu, or pip"
        ):
            open_segmenter(exported, providers="cuda")


def test_threads(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    file = exported / "model.onnx"
    assert open_session(file).get_session_options().intra_op_num_threads == 3
    assert open_session(file, threads=2).get_session_options().intra_op_num_threads == 2


def test_runtime_that_is_not_installed(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def missing(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "onnxruntime":
            raise ImportError("No module named 'onnxruntime'")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(
        InputError, match=r"needs onnxruntime, which is not installed .* pip install 'monai-ext\[onnx\]'"
    ):
        open_segmenter(exported)


def test_scores_that_are_not_finite_and_a_runtime_that_fails(exported: Path) -> None:
    """float16 overflows on unusual grey values: every comparison with NaN is false, all would become background."""
    served = open_segmenter(exported)
    windows = np.zeros((1, *served.window), np.float32)
    assert np.isfinite(served(windows)).all()
    windows[0, 0, 1, 1, 1] = np.inf
    with pytest.raises(InputError, match=r"model\.onnx: gives scores that are NaN or infinite in float32.*--precision"):
        served(windows)
    with pytest.raises(InputError, match=r"model\.onnx: onnxruntime failed on windows \[1, 1\] \(.*Cure: more memory"):
        served(windows[:, :, 0, 0, 0])
    with pytest.raises(InputError, match=r"--precision 16: .* lists float32\. Cure: one of these$"):
        open_segmenter(exported, precision="16")
