"""From a raw folder to stored cases: done once, and only what changed is done again."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from monai_ext.datasets.phantom import make_phantom
from monai_ext.engines import preparation
from monai_ext.engines.preparation import held_out_cases, open_source, prepare
from monai_ext.errors import InputError
from monai_ext.planning.plan import Plan


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_phantom(tmp_path_factory.mktemp("data") / "Phantom", num_cases=5)


def run(raw: Path, folder: Path, **options: Any) -> preparation.Prepared:
    plan_options = {"memory_gb": 8, "base_features": 8, "spacing": (), "patch_size": (), "batch_size": 2}
    plan_options |= options.pop("plan_options", {})
    source = open_source(str(raw), str(folder / "store"), options.pop("fold", 0))
    return prepare(source, str(folder / "run"), str(folder / "store"), plan_options, **options)


def stamps(folder: Path) -> dict[str, int]:
    return {str(p.relative_to(folder)): p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()}


def test_second_run_does_nothing(raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = run(raw, tmp_path)
    before = stamps(tmp_path / "store")
    monkeypatch.setattr(preparation, "compute_fingerprint", lambda *_, **__: pytest.fail("fingerprint made again"))
    second = run(raw, tmp_path)
    assert stamps(tmp_path / "store") == before
    assert second.plan == first.plan
    assert Plan.load(tmp_path / "run" / "plan.json") == first.plan


def test_topology_may_change_without_new_cases(raw: Path, tmp_path: Path) -> None:
    run(raw, tmp_path)
    before = stamps(tmp_path / "store" / "cases")
    changed = run(raw, tmp_path, plan_options={"base_features": 16, "patch_size": (16, 32, 32)})
    assert stamps(tmp_path / "store" / "cases") == before
    assert (changed.plan.features[0], changed.plan.patch_size) == (16, (16, 32, 32))


def test_other_spacing_redoes_the_cases(raw: Path, tmp_path: Path) -> None:
    run(raw, tmp_path)
    before = stamps(tmp_path / "store" / "cases")
    run(raw, tmp_path, plan_options={"spacing": (2.0, 1.0, 1.0)})
    after = stamps(tmp_path / "store" / "cases")
    assert set(after) == set(before)
    assert all(after[name] != before[name] for name in before)


def test_changed_dataset_is_fingerprinted_again(raw: Path, tmp_path: Path) -> None:
    run(raw, tmp_path)
    before = (tmp_path / "store" / "fingerprint.json").stat().st_mtime_ns
    image = sorted((raw / "imagesTr").glob("*.nii.gz"))[0]
    os.utime(image, ns=(1, 1))
    run(raw, tmp_path)
    assert (tmp_path / "store" / "fingerprint.json").stat().st_mtime_ns != before


def test_fold_parts_cover_the_training_cases(raw: Path, tmp_path: Path) -> None:
    source = open_source(str(raw), str(tmp_path), fold=2)
    train, val = source.cases("train"), source.cases("val")
    assert (len(train), len(val)) == (4, 1)
    assert {c.name for c in (*train, *val)} == {c.name for c in source.dataset.training}


def test_plan_of_a_training_is_not_replaced(raw: Path, tmp_path: Path) -> None:
    trained = run(raw, tmp_path).plan
    (tmp_path / "run" / "last.pt").write_bytes(b"x")
    run(raw, tmp_path)
    with pytest.raises(InputError, match=r"features: \(8, .*\) -> \(16, (.|\n)*--plan_file"):
        run(raw, tmp_path, plan_options={"base_features": 16})
    with pytest.raises(InputError, match=r"train cases of the fold: 2 of them differ"):
        run(raw, tmp_path, fold=1)
    assert Plan.load(tmp_path / "run" / "plan.json") == trained


def test_overwritten_training_is_set_aside(raw: Path, tmp_path: Path) -> None:
    trained = run(raw, tmp_path).plan
    (tmp_path / "run" / "model.pt").write_bytes(b"weights")
    run(raw, tmp_path, plan_options={"base_features": 16}, overwrite=True)
    assert Plan.load(tmp_path / "run" / "plan.json").features[0] == 16
    assert not (tmp_path / "run" / "model.pt").exists()
    assert (tmp_path / "run" / "previous-1" / "model.pt").read_bytes() == b"weights"
    assert Plan.load(tmp_path / "run" / "previous-1" / "plan.json") == trained
    with pytest.raises(InputError, match="exclude each other"):
        run(raw, tmp_path, overwrite=True, resume=True)


def test_evaluation_refuses_cases_of_the_training(raw: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run(raw, tmp_path)
    model = str(tmp_path / "run" / "model.pt")
    same = open_source(str(raw), str(tmp_path))
    assert [c.name for c in held_out_cases(same, model)] == list(same.fold.val)
    with pytest.raises(InputError, match=r"trained on 1 of the 1 validation cases.*nfolds"):
        held_out_cases(open_source(str(raw), str(tmp_path), fold=1), model)
    run(raw, tmp_path / "all", fold="all")
    caplog.clear()
    everything = open_source(str(raw), str(tmp_path), fold="all")
    assert len(held_out_cases(everything, str(tmp_path / "all" / "run" / "model.pt"))) == 5
    assert "not of held-out cases" in caplog.text


def test_plan_of_another_dataset_is_refused(raw: Path, tmp_path: Path) -> None:
    plan = run(raw, tmp_path).plan.with_changes("test", labels={"background": 0, "liver": 1})
    (tmp_path / "other.json").write_text(plan.to_json())
    with pytest.raises(InputError, match=r"other.json.*liver.*Cure"):
        run(raw, tmp_path, plan_file=str(tmp_path / "other.json"))


def test_plan_allows_only_flips_of_the_training(raw: Path, tmp_path: Path) -> None:
    assert run(raw, tmp_path).plan.mirror_axes == ()
    assert run(raw, tmp_path, mirror=0.5).plan.mirror_axes == (0, 1, 2)
    file = tmp_path / "edited.json"
    file.write_text(run(raw, tmp_path).plan.to_json())
    assert run(raw, tmp_path, plan_file=str(file), mirror=0.5).plan.mirror_axes == (0, 1, 2)


def test_named_plan_of_a_published_task(raw: Path, tmp_path: Path) -> None:
    prepared = run(raw, tmp_path, task="04")
    assert prepared.plan.patch_size == (40, 56, 40)
    assert prepared.plan.labels == prepared.source.dataset.labels
