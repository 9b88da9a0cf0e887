"""What is special to `roi_align`: golden numbers, gradients, levels, regions off the map, determinism, errors."""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np
import pytest
import torch

from monai_ext.ops.forms import forced
from monai_ext.ops.roi_align import multiscale_roi_align, roi_align

ON_GPU = torch.cuda.is_available()
DEVICES = {"torch": "cpu", "c++": "cpu", "triton": "cuda" if ON_GPU else "cpu"}


def _available():
    found = ["torch"]
    found += ["c++"] if find_spec("monai_ext.ops.roi_align.cpu") else []
    return found + (["triton"] if find_spec("monai_ext.ops.roi_align.cuda") and find_spec("triton") else [])


forms = pytest.mark.parametrize("form", _available())


def interpreted(form):
    return form == "triton" and not ON_GPU


@pytest.fixture(scope="module")
def golden(data_folder):
    with np.load(data_folder / "golden" / "detection_ops.npz") as file:
        wanted = [k for k in file.files if k.startswith(("roi_align", "multiscale")) and file[k].dtype == np.float32]
        return {k: torch.from_numpy(file[k]) for k in wanted}


def _inputs(shape=(2, 4, 9, 11), count=5, seed=3, dtype=torch.float32):
    random = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=random, dtype=dtype)
    corner = torch.rand((count, 2), generator=random) * torch.tensor([shape[3], shape[2]])
    image = torch.randint(0, shape[0], (count, 1), generator=random)
    return x, torch.cat([image, corner - 1, corner + 1 + 5 * torch.rand((count, 2), generator=random)], 1)


@pytest.mark.real_data
@forms
@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("sampling", [0, 1, 2, 3])
@pytest.mark.parametrize("size", [(7, 7), (3, 5)])
def test_golden_outputs_and_gradients(golden, form, sampling, aligned, size):
    if interpreted(form):
        pytest.skip("the interpreter takes long, and cases compare it with the other forms")
    name = f"roi_align.S{sampling}.aligned{int(aligned)}.P{size[0]}x{size[1]}"
    expected, gradient = golden[f"{name}.output"], golden[f"{name}.grad_input"]
    x = golden["roi_align.input"].detach().clone().to(DEVICES[form]).requires_grad_()
    with forced(form):
        y = roi_align(x, golden["roi_align.rois"].to(DEVICES[form]), size, 0.25, sampling, aligned)
        y.backward(torch.cos(torch.arange(y.numel(), dtype=torch.float32)).reshape(y.shape).to(y))
    # the peer's coordinates are float32, whose rounding is up to 2e-6 pixels on this map
    torch.testing.assert_close(y.detach().cpu(), expected, rtol=0, atol=2e-5)
    torch.testing.assert_close(x.grad.cpu(), gradient, rtol=0, atol=5e-5)


