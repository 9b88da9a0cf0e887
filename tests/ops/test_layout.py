"""Layouts of tensors."""

from __future__ import annotations

import pytest
import torch

from monai_ext.ops.layout import channels_last_format, dense, laid_out_like


@pytest.mark.parametrize(("ndim", "last"), [(4, torch.channels_last), (5, torch.channels_last_3d)])
def test_layouts_are_told_apart(ndim: int, last: torch.memory_format) -> None:
    x = torch.randn(2, 3, *[4] * (ndim - 2))
    y = x.contiguous(memory_format=last)
    assert channels_last_format(x) is None
    assert channels_last_format(y) is last
    assert dense(y) is y
    assert dense(x) is x
    assert dense(x[..., ::2]).is_contiguous()
    assert laid_out_like(x, y).stride() == y.stride()
    assert laid_out_like(y, x).stride() == x.stride()
    assert laid_out_like(x, x) is x
    torch.testing.assert_close(laid_out_like(x, y), x)


def test_both_layouts_at_once_count_as_contiguous() -> None:
    assert channels_last_format(torch.randn(2, 1, 4, 4)) is None
    assert channels_last_format(torch.randn(2, 3, 4)) is None
