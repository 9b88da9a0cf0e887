"""nnU-Net bundle: the config files themselves."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from monai.bundle import ConfigWorkflow, verify_metadata, verify_net_in_out

from bundle_commands import NNUNET, Finished, bundle_run
from monai_ext.engines.config_keys import load_key_specs

TRAIN = json.loads((NNUNET / "train.json").read_text())
INFERENCE = json.loads((NNUNET / "inference.json").read_text())


def is_plain_key(name: str, value: object) -> bool:
    """A key a person sets: a value or an expression that yields one, not a component, section or list of steps."""
    if name in ("imports", "bundle_root", "plan_options", "augmentation"):
        return False
    if isinstance(value, str) and (value.startswith("%") or (value.startswith("$") and name in ("network", "loss"))):
        return False
    if isinstance(value, list):
        return all(isinstance(v, int | float) for v in value)
    return not isinstance(value, dict)


@pytest.mark.parametrize("config", [TRAIN, INFERENCE], ids=["train", "inference"])
def test_every_key_is_described(config: dict) -> None:
    specs = load_key_specs(NNUNET / "keys.json")
    keys = {name for name, value in config.items() if is_plain_key(name, value)}
    assert keys - set(specs) == set()


def test_no_description_without_a_key() -> None:
    assert set(load_key_specs(NNUNET / "keys.json")) <= set(TRAIN) | set(INFERENCE)


def test_training_and_inference_agree() -> None:
    """The network is the same but for the heads that only training needs; so are the keys that shape it."""
    train, infer = dict(TRAIN["network_def"]), dict(INFERENCE["network_def"])
    assert train.pop("deep_supervision") == "@deep_supervision"
    assert infer.pop("deep_supervision") is False
    assert train.pop("up_init") == "@up_init"  # loaded weights replace it
    assert train == infer
    shared = ("overlap", "blend", "amp", "amp_dtype", "device", "tta")
    assert {k: TRAIN[k] for k in shared} == {k: INFERENCE[k] for k in shared}


def test_run_is_an_alias_of_the_documented_command() -> None:
    assert TRAIN["run"] == "%training"
    assert INFERENCE["run"] == "%inference"


@pytest.mark.parametrize(("file", "kind"), [("train.json", "train"), ("inference.json", "infer")])
def test_monai_finds_every_property(
    file: str, kind: str, trained: tuple[Path, Finished], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    model = {"ckpt_path": str(trained[0] / "runs/nnunet/phantom/0/model.pt")} if kind == "infer" else {}
    workflow = ConfigWorkflow(config_file=str(NNUNET / file), workflow_type=kind, logging_file=False, **model)
    workflow.initialize()
    assert workflow.check_properties() in (None, [])


@pytest.mark.parametrize("file", ["train.json", "inference.json"])
def test_network_fits_the_metadata_without_data_or_training(
    file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    # the training network returns a list, which MONAI's check cannot measure; without deep supervision it is a tensor
    overrides = {"deep_supervision": False} if file == "train.json" else {}
    meta, config = str(NNUNET / "metadata.json"), str(NNUNET / file)
    verify_net_in_out(net_id="network_def", meta_file=meta, config_file=config, device="cpu", **overrides)
    assert list(tmp_path.iterdir()) == []


def test_metadata_follows_the_schema(tmp_path: Path) -> None:
    schema = tmp_path / "schema.json"
    shutil.copy(Path(__file__).parent / "metadata_schema.json", schema)
    verify_metadata(meta_file=str(NNUNET / "metadata.json"), filepath=str(schema))
    broken = json.loads((NNUNET / "metadata.json").read_text())
    del broken["network_data_format"]["inputs"]["image"]["num_channels"]
    (tmp_path / "metadata.json").write_text(json.dumps(broken))
    with pytest.raises(ValueError, match="num_channels"):
        verify_metadata(meta_file=str(tmp_path / "metadata.json"), filepath=str(schema))


def test_describe_lists_every_key(tmp_path: Path) -> None:
    done = bundle_run(tmp_path, "describe")
    assert done.status == 0, done.err
    specs = load_key_specs(NNUNET / "keys.json")
    for name in (n for n in TRAIN if n in specs):
        assert f"--{name} " in done.out
        assert specs[name].about in done.out
    assert list(tmp_path.iterdir()) == []


def test_misspelt_key_is_refused(tmp_path: Path) -> None:
    done = bundle_run(tmp_path, "training", "train.json", max_epoch=3, overlap=1.5)
    assert done.status == 1
    assert "did you mean max_epochs" in done.err
    assert "--overlap: is 1.5, must be at most 0.95" in done.err
    assert "Traceback" not in done.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("overrides", "parts"),
    [
        ({"dataset_dir": "nowhere"}, ["nowhere", "Cure"]),
        ({"fold": 5}, ["5", "Cure"]),
        ({"plan_file": "none.json"}, ["none.json", "plan not found"]),
        ({"group_by": "patient"}, ["patient", "Cure"]),
    ],
)
def test_mistakes_end_with_one_message(tmp_path: Path, overrides: dict, parts: list[str]) -> None:
    done = bundle_run(tmp_path, "preprocessing", "train.json", **overrides)
    assert done.status == 1
    message = done.err[done.err.index("error: ") :]
    assert all(part in message for part in parts)
    assert "Traceback" not in done.err
