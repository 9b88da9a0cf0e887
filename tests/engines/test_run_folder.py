"""Where runs write and how a trained model is found."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from monai_ext.engines import run_folder
from monai_ext.engines.run_folder import (
    check_plan_beside,
    cpu_bfloat16,
    default_num_workers,
    default_output_dir,
    existing,
    find_model,
    mirror_axes,
    mixed_precision,
    native_mixed_precision,
    on_device,
    plan_beside,
    plan_of_model,
)
from monai_ext.errors import InputError
from monai_ext.planning.msd_plans import named_plan


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def model(*parts: str) -> Path:
    path = Path(*parts) / "model.pt"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"x")
    return path


def test_output_folder_names_bundle_dataset_and_fold() -> None:
    assert Path(default_output_dir("/a/bundles/nnunet", "/data/Task04/", 3)) == Path("runs/nnunet/Task04/3")
    assert Path(default_output_dir("/a/bundles/nnunet", "", "all")) == Path("runs/nnunet/phantom/all")


def test_given_model_may_be_a_file_or_its_folder() -> None:
    path = model("some", "run")
    assert find_model(str(path), "bundle") == find_model(str(path.parent), "bundle") == str(path)
    with pytest.raises(InputError, match="model not found"):
        find_model("absent.pt", "bundle")


def test_own_model_of_the_bundle_comes_first() -> None:
    own = model("bundle", "models")
    model("runs", "bundle", "a", "0")
    assert find_model("", "bundle") == str(own)


def test_only_trained_model_is_taken_and_several_are_listed() -> None:
    first = model("runs", "bundle", "a", "0")
    assert find_model("", "bundle") == str(first)
    second = model("runs", "bundle", "b", "1")
    with pytest.raises(InputError, match="several") as caught:
        find_model("", "bundle")
    assert str(first) in str(caught.value)
    assert str(second) in str(caught.value)


def test_plan_lies_beside_the_weights_else_the_default_serves() -> None:
    path = Path("run") / "model.pt"
    default = str(Path("bundle", "configs", "default_plan.json"))
    assert plan_beside(str(path), "bundle") == default
    model("run")
    with pytest.raises(InputError, match=r"no plan\.json beside it"):
        plan_beside(str(path), "bundle")
    (path.parent / "plan.json").write_text("{}")
    assert plan_beside(str(path), "bundle") == str(path.parent / "plan.json")
    assert plan_of_model("", "elsewhere") == str(Path("elsewhere", "configs", "default_plan.json"))
    with pytest.raises(InputError):
        plan_of_model("absent.pt", "bundle")


def test_training_refuses_the_plan_of_another_model(tmp_path: Path) -> None:
    plan = named_plan("04")
    (tmp_path / "plan.json").write_text(plan.to_json())
    check_plan_beside(plan.with_changes("another reason", batch_size=plan.batch_size), str(tmp_path / "model.pt"))
    with pytest.raises(InputError, match="--resume True"):
        check_plan_beside(plan.with_changes("", batch_size=9), str(tmp_path / "model.pt"))
    with pytest.raises(InputError, match="--ckpt_path"):
        check_plan_beside(plan, str(tmp_path / "elsewhere" / "model.pt"))


def test_workers_leave_room_for_training(monkeypatch: pytest.MonkeyPatch) -> None:
    for processors, workers in ((1, 0), (2, 0), (6, 4), (64, 8)):
        monkeypatch.setattr("os.sched_getaffinity", lambda _, n=processors: set(range(n)), raising=False)
        assert default_num_workers() == workers


def test_input_must_be_given_and_exist() -> None:
    with pytest.raises(InputError, match="--input is empty"):
        existing("", "input")
    with pytest.raises(InputError, match=r"--input nowhere: does not exist"):
        existing("nowhere", "input")


def test_flips_are_averaged_only_if_the_model_saw_them(caplog: pytest.LogCaptureFixture) -> None:
    assert mirror_axes((0, 2), True) == (0, 2)
    assert mirror_axes((0, 2), False) == ()
    assert caplog.text == ""
    assert mirror_axes((), True) == ()
    assert "without flips" in caplog.text


def test_mixed_precision_is_of_the_engine_on_cuda_and_of_the_call_elsewhere(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert native_mixed_precision("cuda:0")
    assert mixed_precision(True, "cuda:0")
    assert not mixed_precision(True, "cpu")
    assert not cpu_bfloat16(True, "cuda:0")
    for native in (True, False):
        monkeypatch.setattr(run_folder, "has_native_bfloat16", lambda native=native: native)
        assert native_mixed_precision("cpu") == native
        assert not cpu_bfloat16(False, "cpu")
        assert caplog.text == ""
        assert cpu_bfloat16(True, "cpu") == native
    assert "float32" in caplog.text


def test_slices_and_volumes_of_a_fold_train_side_by_side() -> None:
    assert default_output_dir("b/nnunet", "D", 1) == "runs/nnunet/D/1"
    assert default_output_dir("b/nnunet", "D", 1, 2) == "runs/nnunet/D/1_2d"


def test_channels_last_is_chosen_by_the_weights() -> None:
    for conv, layout in ((torch.nn.Conv2d, torch.channels_last), (torch.nn.Conv3d, torch.channels_last_3d)):
        weight = next(on_device(conv(4, 8, 3), "cpu", True).parameters())
        assert weight.is_contiguous(memory_format=layout)
        assert next(on_device(conv(4, 8, 3), "cpu", False).parameters()).is_contiguous()
