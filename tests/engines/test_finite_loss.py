"""Steps that are not finite are skipped without a trace, named, and end training when they go on."""

from __future__ import annotations

import copy
import logging
from typing import Any

import pytest
import torch
from ignite.engine import Events
from monai.engines import SupervisedTrainer

from monai_ext.engines import process_group
from monai_ext.engines.accumulated_step import AccumulatedStep
from monai_ext.engines.finite_loss import FiniteLoss
from monai_ext.engines.gradient_clip import GradientClip
from monai_ext.engines.loss_scale import LossScale
from monai_ext.engines.sample_stream import SampleStream
from monai_ext.engines.weight_average import WeightAverage
from monai_ext.errors import InputError

NAMES = [f"case_{letter}" for letter in "abcdef"]
NAN, INF = float("nan"), float("inf")
BATCH = 2


class _Poison(torch.autograd.Function):
    """Passes a value on and multiplies its gradient, so that a loss is finite where its gradient is not."""

    @staticmethod
    def forward(ctx: Any, value: torch.Tensor, factor: float) -> torch.Tensor:  # type: ignore[override]
        ctx.factor = factor
        return value.clone()

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:  # type: ignore[override]
        return gradient * ctx.factor, None


class _Loss(torch.nn.Module):
    """Squared error whose value (`loss`) or gradient (`gradient`) is spoilt in the calls that `faults` names."""

    def __init__(self, faults: dict[int, str], value: float = NAN) -> None:
        super().__init__()
        self.faults, self.value, self.calls = faults, value, 0

    def forward(self, prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        fault = self.faults.get(self.calls)
        loss = (prediction - target).square().mean()
        if fault == "gradient":
            return _Poison.apply(loss, self.value)
        return loss.detach() * 0 + self.value + 0 * loss if fault == "loss" else loss


def _network() -> torch.nn.Module:
    torch.manual_seed(5)
    return torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 2))


def _batches(steps: int, bad_image: int = 0, images: int = BATCH) -> list[dict[str, torch.Tensor]]:
    """A batch per step; the second image of step `bad_image` holds a NaN."""
    random = torch.Generator().manual_seed(7)
    batches = [
        {"image": torch.randn(images, 3, generator=random), "label": torch.randn(images, 2, generator=random)}
        for _ in range(steps)
    ]
    if bad_image:
        batches[bad_image - 1]["image"][1, 0] = NAN
    return batches


class _Run:
    """A short training; keeps the states before and after every step, and which steps were skipped."""

    def __init__(
        self,
        batches: list[dict[str, torch.Tensor]],
        loss: _Loss,
        max_bad_steps: int = 10,
        optimizer: str = "adamw",
        clip: float = 0.0,
        parts: int = 0,
        scale: float = 0.0,
        dynamic: bool = False,
    ) -> None:
        self.network = _network()
        made = {
            "adamw": lambda p: torch.optim.AdamW(p, lr=0.1, weight_decay=0.1),
            "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.1),
            "radam": lambda p: torch.optim.RAdam(p, lr=0.1, weight_decay=0.1),
            "fused": lambda p: torch.optim.AdamW(p, lr=0.1, weight_decay=0.1, fused=True),
        }
        self.optimizer = made[optimizer](self.network.parameters())
        self.average = WeightAverage(self.network, 0.9)
        self.stream = SampleStream(len(NAMES), BATCH, seed=3)
        self.finite = FiniteLoss(max_bad_steps, self.stream, NAMES)
        self.skipped: list[int] = []
        self.before: dict[int, Any] = {}
        self.after: dict[int, Any] = {}
        self.trainer = SupervisedTrainer(
            device="cpu",
            max_epochs=1,
            train_data_loader=batches,
            network=self.network,
            optimizer=self.optimizer,
            loss_function=loss,
            train_handlers=[GradientClip(clip), LossScale(scale, "cpu"), self.finite, self.average],
            amp=bool(scale),
            decollate=False,
            optim_set_to_none=True,
            iteration_update=AccumulatedStep(parts) if parts else None,
        )
        if dynamic:
            scaler = torch.amp.GradScaler("cpu", init_scale=scale)
            self.trainer.add_event_handler(Events.STARTED, lambda e: setattr(e, "scaler", scaler))
        self.trainer.add_event_handler(Events.ITERATION_STARTED, lambda e: self._note(self.before, e))
        self.trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda e: self._note(self.after, e))
        self.trainer.add_event_handler(Events.ITERATION_COMPLETED, self._skips)
        self.trainer.add_event_handler(Events.EXCEPTION_RAISED, self._raise)

    def run(self) -> _Run:
        self.trainer.run()
        return self

    def _raise(self, error: BaseException) -> None:
        raise error

    def _skips(self, engine: Any) -> None:
        if engine.state.step_skipped:
            self.skipped.append(engine.state.iteration)

    def _note(self, into: dict[int, Any], engine: Any) -> None:
        parts = (self.network, self.optimizer, self.average)
        into[engine.state.iteration] = copy.deepcopy([part.state_dict() for part in parts])

    def cases(self, step: int) -> list[str]:
        """What the stream's own iteration shows in a step."""
        stream = iter(SampleStream(len(NAMES), BATCH, seed=3))
        return [NAMES[next(stream)[1]] for _ in range(step * BATCH)][-BATCH:]


