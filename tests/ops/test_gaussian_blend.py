"""What is special to blending windows: weights, places, gradients, errors, threads."""

from __future__ import annotations

from itertools import product

import pytest
import torch

from monai_ext.inferers.windows import gaussian_axis, gaussian_weights
from monai_ext.ops.forms import forced
from monai_ext.ops.gaussian_blend import accumulate, finalise


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def vectors(*roi: int) -> list[torch.Tensor]:
    return [gaussian_axis(size).float() for size in roi]


def test_weights_are_those_of_the_volume_of_weights() -> None:
    sums, output = torch.zeros(2, 9, 10, 11), random(2, 5, 6, 7)
    expected = sums.clone()
    expected[:, 2:7, 3:9, 4:11] += output * gaussian_weights((5, 6, 7))
    accumulate(sums, [output], vectors(5, 6, 7), [(2, 3, 4)])
    torch.testing.assert_close(sums, expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("form", ["torch", "auto"])
def test_weights_that_underflow_stay_positive(form: str) -> None:
    tiny = torch.full((4,), 1e-30)
    sums = torch.zeros(1, 4, 4)
    with forced(form):
        accumulate(sums, torch.ones(1, 1, 4, 4), [tiny, tiny], [(0, 0)])
    assert (sums == torch.finfo(torch.float32).tiny).all()


@pytest.mark.parametrize("form", ["torch", "auto"])
def test_nothing_outside_of_the_windows_is_touched(form: str) -> None:
    sums = torch.full((2, 6, 7, 8), torch.nan)
    with forced(form):
        accumulate(sums, random(1, 2, 3, 3, 3), vectors(3, 3, 3), [(-1, 2, 6)], fresh=[(0, 0, 0)])
    written = torch.zeros(6, 7, 8, dtype=torch.bool)
    written[0:2, 2:5, 6:8] = True
    assert torch.equal(sums.isfinite(), written.expand(2, -1, -1, -1))


@pytest.mark.parametrize("flip", [(), (0,), (2,), (0, 1), (0, 1, 2)])
def test_mirroring_is_undone(flip: tuple[int, ...]) -> None:
    output = random(2, 4, 5, 6)
    there, back = torch.zeros(2, 7, 7, 7), torch.zeros(2, 7, 7, 7)
    accumulate(there, [output], vectors(4, 5, 6), [(1, 2, 0)])
    accumulate(back, [output.flip([axis + 1 for axis in flip])], vectors(4, 5, 6), [(1, 2, 0)], [flip])
    assert torch.equal(there, back)


def test_lines_hold_what_the_volume_holds() -> None:
    outputs, starts = random(3, 2, 3, 4, 5), [(0, 0, 0), (1, 2, 3), (2, 1, 1)]
    volume = torch.zeros(2, 5, 6, 8)
    accumulate(volume, outputs, vectors(3, 4, 5), starts)
    order = torch.randperm(30, generator=torch.Generator().manual_seed(1)).int().view(5, 6)
    store = torch.zeros(30, 2, 8)
    accumulate(store, outputs, vectors(3, 4, 5), starts, lines=order)
    assert torch.equal(store[order.long()].permute(2, 0, 1, 3), volume)
    labels = torch.empty(5, 6, 8, dtype=torch.uint8)
    assert finalise(store, mode="argmax", labels=labels, lines=order) is labels
    assert torch.equal(labels.long(), volume.argmax(0))


@pytest.mark.parametrize("name", ["logits", "argmax"])
def test_results_do_not_depend_on_threads(name: str) -> None:
    threads, found = torch.get_num_threads(), []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            sums = torch.zeros(3, 20, 64, 64)
            starts = list(product((0, 4), (0, 32), (0, 32)))
            accumulate(sums, random(8, 3, 16, 32, 32), vectors(16, 32, 32), starts)
            labels = torch.empty(20, 64, 64, dtype=torch.uint8) if name == "argmax" else None
            found.append(finalise(sums, [torch.rand(n) * 0 + 0.5 for n in (20, 64, 64)], name, labels))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


def test_gradients_flow_to_outputs() -> None:
    outputs = random(2, 2, 4, 5).requires_grad_()
    sums = accumulate(torch.zeros(2, 6, 8), outputs, vectors(4, 5), [(0, 0), (1, 2)], [(0,), ()], [(9, 9), (5, 5)])
    finalise(sums, [torch.full((6,), 2.0), torch.full((8,), 1.0)]).sum().backward()
    expected = 2 * gaussian_weights((4, 5)).expand(2, 4, 5)
    torch.testing.assert_close(outputs.grad[0], expected.flip(1), rtol=1e-6, atol=0)
    torch.testing.assert_close(outputs.grad[1], expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("form", ["torch", "auto"])
def test_probabilities_add_up_to_one(form: str) -> None:
    with forced(form):
        found = finalise(random(20, 5, 300) * 30, mode="softmax")
    assert (found >= 0).all()
    torch.testing.assert_close(found.double().sum(0), torch.ones(5, 300, dtype=torch.float64), rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"sums": torch.zeros(2, 6, 7, dtype=torch.bfloat16)}, "sums must be float32"),
        ({"sums": torch.zeros(2)}, "1 to 3 spatial axes"),
        ({"sums": torch.zeros(3, 6, 7)}, r"outputs must all be \[3, \*roi\] with 2 spatial axes"),
        ({"outputs": torch.zeros(1, 2, 4)}, "outputs must all be"),
        ({"outputs": [torch.zeros(2, 4, 5, dtype=torch.int64)]}, "floating tensors"),
        ({"weights": [torch.ones(4)]}, "one vector per axis"),
        ({"weights": [torch.ones(4), torch.ones(4)]}, "one vector per axis"),
        ({"starts": [(0, 0), (1, 1)]}, "one entry for each of 1 windows"),
        ({"starts": [(0,)]}, "of 2 numbers"),
        ({"fresh": [(0, 0, 0)]}, "of 2 numbers"),
        ({"flips": [(2,)]}, "different axes from 0 to 1"),
        ({"flips": [(1, 1)]}, "different axes from 0 to 1"),
        ({"lines": torch.zeros(3, 4, dtype=torch.int64)}, "int32"),
    ],
)
def test_bad_windows_are_refused(changed: dict[str, object], message: str) -> None:
    arguments = {
        "sums": torch.zeros(2, 6, 7),
        "outputs": torch.zeros(1, 2, 4, 5),
        "weights": vectors(4, 5),
        "starts": [(0, 0)],
        **changed,
    }
    with pytest.raises(ValueError, match=message):
        accumulate(**arguments)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"mode": "median"}, "mode: unknown value 'median', must be one of logits, softmax, argmax"),
        ({"reciprocals": [torch.ones(3)]}, "reciprocals must be 2 vectors"),
        ({"mode": "argmax"}, "labels belong to mode argmax"),
        ({"labels": torch.zeros(3, 4, dtype=torch.uint8)}, "labels belong to mode argmax"),
        ({"mode": "argmax", "labels": torch.zeros(3, 4)}, "uint8, int16 or int64"),
        ({"mode": "argmax", "labels": torch.zeros(4, 3, dtype=torch.uint8)}, r"labels must be \(3, 4\)"),
        ({"sums": torch.zeros(300, 3, 4), "mode": "argmax", "labels": torch.zeros(3, 4, dtype=torch.uint8)}, "300"),
    ],
)
def test_bad_results_are_refused(changed: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        finalise(**{"sums": torch.zeros(2, 3, 4), **changed})
