"""Box coding: parity, inverse, clamp."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from monai_ext.networks.mask_rcnn.box_coder import HEAD_WEIGHTS, MAX_LOG_SCALE, RPN_WEIGHTS, decode, encode


def boxes(count: int, seed: int = 0) -> torch.Tensor:
    random = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=random) * 300
    return torch.cat([corner, corner + 1 + torch.rand(count, 2, generator=random) * 90], dim=1)


@pytest.mark.real_data
def test_equals_torchvision(data_folder: Path) -> None:
    golden = {
        name.partition(".")[2]: torch.from_numpy(array)
        for name, array in np.load(data_folder / "golden" / "detection_ops.npz").items()
        if name.startswith("box_coder")
    }
    encoded = encode(golden["reference"], golden["proposals"], HEAD_WEIGHTS)
    torch.testing.assert_close(encoded, golden["encode_w10_10_5_5"], rtol=1e-5, atol=1e-5)
    decoded = decode(golden["deltas"].view(-1, 3, 4), golden["proposals"][:, None], HEAD_WEIGHTS)
    # coordinates of several hundred pixels in float32
    torch.testing.assert_close(decoded.flatten(1), golden["decode_w10_10_5_5"].flatten(1), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("weights", [RPN_WEIGHTS, HEAD_WEIGHTS])
def test_decoding_undoes_encoding(weights: tuple[float, ...]) -> None:
    wanted, anchors = boxes(50), boxes(50, seed=1)
    torch.testing.assert_close(decode(encode(wanted, anchors, weights), anchors, weights), wanted, rtol=0, atol=1e-3)


def test_no_difference_is_zero() -> None:
    assert torch.equal(encode(boxes(4), boxes(4)), torch.zeros(4, 4))


def test_values_by_hand() -> None:
    anchor, box = torch.tensor([[0.0, 0.0, 10.0, 20.0]]), torch.tensor([[5.0, 0.0, 25.0, 10.0]])
    expected = torch.tensor([[1.0, -0.25, np.log(2.0), np.log(0.5)]], dtype=torch.float32)
    torch.testing.assert_close(encode(box, anchor), expected)


def test_scale_is_clamped() -> None:
    anchor = torch.tensor([[0.0, 0.0, 16.0, 16.0]])
    box = decode(torch.tensor([[0.0, 0.0, 50.0, MAX_LOG_SCALE]]), anchor)
    torch.testing.assert_close(box[:, 2:] - box[:, :2], torch.tensor([[1000.0, 1000.0]]))


def test_half_precision_is_computed_in_float32() -> None:
    anchors, deltas = boxes(20), torch.randn(20, 4, generator=torch.Generator().manual_seed(2)).bfloat16()
    found = decode(deltas, anchors)
    assert found.dtype == torch.float32
    assert torch.equal(found, decode(deltas.float(), anchors))


def test_gradients() -> None:
    anchors = boxes(5).double()
    deltas = (0.3 * torch.randn(5, 4, generator=torch.Generator().manual_seed(3), dtype=torch.float64)).requires_grad_()
    assert torch.autograd.gradcheck(lambda d: decode(d, anchors, HEAD_WEIGHTS), deltas)


def test_no_boxes() -> None:
    nothing = torch.zeros(0, 4)
    assert encode(nothing, nothing).shape == decode(nothing, nothing).shape == (0, 4)


def test_wrong_arguments() -> None:
    with pytest.raises(ValueError, match="4 positive weights"):
        encode(boxes(1), boxes(1), (1.0, 1.0, 0.0, 1.0))
    with pytest.raises(ValueError, match=r"must be \[..., 4\]"):
        decode(torch.zeros(2, 12), boxes(2))