@pytest.mark.real_data
@forms
def test_golden_pyramid(golden, form):
    if interpreted(form):
        pytest.skip("the interpreter takes long, and cases compare it with the other forms")
    maps = [golden[f"multiscale.feature{k}"].to(DEVICES[form]) for k in range(4)]
    rois = torch.cat([torch.nn.functional.pad(golden[f"multiscale.boxes{i}"], (1, 0), value=i) for i in range(2)])
    expected = golden["multiscale.output"]
    with forced(form):
        y = multiscale_roi_align(maps, rois.to(DEVICES[form]), (7, 7), (4, 8, 16, 32), 2, False)
    torch.testing.assert_close(y.cpu(), expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("sampling", [0, 2])
def test_gradcheck(sampling):
    x, rois = _inputs((2, 2, 5, 6), 3, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda v: roi_align(v, rois, (2, 3), 1.0, sampling), x.requires_grad_())


def test_bilinear_sampling_of_grid_sample():
    """Inside the map every sample is torch's own bilinear one."""
    x, _ = _inputs((1, 3, 12, 14))
    box = torch.tensor([[0.0, 2.3, 3.1, 11.7, 9.4]])
    samples = [torch.linspace(0, 1, 2 * n + 1)[1:-1:2] for n in (8, 6)]  # centres of the cells: 4 x 3 bins of 2 x 2
    columns = 2.3 + samples[0] * (11.7 - 2.3)
    rows = 3.1 + samples[1] * (9.4 - 3.1)
    grid = torch.stack(torch.meshgrid(columns / 14 * 2 - 1, rows / 12 * 2 - 1, indexing="xy"), -1)[None]
    expected = torch.nn.functional.grid_sample(x, grid, align_corners=False)
    expected = torch.nn.functional.avg_pool2d(expected, 2)
    torch.testing.assert_close(roi_align(x, box, (3, 4), 1.0), expected, rtol=0, atol=1e-5)


@forms
def test_plane_is_reproduced_at_the_centres_of_bins(form):
    """Means of a plane are its values at the centres; x is the last axis, pixel centres lie at halves."""
    y, x = torch.meshgrid(torch.arange(20.0), torch.arange(30.0), indexing="ij")
    plane = (2 * (x + 0.5) + 7 * (y + 0.5))[None, None].to(DEVICES[form])
    roi = torch.tensor([[0.0, 8.0, 16.0, 40.0, 40.0]], device=DEVICES[form])
    with forced(form):
        for sampling in (0, 1, 2):
            found = roi_align(plane, roi, (2, 4), 0.25, sampling)[0, 0].cpu()
            expected = 2 * (2 + 2 * torch.arange(4) + 1.0) + 7 * (4 + 3 * torch.arange(2)[:, None] + 1.5)
            torch.testing.assert_close(found, expected)


@forms
def test_gradient_of_ones_adds_up_to_the_bins(form):
    """Weights of a bin inside the map add up to one."""
    x = torch.randn((1, 3, 7, 8)).to(DEVICES[form]).requires_grad_()
    rois = torch.tensor([[0.0, 1.0, 1.0, 6.0, 6.0], [0.0, 5.0, 1.0, 6.0, 2.0]], device=DEVICES[form])
    with forced(form):
        roi_align(x, rois, (3, 2), 1.0, 0).sum().backward()
    torch.testing.assert_close(x.grad.sum((0, 2, 3)).cpu(), torch.full((3,), 12.0))


@forms
def test_levels_follow_the_size(form):
    """Each map is a constant that names it."""
    maps = [torch.full((1, 1, 64 >> k, 64 >> k), k + 2.0, device=DEVICES[form]) for k in range(4)]
    sides = torch.tensor([1.0, 111.9, 112.0, 223.9, 224.0, 447.0, 448.0, 4000.0, 0.0, -5.0])
    rois = torch.zeros(len(sides), 5)
    rois[:, 3:] = sides[:, None]
    rois[7, 1:3], rois[7, 3:] = -2000.0, 2000.0
    rois[8:, 1:] += 100  # without an area: the finest level
    with forced(form):
        y = multiscale_roi_align(maps, rois.to(DEVICES[form]), (1, 1), (4, 8, 16, 32), 1)
        moved = multiscale_roi_align(
            maps, rois.to(DEVICES[form]), (1, 1), (4, 8, 16, 32), 1, canonical_size=56, canonical_level=3
        )
    assert y.flatten().tolist() == [2, 2, 3, 3, 4, 4, 5, 5, 2, 2]
    assert moved.flatten().tolist() == [2, 3, 4, 4, 5, 5, 5, 5, 2, 2]


def test_pyramid_equals_levels_one_by_one():
    maps = [torch.randn(2, 3, 32 >> k, 32 >> k) for k in range(3)]
    _, rois = _inputs((2, 3, 128, 128), 12)
    rois[::2, 3:] += 60
    y = multiscale_roi_align(maps, rois, (3, 3), (4, 8, 16), canonical_size=32, canonical_level=3)
    side = ((rois[:, 3] - rois[:, 1]) * (rois[:, 4] - rois[:, 2])).sqrt()
    level = (3 + torch.log2(side / 32)).floor().clamp(2, 4).long() - 2
    assert len(level.unique()) > 1
    for k in range(3):
        expected = roi_align(maps[k], rois[level == k], (3, 3), 1 / (4 << k))
        torch.testing.assert_close(y[level == k], expected, rtol=0, atol=0)


@forms
def test_gradient_has_the_same_bits_every_time(form):
    x, rois = _inputs((1, 2, 3, 5), 3) if interpreted(form) else _inputs((2, 4, 9, 11), 40)
    x, rois = x.to(DEVICES[form]).requires_grad_(), rois.to(DEVICES[form])
    threads = torch.get_num_threads()
    found = []
    try:
        with forced(form):
            for count in (1, 2) if interpreted(form) else (1, 2, 3):
                torch.set_num_threads(count)
                y = roi_align(x, rois, (1, 2) if interpreted(form) else (3, 3), 1.0)
                found.append(torch.autograd.grad((y * y).sum(), x)[0])
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(found[0], other) for other in found[1:])
    assert found[0].any()


