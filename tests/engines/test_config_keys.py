"""Keys: unknown names, wrong types, ranges and choices, all in one report."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from monai.bundle import ConfigWorkflow

from monai_ext.engines.config_keys import KeySpec, unknown_keys
from monai_ext.errors import InputError

KEYS = {
    "max_epochs": {"about": "Length.", "kind": ["int"], "minimum": 1},
    "resume": {"about": "Go on.", "kind": ["bool"]},
    "blend": {"about": "Weights.", "kind": ["str"], "choices": ["gaussian", "constant"]},
    "fold": {"about": "Fold.", "kind": ["int", "str"], "minimum": 0, "choices": ["all"]},
}
BASE = {
    "imports": ["$import monai_ext.engines.config_keys as config_keys"],
    "max_epochs": 3,
    "resume": False,
    "blend": "gaussian",
    "fold": 0,
    "train": {"trainer": {"_target_": "dict", "max_epochs": "@max_epochs"}},
    "initialize": ["$config_keys.check_config('train.json')"],
    "run": ["$print(@train#trainer)"],
}


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    folder = tmp_path / "configs"
    folder.mkdir()
    (folder / "train.json").write_text(json.dumps(BASE))
    (folder / "keys.json").write_text(json.dumps(KEYS))
    (folder / "metadata.json").write_text("{}")
    return folder


def message(bundle: Path, *overlays: dict, **overrides: object) -> str:
    """Text of the refusal; fails if the config is accepted."""
    files = [str(bundle / "train.json")]
    for i, overlay in enumerate(overlays):
        (bundle / f"overlay{i}.json").write_text(json.dumps(overlay))
        files.append(str(bundle / f"overlay{i}.json"))
    workflow = ConfigWorkflow(config_file=files, logging_file=False, **overrides)
    with pytest.raises(RuntimeError) as caught:
        workflow.initialize()
    assert isinstance(caught.value.__cause__, InputError)
    return str(caught.value.__cause__)


def test_typo_is_refused_with_the_nearest_name(bundle: Path) -> None:
    text = message(bundle, max_epoch=5)
    assert "--max_epoch:" in text
    assert "did you mean max_epochs" in text


def test_all_problems_come_at_once(bundle: Path) -> None:
    text = message(bundle, max_epoch=5, resume="yes", blend="linear", max_epochs=0)
    assert "4 problems" in text
    assert "must be bool" in text
    assert "one of ['gaussian', 'constant']" in text
    assert "at least 1" in text


def test_typo_in_an_overlay_is_refused_too(bundle: Path) -> None:
    assert "--max_epocs" in message(bundle, {"max_epocs": 3})


def test_typo_in_a_section_is_refused(bundle: Path) -> None:
    assert "--train#trainr" in message(bundle, {"train#trainr": 1})


def test_new_key_that_something_refers_to_is_fine(bundle: Path) -> None:
    (bundle / "overlay.json").write_text(json.dumps({"own_length": 7, "max_epochs": "@own_length"}))
    files = [str(bundle / "train.json"), str(bundle / "overlay.json")]
    ConfigWorkflow(config_file=files, logging_file=False).initialize()


def test_unknown_fold_name(bundle: Path) -> None:
    assert "one of ['all']" in message(bundle, fold="every")
    ConfigWorkflow(config_file=str(bundle / "train.json"), logging_file=False, fold="all").initialize()


def test_boolean_is_no_integer() -> None:
    assert KeySpec(about="", kind=["int"]).mismatch(True) is not None
    assert KeySpec(about="", kind=["float"]).mismatch(3) is None


def test_component_arguments_are_left_to_their_constructor() -> None:
    base = {"network": {"_target_": "a.B", "width": 3}}
    assert unknown_keys({"network": {"_target_": "c.D", "depth": 3}}, base) == []
