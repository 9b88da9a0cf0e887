"""Every contradiction is found, named with its cure, and reported together with the others."""

from __future__ import annotations

from typing import Any

import pytest

from monai_ext.engines.key_contradictions import DEFAULTS, check_contradictions
from monai_ext.errors import InputError

# contradicting values, words of the message, and one change that ends the contradiction
CASES: list[tuple[dict[str, Any], str, dict[str, Any]]] = [
    ({"spatial_dims": 2, "batch_size": 10, "nvol": 4}, r"--nvol 4 with --batch_size 10.*8 or 12", {"batch_size": 12}),
    ({"spatial_dims": 2, "batch_size": 2, "nvol": 4}, r"Cure: --batch_size 4$", {"batch_size": 4}),
    ({"nvol": 2}, r"--nvol 2 with --spatial_dims 3", {"nvol": 1}),
    ({"data2d_dim": 3}, r"--data2d_dim 3 with --spatial_dims 3", {"spatial_dims": 2}),
    ({"sync_bn": True}, r"--sync_bn True with --norm instance", {"norm": "batch"}),
    ({"sync_bn": True, "norm": "group"}, r"group norm looks at one sample", {"sync_bn": False}),
    ({"focal": True, "labels": {"whole": [1, 2], "core": 2}}, r"classes whole of the dataset", {"labels": {"core": 2}}),
    ({"resume": True, "overwrite": True}, r"--resume True with --overwrite True", {"overwrite": False}),
    ({"task": "04", "plan_file": "a.json"}, r"--task 04 with --plan_file a\.json", {"task": ""}),
    ({"min_epochs": 30, "max_epochs": 20}, r"--min_epochs 30 with --max_epochs 20", {"max_epochs": 30}),
    ({"val_start_epoch": 9, "max_epochs": 8}, r"--val_start_epoch 9 with --max_epochs 8", {"val_start_epoch": 8}),
    ({"patience": 3, "val_interval": 5}, r"--patience 3 with --val_interval 5", {"patience": 5}),
    ({"max_epochs": 2, "pred_format": "nii+dicom"}, r"--pred_format nii\+dicom.*DICOM series", {"pred_format": "nii"}),
]


@pytest.mark.parametrize(("options", "message", "mended"), CASES)
def test_contradiction_is_named_and_its_cure_works(
    options: dict[str, Any], message: str, mended: dict[str, Any]
) -> None:
    with pytest.raises(InputError, match=message) as caught:
        check_contradictions(options)
    assert "1 problem\n" in str(caught.value)
    assert "Cure: " in str(caught.value)
    check_contradictions({**options, **mended})


def test_all_are_reported_at_once() -> None:
    options = {"nvol": 2, "sync_bn": True, "resume": True, "overwrite": True, "min_epochs": 9, "max_epochs": 8}
    with pytest.raises(InputError, match="4 problems") as caught:
        check_contradictions(options)
    for name in ("--nvol", "--sync_bn", "--resume", "--min_epochs"):
        assert f"  - {name}" in str(caught.value)


def test_keys_that_a_plan_replaces_are_not_looked_at() -> None:
    check_contradictions({"plan_file": "plan.json", "sync_bn": True, "nvol": 2, "data2d_dim": 3})
    check_contradictions({"task": "04", "spatial_dims": 2, "nvol": 32, "batch_size": 16})  # the task's batch is 64
    with pytest.raises(InputError, match="--sync_bn"):  # the norm is a key there
        check_contradictions({"task": "04", "sync_bn": True})


def test_what_is_left_alone_or_unknown_contradicts_nothing() -> None:
    check_contradictions({})
    check_contradictions(DEFAULTS)
    check_contradictions({"learning_rate": 1.0, "spatial_dims": 2, "nvol": 4, "batch_size": 0})  # batch still planned
    check_contradictions({"patience": 0, "val_interval": 5, "max_epochs": 5})  # never ends early
    check_contradictions({"pred_format": "nii+dicom"})  # an inference, which has no epochs
