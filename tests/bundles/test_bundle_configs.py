"""What holds for the config files of every bundle."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from monai.bundle import ConfigWorkflow, verify_metadata, verify_net_in_out

from bundle_commands import MASK_RCNN, NNUNET, SE_RESNEXT, UNET_EM, bundle_run, fresh_run
from monai_ext.engines.config_keys import load_key_specs

# configs folder, fixture of a tiny training, model in it, keys under which the training network returns one tensor
BUNDLES: dict[str, tuple[Path, str, str, dict[str, Any]]] = {
    "nnunet": (NNUNET, "trained", "runs/nnunet/phantom/0/model.pt", {"deep_supervision": False}),
    "unet_em": (UNET_EM, "trained_em", "runs/unet_em/phantom/0/model.pt", {}),
    "se_resnext101": (SE_RESNEXT, "trained_class", "runs/se_resnext101/phantom/0/model.pt", {}),
    "mask_rcnn": (MASK_RCNN, "trained_mask", "runs/mask_rcnn/phantom/0/model.pt", {}),
}
COMPONENTS = ("imports", "bundle_root", "plan", "plan_options", "augmentation", "network", "loss", "loss_def", "cases")


@pytest.fixture(params=BUNDLES)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def configs(name: str) -> Path:
    return BUNDLES[name][0]


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())


def is_plain_key(name: str, value: object) -> bool:
    """A key a person sets: a value or an expression that yields one, not a component, section or list of steps."""
    if name in COMPONENTS or (isinstance(value, str) and value.startswith("%")):
        return False
    if isinstance(value, list):
        return all(isinstance(v, int | float) for v in value)
    return not isinstance(value, dict)


@pytest.mark.parametrize("file", ["train.json", "inference.json"])
def test_every_key_is_described(configs: Path, file: str) -> None:
    specs = load_key_specs(configs / "keys.json")
    keys = {name for name, value in read(configs / file).items() if is_plain_key(name, value)}
    assert keys - set(specs) == set()


def test_no_description_without_a_key(configs: Path) -> None:
    files = [configs / name for name in ("train.json", "inference.json", "inference_ort.json")]
    keys = set().union(*(read(file) for file in files if file.is_file()))
    assert set(load_key_specs(configs / "keys.json")) <= keys


def test_training_and_inference_agree(configs: Path) -> None:
    """Keys that shape a prediction have the same default in both."""
    train, infer = read(configs / "train.json"), read(configs / "inference.json")
    shared = {"overlap", "blend", "amp", "amp_dtype", "device", "tta", "roi_size", "pred_format", "skip_even"}
    shared = (shared | {"channels_last", "fused_ops"}) & set(infer)
    assert len(shared) >= 6
    assert {k: train[k] for k in shared} == {k: infer[k] for k in shared}


def test_run_is_an_alias_of_the_documented_command(configs: Path) -> None:
    assert read(configs / "train.json")["run"] == "%training"
    assert read(configs / "inference.json")["run"] == "%inference"


def test_bundles_hold_the_same_run_ids_and_no_python(configs: Path) -> None:
    train = read(configs / "train.json")
    run_ids = {
        "training", "run", "preprocessing", "evaluating", "train_and_evaluate", "train_and_predict",
        "cross_validation", "training_benchmark", "inference_benchmark", "describe",
    }  # fmt: skip
    assert run_ids <= set(train)
    assert not list(configs.parent.rglob("*.py"))
    for overlay in configs.glob("*.json"):
        content = read(overlay)
        if "initialize" in content and "imports" not in content:  # an overlay repeats what train.json begins with
            base = train
            if overlay.name.startswith("multi_gpu_"):  # the processes join first, then say once what is wrong
                base = read(configs / overlay.name.removeprefix("multi_gpu_"))
                check, *others = base["initialize"]
                first, checked, *rest = content["initialize"]
                assert first.endswith("[0].start()")
                assert "[0].together(lambda: " in checked
                assert checked.endswith(f"check_config{check.rpartition('check_config')[2]})")
                assert rest == others
                assert content.pop("finalize") == ["$process_group.finish()"]
            else:
                assert content["initialize"] == train["initialize"], overlay.name
            assert {name.split("#")[0] for name in content} <= set(base), overlay.name


@pytest.mark.parametrize(("file", "kind"), [("train.json", "train"), ("inference.json", "infer")])
def test_monai_finds_every_property(
    name: str, file: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    configs, fixture, model, _ = BUNDLES[name]
    path = request.getfixturevalue(fixture)[0] / model
    monkeypatch.chdir(tmp_path)
    given = {"ckpt_path": str(path)} if kind == "infer" else {}
    workflow = ConfigWorkflow(config_file=str(configs / file), workflow_type=kind, logging_file=False, **given)
    workflow.initialize()
    assert workflow.check_properties() in (None, [])


@pytest.mark.parametrize("file", ["train.json", "inference.json"])
def test_network_fits_the_metadata_without_data_or_training(
    name: str, file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configs = BUNDLES[name][0]
    monkeypatch.chdir(tmp_path)
    overrides = BUNDLES[name][3] if file == "train.json" else {}
    meta, config = str(configs / "metadata.json"), str(configs / file)
    verify_net_in_out(net_id="network_def", meta_file=meta, config_file=config, device="cpu", **overrides)
    assert list(tmp_path.iterdir()) == []


def test_metadata_follows_the_schema(configs: Path, tmp_path: Path) -> None:
    schema = tmp_path / "schema.json"
    shutil.copy(Path(__file__).parent / "metadata_schema.json", schema)
    verify_metadata(meta_file=str(configs / "metadata.json"), filepath=str(schema))
    broken = read(configs / "metadata.json")
    del broken["network_data_format"]["inputs"]["image"]["num_channels"]
    (tmp_path / "metadata.json").write_text(json.dumps(broken))
    with pytest.raises(ValueError, match="num_channels"):
        verify_metadata(meta_file=str(tmp_path / "metadata.json"), filepath=str(schema))


def test_describe_lists_every_key(configs: Path, tmp_path: Path) -> None:
    done = fresh_run(tmp_path, "describe", bundle=configs)
    assert done.status == 0, done.err
    specs = load_key_specs(configs / "keys.json")
    for name in (n for n in read(configs / "train.json") if n in specs):
        assert f"--{name} " in done.out
        assert specs[name].about in done.out
    assert list(tmp_path.iterdir()) == []


def test_misspelt_key_is_refused(configs: Path, tmp_path: Path) -> None:
    done = bundle_run(tmp_path, "training", "train.json", bundle=configs, max_epoch=3, ema_decay=1.5)
    assert done.status == 1
    assert "did you mean max_epochs" in done.err
    assert "--ema_decay: is 1.5, must be at most" in done.err
    assert "Traceback" not in done.err
    assert list(tmp_path.iterdir()) == []
