"""Every bundle: a batch that is not finite leaves no trace in its training but a line that names the cases."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.bundle import ConfigWorkflow

from bundle_commands import MASK_RCNN, NNUNET, SE_RESNEXT, UNET_EM
from monai_ext.engines.person_errors import find_input_error

BUNDLES = {"nnunet": NNUNET, "unet_em": UNET_EM, "se_resnext101": SE_RESNEXT, "mask_rcnn": MASK_RCNN}
SHORT = {"max_epochs": 1, "epoch_length": 3, "num_workers": 0, "val_interval": 1}


def _training(bundle: str, **keys: Any) -> ConfigWorkflow:
    """An initialised tiny training in the working directory."""
    configs = BUNDLES[bundle]
    workflow = ConfigWorkflow(
        config_file=[str(configs / "train.json"), str(configs / "tiny.json")],
        workflow_type="train",
        run_id="training",
        logging_file=False,
        bundle_root=str(configs.parent),
        affinity="disabled",
        **{**SHORT, **keys},
    )
    workflow.initialize()
    return workflow


def _spoil(workflow: ConfigWorkflow, is_bad: Callable[[int], bool]) -> list[int]:
    """Make the network's images NaN in some training steps; returns the list of steps to be filled."""
    trainer = workflow.parser.get_parsed_content("train#trainer")
    seen: list[int] = []

    def spoiled(network: torch.nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
        step = trainer.state.iteration
        if network.training and is_bad(step):
            seen.append(step)
            return (inputs[0] * float("nan"), *inputs[1:])
        return None

    workflow.parser.get_parsed_content("network").register_forward_pre_hook(spoiled)
    return seen


def _recorded(workflow: ConfigWorkflow, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Indices of the training cases in the order in which the loader asks for them, to be filled."""
    kind = type(workflow.parser.get_parsed_content("train#dataset"))
    shown: list[int] = []
    read = kind.__getitem__

    def recorded(dataset: Any, index: tuple[int, int, int]) -> Any:
        shown.append(index[1])
        return read(dataset, index)

    monkeypatch.setattr(kind, "__getitem__", recorded)
    return shown


def _cases(workflow: ConfigWorkflow, shown: list[int], step: int) -> list[str]:
    """Names, without repetition, of the cases that the loader read for a step."""
    dataset = workflow.parser.get_parsed_content("train#dataset")
    size = workflow.parser.get_parsed_content("train#sampler").batch_size
    if hasattr(dataset, "data"):
        names = dataset.data
    else:
        names = dataset.slices.names if hasattr(dataset, "slices") else [case.name for case in dataset.cases]
    return list(dict.fromkeys(names[index] for index in shown[(step - 1) * size : step * size]))


@pytest.mark.parametrize("bundle", BUNDLES)
def test_bad_batch_is_skipped_and_named(
    bundle: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    workflow = _training(bundle)
    seen = _spoil(workflow, lambda step: step == 2)
    shown = _recorded(workflow, monkeypatch)
    with caplog.at_level(logging.WARNING, "monai_ext.engines.finite_loss"):
        workflow.run()
    assert seen == [2]
    (line,) = [r.getMessage() for r in caplog.records if r.name == "monai_ext.engines.finite_loss"]
    assert line.startswith(f"step 2 skipped: its loss is not finite. Cases: {', '.join(_cases(workflow, shown, 2))}")
    folder = Path(workflow.parser.get_parsed_content("output_dir"))
    (row,) = [json.loads(text) for text in (folder / "log.jsonl").read_text().splitlines()]
    assert row["skipped_steps"] == 1
    assert row["loss"] == row["loss"]
    for name in ("model.pt", "model_final.pt"):
        weights = torch.load(folder / name, weights_only=True)
        assert all(bool(torch.isfinite(values).all()) for values in weights.values())


@pytest.mark.parametrize("bundle", ["nnunet", "mask_rcnn"])  # MONAI's own step, and the accumulated one
def test_bad_batches_in_a_row_end_training(bundle: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    workflow = _training(bundle, max_bad_steps=2)
    seen = _spoil(workflow, lambda step: step >= 2)
    with pytest.raises(Exception) as caught:  # noqa: PT011
        workflow.run()
    assert seen == [2, 3]
    message = str(find_input_error(caught.value))
    assert "steps 2 to 3" in message
    assert "Cases: " in message
    assert not list(tmp_path.rglob("model.pt"))
