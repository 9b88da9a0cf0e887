"""TorchScript files: what is inside, and that they need nothing of this package."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from monai.data import load_net_with_metadata
from torch import nn

from monai_ext.export.deployed_classifier import DeployedClassifier
from monai_ext.export.torchscript import export_torchscript, torchscript_runner
from monai_ext.planning.class_plan import ClassPlan

pytestmark = pytest.mark.filterwarnings("ignore")  # torch's own, about TorchScript's future

ALONE = """
import sys, warnings
sys.modules["monai_ext"] = None  # an import would now fail
warnings.simplefilter("ignore")
import torch
x, y = torch.load("expected.pt")
for way in ("script", "trace"):
    module = torch.jit.load(way + ".ts")
    assert "monai_ext::" not in str(module.inlined_graph)
    torch.testing.assert_close(module(x), y)
    print(way)
"""


def test_files_run_without_this_package(
    network: nn.Module, plan: ClassPlan, images: torch.Tensor, tmp_path: Path
) -> None:
    module = DeployedClassifier(network, plan.mean, plan.std).eval()
    for way in ("script", "trace"):
        export_torchscript(module, tmp_path / f"{way}.ts", images[:1], way)
    with torch.no_grad():
        torch.save((images, module(images)), tmp_path / "expected.pt")
    done = subprocess.run([sys.executable, "-c", ALONE], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.stdout == "script\ntrace\n", done.stderr


def test_texts_and_metadata_are_inside(tmp_path: Path) -> None:
    path = tmp_path / "model.ts"
    export_torchscript(nn.Linear(2, 1), path, about={"classes": ["a"]}, texts={"plan.json": "{}"})
    _, about, texts = load_net_with_metadata(str(path), more_extra_files=("plan.json",))
    assert about["classes"] == ["a"]
    assert texts["plan.json"] == b"{}"


def test_mode_is_restored_and_the_file_is_for_inference(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Dropout(0.5)).train()
    run = torchscript_runner(export_torchscript(module, tmp_path / "model.ts"))
    assert module.training
    x = torch.randn(100)
    torch.testing.assert_close(run(x), x)


def test_unknown_way(tmp_path: Path) -> None:
    for way in ("compile", "trace"):
        with pytest.raises(ValueError, match="way must be one of script, trace"):
            export_torchscript(nn.Linear(2, 1), tmp_path / "model.ts", way=way)
