"""Sliding-window prediction against a plain float64 loop and against MONAI's inferer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain, combinations, product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.data import MetaTensor
from monai.inferers import sliding_window_inference

from monai_ext.errors import InputError
from monai_ext.inferers.even_windows import KEPT, EvenWindows
from monai_ext.inferers.memory_fallback import MemoryFallback
from monai_ext.inferers.slab_argmax import SlabArgmax
from monai_ext.inferers.window_grid import WindowCopy, WindowGrid
from monai_ext.inferers.window_inferer import WindowInferer
from monai_ext.inferers.window_positions import window_positions
from monai_ext.inferers.windows import gaussian_weights

Network = Callable[[torch.Tensor], torch.Tensor]


def volume(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def position_aware(num_classes: int = 3) -> Network:
    """Network without parameters whose output depends on the place in the window, so that blending and flips show."""

    def forward(windows: torch.Tensor) -> torch.Tensor:
        shape = windows.shape[2:]
        ramp = torch.linspace(0, 1, shape.numel(), dtype=windows.dtype).reshape(shape)
        mean = windows.mean(1, keepdim=True)
        return torch.cat([torch.sin((k + 1) * mean) + ramp * (k - 1) for k in range(num_classes)], 1)

    return forward


def slow_reference(
    inputs: torch.Tensor,
    network: Network,
    roi: Sequence[int],
    overlap: float,
    blend: str = "gaussian",
    mirror_axes: Sequence[int] = (),
) -> torch.Tensor:
    """Sums of weighted outputs over sums of weights, one window copy at a time, float64."""
    inputs = inputs.double()
    shape = inputs.shape[2:]
    padded_shape = [max(a, b) for a, b in zip(shape, roi, strict=True)]
    before = [(a - b) // 2 for a, b in zip(padded_shape, shape, strict=True)]
    padded = torch.zeros(*inputs.shape[:2], *padded_shape, dtype=torch.float64)
    inside = (..., *(slice(b, b + n) for b, n in zip(before, shape, strict=True)))
    padded[inside] = inputs
    weights = gaussian_weights(roi).double() if blend == "gaussian" else torch.ones(*roi, dtype=torch.float64)
    flips = list(chain.from_iterable(combinations(mirror_axes, n) for n in range(len(mirror_axes) + 1)))
    sums, total = None, torch.zeros(padded_shape, dtype=torch.float64)
    for start in product(*window_positions(padded_shape, roi, overlap)):
        window = tuple(slice(s, s + n) for s, n in zip(start, roi, strict=True))
        for flip in flips:
            dims = [axis + 2 for axis in flip]
            output = network(padded[(..., *window)].flip(dims)).flip(dims)
            if sums is None:
                sums = torch.zeros(inputs.shape[0], output.shape[1], *padded_shape, dtype=torch.float64)
            sums[(..., *window)] += output * weights
            total[window] += weights
    assert sums is not None
    return (sums / total)[inside]


CASES = {
    "3d-regular": ((1, 1, 16, 16, 16), (8, 8, 8), 0.5, ()),
    "3d-odd": ((2, 2, 13, 17, 9), (7, 8, 5), 0.5, ()),
    "3d-smaller": ((1, 1, 5, 20, 6), (8, 8, 9), 0.25, ()),
    "3d-all-smaller": ((2, 1, 3, 4, 5), (8, 8, 8), 0.5, (0, 1, 2)),
    "3d-mirrored": ((1, 1, 11, 12, 13), (8, 8, 8), 0.5, (0, 1, 2)),
    "3d-mirrored-one-axis": ((2, 1, 11, 12, 9), (8, 8, 8), 0.5, (1,)),
    "3d-no-overlap": ((1, 1, 16, 9, 10), (8, 8, 8), 0.0, ()),
    "2d-odd": ((3, 1, 33, 21), (16, 8), 0.5, ()),
    "2d-smaller-mirrored": ((2, 3, 7, 40), (16, 16), 0.75, (0, 1)),
    "1d": ((2, 1, 50), (16,), 0.5, (0,)),
}


@pytest.mark.parametrize("blend", ["gaussian", "constant"])
@pytest.mark.parametrize("sw_batch_size", [1, 3, 64])
@pytest.mark.parametrize("name", CASES)
def test_equals_slow_reference(name: str, sw_batch_size: int, blend: str) -> None:
    shape, roi, overlap, mirror_axes = CASES[name]
    inputs = volume(*shape)
    network = position_aware()
    logits = WindowInferer(roi, sw_batch_size, overlap, blend, mirror_axes)(inputs, network)
    assert logits.dtype == torch.float32
    assert logits.is_contiguous()
    # float32 sums of a few dozen values of size 1, hence a few 1e-7
    torch.testing.assert_close(
        logits.double(), slow_reference(inputs, network, roi, overlap, blend, mirror_axes), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("name", CASES)
def test_segment_is_the_argmax_of_the_logits(name: str) -> None:
    shape, roi, overlap, mirror_axes = CASES[name]
    inputs = volume(*shape, seed=1)
    inferer = WindowInferer(roi, 3, overlap, "gaussian", mirror_axes)
    labels = inferer.segment(inputs, position_aware())
    logits = inferer(inputs, position_aware())
    assert labels.shape == (shape[0], 1, *shape[2:])
    assert labels.dtype == torch.uint8
    differs = labels[:, 0] != logits.argmax(1)
    assert len(logits.argmax(1).unique()) > 1
    # only a rounding of the last bit can decide otherwise: such voxels must be ties to 1e-6
    best = logits.topk(2, dim=1).values
    assert ((best[:, 0] - best[:, 1])[differs] < 1e-6).all()
    assert differs.float().mean() < 1e-3


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    shape=st.lists(st.integers(1, 30), min_size=2, max_size=3),
    roi=st.lists(st.integers(1, 12), min_size=3, max_size=3),
    overlap=st.sampled_from([0.0, 0.25, 0.5, 0.7]),
    blend=st.sampled_from(["gaussian", "constant"]),
)
def test_a_network_that_copies_gives_the_volume_back(
    shape: list[int], roi: list[int], overlap: float, blend: str
) -> None:
    """Every voxel is covered, and the weights of all windows add up to one."""
    inputs = volume(1, 2, *shape)
    inferer = WindowInferer(roi[: len(shape)], 16, overlap, blend)
    # weights are normalised by a separately rounded float32 map, hence a few 1e-7 of values up to 4
    torch.testing.assert_close(inferer(inputs, lambda x: x * 1), inputs, rtol=1e-5, atol=1e-5)
    assert torch.equal(
        inferer.segment(torch.cat([inputs[:, :1] * 0, inputs[:, :1]], 1), lambda x: x),
        (inputs[:, :1] > 0).to(torch.uint8),
    )


@pytest.mark.parametrize("spatial_dims", [2, 3])
@pytest.mark.parametrize("blend", ["gaussian", "constant"])
def test_equals_monai_on_a_regular_grid(spatial_dims: int, blend: str) -> None:
    roi, size, overlap = (16,) * spatial_dims, 40, 0.5
    assert window_positions((size,), roi[:1], overlap) == [
        [0, 8, 16, 24]
    ]  # 40 = 16 + 3 * 8: MONAI's rule gives the same
    inputs = volume(1, 1, *(size,) * spatial_dims)
    ours = WindowInferer(roi, 4, overlap, blend)(inputs, position_aware())
    # MONAI's own Gaussian is centred at (n - 1) / 2 and cut off below 1e-3, so it is given our weights
    weights = gaussian_weights(roi) if blend == "gaussian" else None
    theirs = sliding_window_inference(
        inputs, roi, 4, position_aware(), overlap, mode="constant", roi_weight_map=weights
    )
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)  # same float32 sums in another order


def test_batches_have_the_given_size_and_hold_the_mirrored_copies() -> None:
    sizes = []

    def network(windows: torch.Tensor) -> torch.Tensor:
        sizes.append(windows.shape[0])
        assert windows.is_contiguous()
        return windows * 1

    WindowInferer((8, 8), 3, 0.5, mirror_axes=(0, 1))(volume(1, 1, 12, 8), network)
    assert sizes == [3, 3, 2]  # 2 windows x 4 copies


def test_an_identity_network_leaves_its_input_as_it_was() -> None:
    for sw_batch_size in (1, 4):
        inputs = volume(1, 2, 20, 20)
        before = inputs.clone()
        inferer = WindowInferer((8, 8), sw_batch_size)
        torch.testing.assert_close(inferer(inputs, lambda x: x), before, rtol=1e-5, atol=1e-5)
        inferer.segment(inputs, lambda x: x)
        inferer(inputs, lambda x: x.mul_(2))  # a network that starts in place must not reach the volume either
        assert torch.equal(inputs, before)


def test_first_element_of_a_list_is_the_output() -> None:
    inputs = volume(1, 1, 12, 12)
    plain = WindowInferer((8, 8))(inputs, lambda x: x * 2)
    assert torch.equal(WindowInferer((8, 8))(inputs, lambda x: [x * 2, x[..., ::2, ::2]]), plain)
    assert torch.equal(WindowInferer((8, 8))(inputs, lambda x: (x * 2, x)), plain)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_outputs_are_summed_in_float32(dtype: torch.dtype) -> None:
    inputs = volume(1, 1, 20, 20, 20)
    logits = WindowInferer((8, 8, 8), overlap=0.75)(inputs, lambda x: (x + 100).to(dtype))
    assert logits.dtype == torch.float32
    # all windows hold the same rounded value, so its weighted mean over 64 windows must come out to a few float32
    # roundings; sums in half precision would miss by 1e-3
    torch.testing.assert_close(logits, (inputs + 100).to(dtype).float(), rtol=1e-5, atol=0)


def test_arguments_reach_the_network() -> None:
    inputs = volume(1, 1, 8, 8)
    logits = WindowInferer((8, 8))(inputs, lambda x, a, b=0: x * a + b, 3.0, b=2.0)
    torch.testing.assert_close(logits, inputs * 3 + 2, rtol=1e-6, atol=1e-6)


def test_integer_input_is_converted() -> None:
    inputs = torch.arange(100, dtype=torch.uint8).reshape(1, 1, 10, 10)
    torch.testing.assert_close(WindowInferer((8, 8))(inputs, lambda x: x * 1), inputs.float(), rtol=1e-6, atol=1e-5)


def test_maps_made_in_inference_mode_serve_autograd_later() -> None:
    inferer = WindowInferer((8, 8), sw_batch_size=1)
    inputs = volume(1, 1, 12, 12)
    scale = torch.ones((), requires_grad=True)
    with torch.inference_mode():
        inferer(inputs, lambda x: x * scale)
        inferer.segment(inputs, lambda x: torch.cat([x, -x], 1))
    # several batches: each must survive until its gradient is taken
    inferer(inputs, lambda x: x * scale).sum().backward()
    assert scale.grad is not None
    torch.testing.assert_close(scale.grad, inputs.sum(), rtol=1e-4, atol=1e-4)  # sum of 144 float32


def test_meta_tensors_keep_their_meta_data() -> None:
    inputs = MetaTensor(volume(1, 1, 12, 12), meta={"filename_or_obj": "a.nii.gz"})
    seen = []

    def network(windows: torch.Tensor) -> torch.Tensor:
        seen.append(type(windows))
        return torch.cat([windows, -windows], 1)

    inferer = WindowInferer((8, 8))
    for result in (inferer(inputs, network), inferer.segment(inputs, network)):
        assert isinstance(result, MetaTensor)
        assert result.meta["filename_or_obj"] == "a.nii.gz"
    assert set(seen) == {torch.Tensor}


@pytest.mark.parametrize(("num_classes", "dtype"), [(2, torch.uint8), (255, torch.uint8), (300, torch.int16)])
def test_segment_dtype_holds_every_class(num_classes: int, dtype: torch.dtype) -> None:
    inputs = torch.randint(num_classes, (1, 1, 10, 9), generator=torch.Generator().manual_seed(0))
    inputs[0, 0, 0, 0] = num_classes - 1

    def one_hot(windows: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.one_hot(windows[:, 0].long(), num_classes).movedim(-1, 1).float()

    labels = WindowInferer((8, 8)).segment(inputs, one_hot)
    assert labels.dtype == dtype
    assert torch.equal(labels.long(), inputs)


@pytest.mark.parametrize("depth", [32, 100])
def test_segment_keeps_less_than_one_window_height_of_scores(depth: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """However deep the volume: 4 planes that the next windows go on with, and the rows of one line of windows."""
    stores = set()
    add = SlabArgmax.add

    def watched(self: SlabArgmax, copies: Sequence[WindowCopy], outputs: Sequence[torch.Tensor]) -> None:
        add(self, copies, outputs)
        assert self.store is not None
        stores.add((tuple(self.store.shape), self.store.dtype))

    monkeypatch.setattr(SlabArgmax, "add", watched)
    WindowInferer((8, 16, 16)).segment(volume(1, 1, depth, 24, 20), position_aware(5))
    assert stores == {((4 * 24 + 4 * 16, 5, 20), torch.float32)}


def test_slabs_refuse_windows_out_of_order() -> None:
    grid = WindowGrid((12, 4), (8, 4), 0.5, "gaussian")
    slabs = SlabArgmax(grid, 1, torch.device("cpu"), MemoryFallback())
    slabs.add([WindowCopy(0, (1, 0), (), True)], [torch.zeros(2, 8, 4)])
    with pytest.raises(ValueError, match="ascending order"):
        slabs.add([WindowCopy(0, (0, 0), (), True)], [torch.zeros(2, 8, 4)])


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"overlap": 1.0}, InputError, "overlap"),
        ({"overlap": -0.5}, InputError, "overlap"),
        ({"blend": "linear"}, InputError, "blend: unknown value 'linear'. Cure: use one of gaussian, constant"),
        ({"roi_size": ()}, ValueError, "roi_size"),
        ({"roi_size": (8, 0)}, ValueError, "roi_size"),
        ({"roi_size": (8, 8, 8, 8)}, ValueError, "roi_size"),
        ({"sw_batch_size": 0}, ValueError, "sw_batch_size"),
        ({"mirror_axes": (2,)}, ValueError, "mirror_axes"),
        ({"mirror_axes": (0, 0)}, ValueError, "mirror_axes"),
        ({"mirror_axes": (-1,)}, ValueError, "mirror_axes"),
    ],
)
def test_bad_arguments_are_refused_at_construction(
    arguments: dict[str, object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        WindowInferer(**{"roi_size": (8, 8), **arguments})  # type: ignore[arg-type]


def test_bad_inputs_and_outputs_are_refused() -> None:
    inferer = WindowInferer((8, 8))
    with pytest.raises(ValueError, match="2 spatial axes"):
        inferer(volume(1, 8, 8), lambda x: x)
    with pytest.raises(ValueError, match="non-empty"):
        inferer(torch.zeros(0, 1, 8, 8), lambda x: x)
    with pytest.raises(ValueError, match=r"the network must return \[1, K, 8, 8\].*got \(1, 1, 4, 4\)"):
        inferer(volume(1, 1, 8, 8), lambda x: x[..., ::2, ::2])
    with pytest.raises(ValueError, match="two or more output channels"):
        inferer.segment(volume(1, 1, 8, 8), lambda x: x)


def test_progress_bar_counts_windows(capsys: pytest.CaptureFixture[str]) -> None:
    WindowInferer((8, 8), 3, progress=True)(volume(1, 1, 16, 16), lambda x: x * 1)
    assert "/9" in capsys.readouterr().err


def test_even_windows_share_one_call_of_the_network() -> None:
    """A body in air: what the network gives for air is computed once per value, the result stays the same."""
    image = torch.zeros(2, 2, 24, 40)
    image[0, :, 8:16, 8:16] = volume(2, 8, 8)
    image[1] = 3.0
    network, seen = position_aware(), [0]

    def counted(windows: torch.Tensor) -> torch.Tensor:
        seen[0] += len(windows)
        return network(windows)

    expected = slow_reference(image, network, (8, 8), 0.5, mirror_axes=(0, 1))
    with torch.inference_mode():
        every = WindowInferer((8, 8), 3, mirror_axes=(0, 1), skip_even=False)(image, counted)
        all_copies, seen[0] = seen[0], 0
        logits = WindowInferer((8, 8), 3, mirror_axes=(0, 1))(image, counted)
        labels = WindowInferer((8, 8), 3, mirror_axes=(0, 1)).segment(image, network)
    assert all_copies == 2 * 5 * 9 * 4  # two images, windows, mirrored copies
    assert seen[0] == 9 * 4 + 2  # nine windows touch the body; zeros and threes once each
    torch.testing.assert_close(logits.double(), expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(logits, every, rtol=0, atol=1e-6)
    assert (labels[:, 0] == logits.argmax(1)).double().mean() > 0.999


def test_even_windows_are_told_apart_by_their_bits() -> None:
    image = torch.zeros(1, 1, 16, 48)
    image[..., 8:16] = -0.0
    image[..., 10, 20] = 1e-45  # a single voxel in the interior of a window
    image[..., 40:] = torch.nan
    even = EvenWindows(image, [[0, 8], [0, 8, 16, 24, 32, 40]], (8, 8))
    values = [[even.value(0, (row, column)) for column in range(6)] for row in range(2)]
    minus, nan = -(2**31), 0x7FC00000
    assert values[0] == [(0,), (minus,), (0,), (0,), (0,), (nan,)]
    assert values[1] == [(0,), (minus,), None, (0,), (0,), (nan,)]
    assert EvenWindows(image, [[0], [4]], (8, 8)).value(0, (0, 0)) is None  # 0 and -0


def test_few_outputs_of_even_windows_are_kept() -> None:
    """A mosaic of many values must not hold an output for each."""
    mosaic = torch.arange(64.0).repeat_interleave(8)[None, None, None].expand(1, 1, 8, 512).clone()
    even = EvenWindows(mosaic, [[0], list(range(0, 505, 8))], (8, 8))
    for column in range(64):
        value = even.value(0, (0, column))
        assert value is not None
        even.output(value, lambda: torch.zeros(2, 8, 8))
    assert len(even._outputs) == KEPT
    with torch.inference_mode():
        torch.testing.assert_close(WindowInferer((8, 8), overlap=0.0)(mosaic, lambda x: x * 2), mosaic * 2)


def test_even_windows_of_a_network_that_returns_its_input() -> None:
    image = torch.zeros(1, 2, 16, 32)
    image[..., 16:] = volume(1, 2, 16, 16)
    with torch.inference_mode():
        torch.testing.assert_close(WindowInferer((8, 8), 2)(image, lambda x: x), image, rtol=0, atol=1e-6)


def test_gradients_flow_through_every_window() -> None:
    """With gradients nothing is skipped: every voxel has its own."""
    image = torch.zeros(1, 1, 16, 16, requires_grad=True)
    WindowInferer((8, 8))(image, lambda x: x * 2.0).sum().backward()
    torch.testing.assert_close(image.grad, torch.full_like(image, 2.0))


def test_gradients_equal_those_of_the_slow_reference() -> None:
    image = volume(1, 2, 9, 11).requires_grad_()
    weighting = volume(1, 3, 9, 11, seed=3)
    network = position_aware()
    (WindowInferer((4, 6), 3, mirror_axes=(1,))(image, network) * weighting).sum().backward()
    exact = image.detach().double().requires_grad_()
    (slow_reference(exact, network, (4, 6), 0.5, mirror_axes=(1,)) * weighting.double()).sum().backward()
    torch.testing.assert_close(image.grad.double(), exact.grad, rtol=1e-5, atol=1e-5)


def test_results_with_and_without_gradients_agree() -> None:
    image, scale = volume(2, 1, 13, 9, 7), torch.ones((), requires_grad=True)
    inferer = WindowInferer((5, 4, 6), 3, 0.6, mirror_axes=(0, 2))
    with_gradients = inferer(image, lambda x: position_aware()(x) * scale)
    assert with_gradients.requires_grad
    with torch.no_grad():
        without = inferer(image, lambda x: position_aware()(x) * scale)
    assert not without.requires_grad
    torch.testing.assert_close(with_gradients.detach(), without, rtol=0, atol=1e-6)


@pytest.mark.parametrize("mirror_axes", [(), (0, 1)])
def test_stack_of_slices_is_predicted_slice_by_slice(mirror_axes: tuple[int, ...]) -> None:
    stack = volume(2, 3, 5, 12, 11)
    inferer = WindowInferer((6, 8), sw_batch_size=3, mirror_axes=mirror_axes)
    logits = inferer(stack, position_aware())
    assert logits.shape == (2, 3, 5, 12, 11)
    for depth in range(5):
        expected = slow_reference(stack[:, :, depth], position_aware(), (6, 8), 0.5, mirror_axes=mirror_axes)
        # sums of up to nine float32 windows of values near 1
        torch.testing.assert_close(logits[:, :, depth].double(), expected, rtol=0, atol=1e-5)
    labels = inferer.segment(stack, position_aware())
    assert labels.shape == (2, 1, 5, 12, 11)
    assert (labels[:, 0] == logits.argmax(1)).double().mean() > 0.999  # ties in the last bits may fall otherwise


def test_flips_of_slices_are_height_and_width_not_depth() -> None:
    """A network that looks at single slices cannot change by depth flips; it must change by both in-plane flips."""
    stack = volume(1, 1, 4, 8, 8)
    plain = WindowInferer((8, 8))(stack, position_aware())
    both = WindowInferer((8, 8), mirror_axes=(0, 1))(stack, position_aware())
    versions = [torch.flip(WindowInferer((8, 8))(stack.flip(a), position_aware()), a) for a in ((3,), (4,), (3, 4))]
    torch.testing.assert_close(both, (plain + sum(versions)) / 4, rtol=0, atol=1e-5)
    assert not torch.allclose(both, plain, atol=1e-2)
