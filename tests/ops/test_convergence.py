"""Training with the fused ops takes the way that training in plain torch takes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from monai_ext.losses.deep_supervision import DeeplySupervised
from monai_ext.losses.dice_cross_entropy import DiceCrossEntropy
from monai_ext.networks.plan_unet import PlanUNet
from monai_ext.ops.forms import forced

STEPS = 200
on_gpu = torch.cuda.is_available()


def _blobs(dims: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Eight noisy images with a bright and a dark blob, and their labels."""
    random = torch.Generator().manual_seed(3)
    edge = 16
    grid = torch.stack(torch.meshgrid(*[torch.arange(edge, dtype=torch.float32)] * dims, indexing="ij"))
    images, labels = [], []
    for _ in range(8):
        label = torch.zeros((edge,) * dims, dtype=torch.uint8)
        for value in (1, 2):
            centre = 3 + 10 * torch.rand((dims, *[1] * dims), generator=random)
            label[((grid - centre) ** 2).sum(0) < 9] = value
        noise = torch.randn(label.shape, generator=random)
        images.append((label == 1).float() - (label == 2).float() + 0.7 * noise)
        labels.append(label)
    return torch.stack(images)[:, None], torch.stack(labels)[:, None]


def _curve(dims: int, form: str, device: str, dtype: torch.dtype, channels_last: bool = False) -> np.ndarray:
    torch.manual_seed(1)
    levels = {"strides": [[1] * dims, [2] * dims, [2] * dims], "kernels": [[3] * dims] * 3, "features": [8, 16, 16]}
    network = PlanUNet(dims, 1, 3, **levels, deep_supervision=True, res_block=dims == 2).to(device)
    if channels_last:
        network = network.to(memory_format=torch.channels_last if dims == 2 else torch.channels_last_3d)
    loss = DeeplySupervised(DiceCrossEntropy(batch_dice=True))
    optimizer = torch.optim.SGD(network.parameters(), 0.01, momentum=0.9, nesterov=True)
    images, labels = (t.to(device) for t in _blobs(dims))
    losses = []
    with forced(form):
        for step in range(STEPS):
            part = slice(2 * (step % 4), 2 * (step % 4) + 2)
            with torch.autocast(device, dtype, enabled=dtype != torch.float32):
                outputs = network(images[part])
            value = loss(outputs, labels[part])
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
            losses.append(value.item())
    return np.array(losses)


CPU = ("cpu", torch.float32, 2e-3)
CUDA = [("cuda", torch.float32, 2e-3), ("cuda", torch.bfloat16, 5e-2)]
GPU = [pytest.param(*c, marks=[pytest.mark.gpu, pytest.mark.skipif(not on_gpu, reason="no CUDA device")]) for c in CUDA]


@pytest.mark.parametrize(("dims", "channels_last"), [(2, False), (3, True)])
@pytest.mark.parametrize(("device", "dtype", "tolerance"), [CPU, *GPU])
def test_loss_curves_agree(dims: int, channels_last: bool, device: str, dtype: torch.dtype, tolerance: float) -> None:
    """Over 200 steps in which the loss falls to a fraction, every step's loss differs by less than the tolerance.

    Rounding of 1e-7 grows with every step; 2e-3 is a fifth of the scatter from batch to batch at the end.
    """
    plain = _curve(dims, "torch", device, dtype, channels_last)
    fused = _curve(dims, "auto", device, dtype, channels_last)
    assert plain[-20:].mean() < 0.5 * plain[:5].mean()  # it has learned
    assert np.abs(plain[0] - fused[0]) < 1e-5 + (dtype != torch.float32) * 1e-2
    assert np.abs(plain - fused).max() < tolerance
    assert not np.array_equal(plain, fused)  # the forms did differ
