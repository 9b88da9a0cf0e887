"""What importing costs and must not do."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("itk", "matplotlib", "scipy.ndimage", "tensorboard", "PIL", "pycocotools", "onnx", "triton")


def loaded_after(statement: str) -> set[str]:
    code = f"import sys; {statement}; print('\\n'.join(sys.modules))"
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_package_loads_neither_torch_nor_monai() -> None:
    assert loaded_after("import monai_ext") & {"torch", "monai", "numpy"} == set()


@pytest.mark.parametrize("module", ["preparation", "raw_volumes", "prediction_outputs", "tensorboard_log"])
def test_engines_load_heavy_libraries_only_where_they_are_used(module: str) -> None:
    before = loaded_after("import torch, monai.bundle, monai.engines, monai.handlers, ignite.engine")
    after = loaded_after(
        f"import torch, monai.bundle, monai.engines, monai.handlers, ignite.engine, monai_ext.engines.{module}"
    )
    assert {name for name in after - before if name in HEAVY} == set()


def test_import_is_quick_beyond_torch_and_monai() -> None:
    code = (
        "import torch, monai.bundle, monai.engines, monai.handlers, ignite.engine, time; t = time.process_time(); "
        "import monai_ext.engines.preparation, monai_ext.engines.prediction_outputs; "
        "import monai_ext.engines.training_report; "
        "assert not torch.cuda.is_initialized(); print(time.process_time() - t)"
    )
    for _ in range(3):  # processor time does not count other programs, but they take caches and half of a core
        done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
        if float(done.stdout) < 0.5:
            return
    pytest.fail(f"{done.stdout.strip()} s of processor time")