def _same(first: Any, second: Any) -> bool:
    if isinstance(first, torch.Tensor):
        return torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(_same(first[key], second[key]) for key in first)
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(_same(a, b) for a, b in zip(first, second, strict=True))
    return bool(first == second)


WAYS: list[dict[str, Any]] = [
    {},
    {"clip": 0.5},
    {"optimizer": "sgd"},
    {"optimizer": "radam"},
    {"optimizer": "fused"},
    {"parts": 1},
    {"parts": 1, "clip": 0.5},
    {"scale": 64.0},
    {"scale": 64.0, "clip": 0.5},
    {"scale": 64.0, "optimizer": "fused"},
    {"scale": 64.0, "parts": 1},
    {"scale": 64.0, "parts": 1, "clip": 0.5},
]
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*CUDA is not available"),
    pytest.mark.filterwarnings("ignore:.*no accelerator"),
]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: "-".join(f"{k}={v}" for k, v in way.items()) or "plain")
@pytest.mark.parametrize(("fault", "value"), [("loss", NAN), ("loss", INF), ("gradient", NAN), ("gradient", -INF)])
def test_bad_step_leaves_no_trace(way: dict[str, Any], fault: str, value: float) -> None:
    run = _Run(_batches(4), _Loss({2: fault}, value), **way).run()
    assert run.skipped == [2]
    assert run.finite.skipped == 1
    assert _same(run.before[2], run.after[2])  # weights, statistics of norms, moments, average and its warm-up
    for step in (1, 3, 4):
        assert not _same(run.before[step][0], run.after[step][0])
        assert not _same(run.before[step][1], run.after[step][1])
        assert not _same(run.before[step][2], run.after[step][2])
    assert all(bool(torch.isfinite(weight).all()) for weight in run.network.state_dict().values())


def test_without_bad_steps_training_is_as_without_the_handler() -> None:
    run = _Run(_batches(4), _Loss({})).run()
    network = _network()
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.1, weight_decay=0.1)
    for batch in _batches(4):
        optimizer.zero_grad()
        (network(batch["image"]) - batch["label"]).square().mean().backward()
        optimizer.step()
    assert run.skipped == []
    assert _same(run.network.state_dict(), network.state_dict())


def test_training_goes_on_as_if_the_bad_batch_were_not_there() -> None:
    """A NaN in an image spoils prediction, statistics and gradients; nothing of that is left."""
    batches = _batches(5, bad_image=3)
    spoilt = _Run(batches, _Loss({})).run()
    without = _Run(batches[:2] + batches[3:], _Loss({})).run()
    assert spoilt.skipped == [3]
    assert _same(spoilt.after[5], without.after[4])


def test_part_of_an_accumulated_step_spoils_the_whole_step() -> None:
    run = _Run(_batches(3, images=4), _Loss({4: "loss"}), parts=2).run()
    assert run.skipped == [2]
    assert _same(run.before[2], run.after[2])


