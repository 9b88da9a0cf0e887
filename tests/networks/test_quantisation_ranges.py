"""Ranges of values, and what is left of values rounded within them."""

from __future__ import annotations

import pytest
import torch

from monai_ext.networks.quantisation_ranges import FixedRange, ObservedRange, rounded_weight


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("symmetric", [True, False])
def test_levels_lie_on_the_observed_range(symmetric: bool) -> None:
    found = ObservedRange(symmetric)
    found.active = True
    x = torch.linspace(-1, 3, 4001)
    y = found(x)
    step, zero = found.step_and_zero()
    levels = y / step + zero
    torch.testing.assert_close(levels, levels.round(), rtol=0, atol=1e-3)  # float32 of whole numbers up to 255
    assert levels.min() >= found.levels[0] - 1e-3
    assert levels.max() <= found.levels[1] + 1e-3
    expected = 3 / 127 if symmetric else 4 / 255
    assert float(step) == pytest.approx(expected, rel=1e-6)
    # half a step of rounding, and half a step more where rounding the zero level moved the range's ends
    assert (y - x).abs().max() <= (0.5 if symmetric else 1.0) * expected * 1.001
    assert found(torch.zeros(1)).item() == 0


def test_range_is_a_moving_average_that_holds_zero() -> None:
    found = ObservedRange(symmetric=False, momentum=0.25)
    found(torch.tensor([2.0, 4.0]))
    assert (found.low.item(), found.high.item()) == (0, 4)
    found(torch.tensor([-2.0, 8.0]))
    assert (found.low.item(), found.high.item()) == (-0.5, 5)
    found.eval()
    found(torch.tensor([-100.0, 100.0]))
    assert (found.low.item(), found.high.item(), found.batches.item()) == (-0.5, 5, 2)


def test_values_pass_while_observing_and_before_any_batch() -> None:
    found = ObservedRange()
    x = torch.randn(50)
    torch.testing.assert_close(found(x), x, rtol=0, atol=0)
    fresh = ObservedRange().eval()
    fresh.active = True
    torch.testing.assert_close(fresh(x), x, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_inputs_round_in_float32(dtype: torch.dtype) -> None:
    found = ObservedRange()
    found.active = True
    x = torch.randn(100).to(dtype)
    y = found(x)
    assert y.dtype == torch.float32
    assert (y - x.float()).abs().max() <= 0.501 * found.step_and_zero()[0]


def test_weight_steps_are_of_each_output_channel() -> None:
    weight = torch.randn(5, 3, 3, 3) * torch.tensor([1e-3, 1, 10, 100, 0]).view(-1, 1, 1, 1)
    rounded = rounded_weight(weight)
    largest = weight.abs().amax((1, 2, 3))
    error = (rounded - weight).abs().amax((1, 2, 3))
    assert (error <= 0.501 * largest / 127).all()
    assert (error[:4] > 0).all()
    torch.testing.assert_close(rounded.abs().amax((1, 2, 3)), largest)
    assert rounded[4].abs().max() == 0


def test_fixed_range_is_the_observed_one() -> None:
    found = ObservedRange(symmetric=False)
    found.active = True
    x = torch.randn(1000)
    step, zero = (found(x), found.step_and_zero())[1]
    torch.testing.assert_close(FixedRange(float(step), int(zero), False)(x), found.eval()(x), rtol=0, atol=0)
