"""State dicts out of files as training scripts write them; what is no such file is refused."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from monai_ext.errors import InputError
from monai_ext.networks.weight_files import read_weights


def saved(path: Path, content: Any) -> Path:
    torch.save(content, path)
    return path


class Foreign:
    """A type that a checkpoint brings along and that must not be loaded."""


def test_arguments_and_scores_beside_the_weights(tmp_path: Path) -> None:
    """What training scripts of torchvision, timm and NVIDIA store beside."""
    content = {
        "args": argparse.Namespace(lr=0.1, data=["a"]),
        "best_prec1": np.float64(79.7),
        "metric": np.float32(0.5),
        "epoch": 3,
        "state_dict": {"module.w": torch.ones(2)},
        "optimizer": {"state": {0: {"momentum_buffer": torch.ones(2)}}, "param_groups": [{"lr": 0.1}]},
    }
    found, place = read_weights(saved(tmp_path / "model.pth.tar", content))
    assert (list(found), place) == (["w"], "state_dict")
    assert found["w"].tolist() == [1, 1]


def test_flat_files_have_no_place(tmp_path: Path) -> None:
    network = nn.Linear(2, 2)
    found, place = read_weights(saved(tmp_path / "model.pt", network.state_dict()))
    assert (list(found), place) == (["weight", "bias"], "")


def test_both_formats_of_torch_are_read(tmp_path: Path) -> None:
    path = tmp_path / "old.pth"
    torch.save({"w": torch.arange(3)}, path, _use_new_zipfile_serialization=False)
    assert read_weights(path)[0]["w"].tolist() == [0, 1, 2]


def test_a_name_that_two_prefixes_share_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "x.pt", {"module.w": torch.ones(1), "w": torch.zeros(1)})
    with pytest.raises(InputError, match="holds w twice"):
        read_weights(path)


def test_what_is_no_weight_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"weight file not found. Cure"):
        read_weights(tmp_path / "absent.pth")
    with pytest.raises(InputError, match="weight file not found"):
        read_weights(tmp_path)
    path = tmp_path / "x.pth"
    contents = {
        b"": "is empty",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\n": "git lfs pull",
        b"<!DOCTYPE html><html>not found</html>": "is no file of weights alone",
        b"\x80\x02}q\x00.": "is no file of weights alone|holds no state dict",
    }
    for content, message in contents.items():
        path.write_bytes(content)
        with pytest.raises(InputError, match=message):
            read_weights(path)
    whole = saved(path, {"w": torch.ones(1000)}).read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="is no file of weights alone"):
        read_weights(path)


def test_code_is_not_loaded(tmp_path: Path) -> None:
    """Whole modules and foreign types would run code; a scripted network is no state dict."""
    for content in (nn.Linear(1, 1), {"state_dict": {"w": torch.ones(1)}, "extra": Foreign()}):
        with pytest.raises(InputError, match=r"is no file of weights alone[\s\S]*Cure: save the state dict by itself"):
            read_weights(saved(tmp_path / "x.pth", content))
    path = tmp_path / "x.ts"
    torch.jit.script(nn.Linear(1, 1)).save(path)
    with pytest.raises(InputError, match="is no file of weights alone"):
        read_weights(path)
