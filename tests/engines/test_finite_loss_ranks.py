"""Two processes that train together skip the same steps, and one of them names the cases of the guilty."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.engines import SupervisedTrainer
from torch import distributed, multiprocessing

from monai_ext.engines.finite_loss import FiniteLoss
from monai_ext.engines.sample_stream import SampleStream
from monai_ext.errors import InputError

NAMES = [f"case_{number}" for number in range(8)]
STEPS, BATCH, GUILTY = 6, 2, 1
BAD = (2, 4, 5)


class _RankLoss(torch.nn.Module):
    """On the guilty rank NaN without gradient in some steps: the other rank and the summed gradients know nothing."""

    def __init__(self, rank: int) -> None:
        super().__init__()
        self.rank, self.calls = rank, 0

    def forward(self, prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        loss = (prediction - target).square().mean()
        bad = self.rank == GUILTY and self.calls in BAD
        return loss + (torch.full((), float("nan")) if bad else 0)


def _train(rank: int, folder: str) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", GLOO_SOCKET_IFNAME="lo")
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    torch.manual_seed(1)
    network = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(3, 2))
    logged: list[str] = []
    watch = logging.Handler()
    watch.emit = lambda record: logged.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("monai_ext.engines.finite_loss").addHandler(watch)
    stream = SampleStream(len(NAMES), BATCH, seed=4, rank=rank, world_size=2)
    random = torch.Generator().manual_seed(rank)
    trainer = SupervisedTrainer(
        device="cpu",
        max_epochs=1,
        train_data_loader=[
            {"image": torch.randn(BATCH, 3, generator=random), "label": torch.randn(BATCH, 2, generator=random)}
            for _ in range(STEPS)
        ],
        network=network,
        optimizer=torch.optim.AdamW(network.parameters(), lr=0.1),
        loss_function=_RankLoss(rank),
        train_handlers=[FiniteLoss(2, stream, NAMES)],
        decollate=False,
    )
    ended = "complete"
    try:
        trainer.run()
    except InputError as error:
        ended = str(error)
    except SystemExit as error:
        ended = f"exit {error.code}"
    weights = [float(w) for w in torch.cat([p.detach().flatten() for p in network.parameters()])]
    result: dict[str, Any] = {"ended": ended, "step": trainer.state.iteration, "weights": weights, "log": logged}
    Path(folder, f"{rank}.json").write_text(json.dumps(result))
    distributed.destroy_process_group()


def _shown(step: int) -> list[str]:
    stream = iter(SampleStream(len(NAMES), BATCH, seed=4, rank=GUILTY, world_size=2))
    return [NAMES[next(stream)[1]] for _ in range(step * BATCH)][-BATCH:]


@pytest.mark.slow
@pytest.mark.skipif(not distributed.is_gloo_available(), reason="needs gloo")
def test_ranks_decide_alike_and_name_the_cases_of_the_guilty_one(tmp_path: Path) -> None:
    multiprocessing.spawn(_train, args=(str(tmp_path),), nprocs=2)
    first, second = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1)]
    assert first["step"] == second["step"] == 5
    assert first["weights"] == second["weights"]
    assert all(abs(weight) < 10 for weight in first["weights"])
    assert first["log"] == [
        f"step {step} skipped: its loss is not finite. Cases: {', '.join(_shown(step))}" for step in BAD
    ]
    assert second["log"] == []
    assert "steps 4 to 5" in first["ended"]
    assert all(name in first["ended"] for step in (4, 5) for name in _shown(step))
    assert not any(name in first["ended"] for name in set(NAMES) - {*_shown(4), *_shown(5)})
    assert second["ended"] == "exit 1"
