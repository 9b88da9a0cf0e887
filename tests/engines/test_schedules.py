"""Learning rates as functions of progress."""

from __future__ import annotations

import math

import pytest
import torch

from monai_ext.engines.optimizers import make_optimizer
from monai_ext.engines.schedules import SCHEDULES, ProgressSchedule


def schedule(kind: str, **options: float) -> ProgressSchedule:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    return ProgressSchedule(optimizer, kind, **options)


@pytest.mark.parametrize(
    ("kind", "progress", "expected"),
    [
        ("poly", 0.0, 1.0),
        ("poly", 0.5, 0.5**0.9),
        ("cosine", 0.5, 0.5),
        ("multistep", 0.49, 1.0),
        ("multistep", 0.6, 0.3),
        ("multistep", 0.9, 0.09),
        ("none", 0.7, 1.0),
    ],
)
def test_values(kind: str, progress: float, expected: float) -> None:
    assert schedule(kind).scale(progress) == pytest.approx(expected)


@pytest.mark.parametrize("kind", ["poly", "cosine"])
def test_rate_reaches_zero_at_the_end(kind: str) -> None:
    it = schedule(kind, warmup=0.1)
    it.set_progress(1.0)
    assert it.optimizer.param_groups[0]["lr"] == pytest.approx(0, abs=1e-12)
    assert it.scale(0.0) == 0.0
    assert it.scale(0.1) == pytest.approx(1.0)
    assert all(it.scale(p / 100) >= it.scale((p + 1) / 100) for p in range(10, 100))


def test_plateau_reduces_after_patience_and_survives_a_restart() -> None:
    it = schedule("plateau", patience=1, factor=0.5)
    for metric in (0.5, 0.4, 0.4, 0.6, 0.5, 0.5):
        it.report_metric(metric)
    assert it.scale(0.9) == 0.25
    other = schedule("plateau", patience=1, factor=0.5)
    other.load_state_dict(it.state_dict())
    assert other.scale(0.1) == 0.25
    assert not math.isinf(other.best)


@pytest.mark.parametrize("kind", SCHEDULES)
def test_all_kinds_stay_between_zero_and_peak(kind: str) -> None:
    assert all(0 <= schedule(kind, warmup=0.05).scale(p / 50) <= 1 for p in range(51))


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ValueError, match=r"cosine.*'linear'"):
        schedule("linear")
    with pytest.raises(ValueError, match=r"adamw.*'adam'"):
        make_optimizer([torch.nn.Parameter(torch.zeros(1))], "adam")


@pytest.mark.parametrize(
    ("name", "kind", "decay"),
    [("sgd", torch.optim.SGD, 3e-5), ("adamw", torch.optim.AdamW, 3e-5), ("radam", torch.optim.RAdam, 3e-5)],
)
def test_optimizers_carry_their_options(name: str, kind: type, decay: float) -> None:
    optimizer = make_optimizer([torch.nn.Parameter(torch.zeros(1))], name, 0.01, decay, 0.9)
    assert isinstance(optimizer, kind)
    group = optimizer.param_groups[0]
    assert (group["lr"], group["weight_decay"]) == (0.01, decay)
    if name == "sgd":
        assert group["nesterov"]
        assert group["momentum"] == 0.9
    else:
        assert group["decoupled_weight_decay"]
