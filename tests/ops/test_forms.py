"""Which form runs: never a silent fallback, never an unchecked kernel, never a stale build."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from monai_ext.errors import InputError
from monai_ext.ops import cpu_build, forms

CPU = torch.device("cpu")
needs_compiler = pytest.mark.skipif(not any(map(shutil.which, ("g++", "clang++", "c++"))), reason="no C++ compiler")


@pytest.fixture
def fresh_choice():
    """Nothing is remembered before, and nothing of the test after."""
    for remembered in (forms._automatic, forms._checked):
        remembered.cache_clear()
    yield
    for remembered in (forms._automatic, forms._checked):
        remembered.cache_clear()


def in_new_process(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, **environment}, check=False
    )


SUM = (
    "import torch; from monai_ext.ops.instance_norm_act import instance_norm_act as f;"
    "x = torch.arange(24.).view(1, 2, 3, 4); print(f(x, torch.ones(2), torch.zeros(2)).sum().item());"
    "f(x, torch.ones(2), torch.zeros(2))"
)


def test_without_a_compiler_plain_torch_runs_and_says_so_once(tmp_path: Path) -> None:
    done = in_new_process(SUM, CXX=str(tmp_path / "no-such-compiler"), MONAI_EXT_CACHE=str(tmp_path))
    assert done.returncode == 0
    assert done.stderr.count("instance_norm_act runs as plain torch on cpu: no C++ compiler found") == 1
    with forms.forced("torch"):
        from monai_ext.ops.instance_norm_act import instance_norm_act

        expected = instance_norm_act(torch.arange(24.0).view(1, 2, 3, 4), torch.ones(2), torch.zeros(2)).sum().item()
    assert float(done.stdout) == pytest.approx(expected, abs=1e-5)


@pytest.mark.skipif(shutil.which("false") is None, reason="no program named false")
def test_failing_compiler_is_told(tmp_path: Path) -> None:
    done = in_new_process(SUM, CXX=str(shutil.which("false")), MONAI_EXT_CACHE=str(tmp_path))
    assert done.returncode == 0
    assert "failed" in done.stderr
    assert not list(tmp_path.glob("*.so")) + list(tmp_path.glob("*.partial"))


@needs_compiler
def test_library_is_built_once_and_anew_for_another_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ops = tmp_path / "ops"
    (ops / "one").mkdir(parents=True)
    source = ops / "one" / "kernel.cpp"
    source.write_text('extern "C" int answer() { return 41; }\n')
    monkeypatch.setattr(cpu_build, "_OPS", ops)
    monkeypatch.setattr(cpu_build, "_cache_folder", lambda: tmp_path)
    first = cpu_build.library.__wrapped__("one")
    made = first.stat().st_mtime_ns
    assert cpu_build.library.__wrapped__("one") == first
    assert first.stat().st_mtime_ns == made
    source.write_text('extern "C" int answer() { return 42; }\n')
    second = cpu_build.library.__wrapped__("one")
    assert second != first
    import ctypes

    assert ctypes.CDLL(str(second)).answer() == 42
    assert not list(tmp_path.glob("*.partial"))


def test_folder_that_others_may_write_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    monkeypatch.setenv(cpu_build.CACHE_VARIABLE, str(shared))
    with pytest.raises(cpu_build.BuildError, match="MONAI_EXT_CACHE"):
        cpu_build._cache_folder.__wrapped__()


@needs_compiler
def test_kernel_that_disagrees_is_not_used(
    fresh_choice: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from monai_ext.ops.instance_norm_act import cpu

    right = cpu.forward

    def wrong(*arguments):
        y, mean, rstd = right(*arguments)
        return y + 1e-3, mean, rstd

    monkeypatch.setattr(cpu, "forward", wrong)
    with caplog.at_level(logging.WARNING):
        found = forms.implementation("instance_norm_act", CPU)
        forms.implementation("instance_norm_act", CPU)
    assert found.__name__.endswith(".reference")
    assert len(caplog.records) == 1
    assert "failed its check" in caplog.text
    row = next(r for r in forms.describe_forms() if (r.op, r.device) == ("instance_norm_act", "cpu"))
    assert row.form == "torch"
    assert "failed its check" in row.why


@needs_compiler
def test_first_use_may_be_inside_of_inference_and_autocast(fresh_choice: None) -> None:
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        assert forms.implementation("instance_norm_act", CPU).__name__.endswith(".cpu")


@pytest.mark.parametrize("op", forms.OPS)
def test_every_op_has_probes(op: str) -> None:
    from monai_ext.ops.check import cases_of

    assert any(case.probe and not case.recipe for case in cases_of(op))


def test_forced_form_that_is_missing_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forms, "_load", lambda op, form: (None, "none here"))
    with forms.forced("triton"), pytest.raises(RuntimeError, match="none here"):
        forms.implementation("instance_norm_act", CPU)
    assert forms.chosen() == "auto"


def test_unknown_form_is_refused() -> None:
    with pytest.raises(InputError, match="fast"):
        forms.choose("fast")


def test_single_ops_may_be_plain_torch() -> None:
    cpu = torch.device("cpu")
    fused = forms.implementation("match_anchors", cpu)
    try:
        forms.choose_for({"nms": False, "match_anchors": True})
        assert forms.implementation("nms", cpu).__name__ == "monai_ext.ops.nms.reference"
        assert forms.implementation("match_anchors", cpu) is fused
        with forms.forced("torch"):
            assert forms.implementation("match_anchors", cpu).__name__.endswith("reference")
        with pytest.raises(InputError, match=r"nmss"):
            forms.choose_for({"nmss": False})
    finally:
        forms.choose_for({})
    assert forms.implementation("nms", cpu) is not forms.import_module("monai_ext.ops.nms.reference")


def test_other_devices_run_plain_torch() -> None:
    assert forms.implementation("instance_norm_act", SimpleNamespace(type="mps")).__name__.endswith(".reference")  # type: ignore[arg-type]