@forms
def test_nan_stays_where_samples_touch_it(form):
    x = torch.zeros((1, 1, 6, 6))
    x[0, 0, 0, 0] = torch.nan
    rois = torch.tensor([[0.0, 2.0, 2.0, 4.0, 4.0], [0.0, 0.0, 0.0, 2.0, 2.0], [0.0, -9.0, -9.0, -5.0, -5.0]])
    with forced(form):
        y = roi_align(x.to(DEVICES[form]), rois.to(DEVICES[form]), (1, 1), 1.0)
    assert y.isnan().flatten().tolist() == [False, True, False]


def test_boxes_get_no_gradient():
    x, rois = _inputs()
    assert not roi_align(x, rois.requires_grad_(), (2, 2), 1.0).requires_grad
    y = roi_align(x.requires_grad_(), rois, (2, 2), 1.0)
    y.sum().backward()
    assert rois.grad is None


def test_output_and_gradient_are_channels_last():
    x, rois = _inputs()
    x.requires_grad_()
    y = roi_align(x, rois, (3, 3), 1.0)
    y.sum().backward()
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert y.dtype == x.dtype


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features": torch.zeros(3, 4, 5)}, r"must be \[N, C, H, W\]"),
        ({"features": torch.zeros(1, 3, 0, 5)}, "no pixels"),
        ({"features": torch.zeros(1, 3, 4, 5, dtype=torch.int32)}, "must be floating"),
        ({"rois": torch.zeros(2, 4)}, r"must be \[R, 5\]"),
        ({"rois": torch.zeros(2, 5, dtype=torch.bfloat16)}, "float32 or float64"),
        ({"rois": torch.tensor([[2.0, 0, 0, 1, 1]])}, "rois name images 2 to 2, there are 2"),
        ({"rois": torch.tensor([[-1.0, 0, 0, 1, 1]])}, "rois name images"),
        ({"rois": torch.tensor([[float("nan"), 0, 0, 1, 1]])}, "rois name images"),
        ({"output_size": (0, 3)}, "must be positive"),
        ({"sampling": -1}, "sampling -1"),
    ],
)
def test_errors(change, message):
    x, rois = _inputs()
    arguments = {"features": x, "rois": rois, "output_size": (2, 2), "scale": 1.0} | change
    with pytest.raises(ValueError, match=message):
        roi_align(**arguments)


def test_errors_of_the_pyramid():
    x, rois = _inputs()
    with pytest.raises(ValueError, match="no features"):
        multiscale_roi_align([], rois, (2, 2), [])
    with pytest.raises(ValueError, match="2 levels of features need as many strides, got 1"):
        multiscale_roi_align([x, x], rois, (2, 2), [4])
    with pytest.raises(ValueError, match="alike in N, C and type"):
        multiscale_roi_align([x, x[:1]], rois, (2, 2), [4, 8])