def test_log_names_the_cases_and_the_broken_image(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        run = _Run(_batches(3, bad_image=2), _Loss({3: "gradient"})).run()
    first, second = [record.getMessage() for record in caplog.records if "skipped" in record.getMessage()]
    names = run.cases(2)
    assert f"step 2 skipped: its loss is not finite. Cases: {', '.join(names)}" in first
    assert first.endswith(f"the images of {names[1]}")
    assert second == f"step 3 skipped: its gradient is not finite. Cases: {', '.join(run.cases(3))}"


@pytest.mark.parametrize("way", [{}, {"parts": 1}, {"scale": 64.0}])
def test_bad_steps_in_a_row_end_training(way: dict[str, Any]) -> None:
    faults = dict.fromkeys((2, 3, 5, 6, 7), "loss")
    run = _Run(_batches(9), _Loss(faults), max_bad_steps=3, **way)
    with pytest.raises(InputError, match="steps 5 to 7") as caught:
        run.run()
    assert run.skipped == [2, 3, 5, 6]  # the one between began the count anew
    message = str(caught.value)
    assert "--learning_rate" in message
    assert "--max_bad_steps 3" in message
    for step in (5, 6, 7):
        assert all(name in message for name in run.cases(step))
    others = set(NAMES) - {name for step in (5, 6, 7) for name in run.cases(step)}
    assert not any(name in message for name in others)
    assert _same(run.before[7], [p.state_dict() for p in (run.network, run.optimizer, run.average)])


def test_error_names_the_broken_image_first_of_all() -> None:
    run = _Run(_batches(2, bad_image=1), _Loss({}), max_bad_steps=1)
    with pytest.raises(InputError, match=rf"not finite themselves: the images of {run.cases(1)[1]}\. Cure: mend"):
        run.run()


def test_error_tells_of_weights_that_are_lost() -> None:
    run = _Run(_batches(3), _Loss({}), max_bad_steps=2)
    torch.nn.init.constant_(run.network.get_parameter("0.weight"), INF)
    with pytest.raises(InputError, match=r"steps 1 to 2: .*; weights .* are not finite either\. Cure: look"):
        run.run()


def test_fewer_bad_steps_than_the_limit_do_not() -> None:
    run = _Run(_batches(9), _Loss(dict.fromkeys((2, 3, 5, 6, 8, 9), "loss")), max_bad_steps=3).run()
    assert run.finite.skipped == 6


def test_names_after_a_resume_are_those_of_the_step() -> None:
    run = _Run(_batches(12), _Loss({2: "loss"}))
    assert run.finite._cases_of(9) == run.cases(9)


def test_overflow_of_a_dynamic_scale_is_no_fault() -> None:
    """Twelve overflows until the scale fits would exceed the limit; all are skipped, none is counted."""
    loss = _Loss(dict.fromkeys(range(1, 13), "gradient"), INF)
    run = _Run(_batches(14), loss, max_bad_steps=3, scale=2.0**15, dynamic=True).run()
    assert run.skipped == list(range(1, 13))
    assert run.finite.skipped == 0
    assert run.trainer.scaler.get_scale() == 2.0**3
    assert _same(run.before[1], run.after[12])


def test_scale_that_cannot_fall_further_is_a_fault() -> None:
    run = _Run(_batches(9), _Loss(dict.fromkeys(range(1, 10), "gradient")), max_bad_steps=3, scale=4.0, dynamic=True)
    with pytest.raises(InputError, match="steps 3 to 5"):
        run.run()


def test_a_limit_of_no_step_is_refused() -> None:
    with pytest.raises(InputError, match="--max_bad_steps 0"):
        FiniteLoss(0)


def test_bad_step_of_another_rank_is_skipped_here_too(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The other rank is played; `test_finite_loss_ranks` has two real ones."""
    steps: list[int] = []

    def least(flag: torch.Tensor, how: Any) -> None:
        steps.append(len(steps) + 1)
        assert how == torch.distributed.ReduceOp.MIN
        flag.mul_(0 if len(steps) == 2 else 1)

    monkeypatch.setattr(process_group, "world_size", lambda: 2)
    monkeypatch.setattr(process_group, "gather", lambda mine: [mine, (False, ["theirs"], [])])
    monkeypatch.setattr(torch.distributed, "all_reduce", least)
    run = _Run(_batches(3), _Loss({})).run()
    assert steps == [1, 2, 3]
    assert run.skipped == [2]
    assert _same(run.before[2], run.after[2])
    assert [r.getMessage() for r in caplog.records] == ["step 2 skipped: its loss is not finite. Cases: theirs"]
