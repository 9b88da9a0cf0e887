"""Overlap-tile prediction: equal to one large window, in any tiling, for any size of slice."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from monai_ext.errors import InputError
from monai_ext.inferers.right_angle_inferer import RightAngleInferer
from monai_ext.inferers.slice_inferer import slice_inferer
from monai_ext.inferers.valid_tile_inferer import LARGEST, ValidTileInferer
from monai_ext.inferers.window_positions import window_positions
from monai_ext.networks.valid_unet import ValidUNet
from monai_ext.planning.em_plan import EmPlan
from monai_ext.planning.valid_sizes import border, smallest_input_size

LEVELS = 2
MARGIN = border(LEVELS)


@pytest.fixture
def network() -> ValidUNet:
    torch.manual_seed(0)
    return (
        ValidUNet(base_features=2, levels=LEVELS, dropout=0, upsampling="conv2").eval().double().requires_grad_(False)
    )


def whole(network: ValidUNet, image: torch.Tensor) -> torch.Tensor:
    """Probabilities from a single call on the slice mirrored far beyond its border."""
    height, width = image.shape[-2:]
    tall, wide = (-(-n // 4) * 4 + 2 * MARGIN + 4 for n in (height, width))
    tall, wide = (n - (n - 2 * MARGIN) % 4 for n in (tall, wide))
    pad = ((0, 0), (0, 0), (MARGIN, tall - MARGIN - height), (MARGIN, wide - MARGIN - width))
    mirrored = torch.from_numpy(np.pad(image.numpy(), pad, mode="reflect"))
    return network(mirrored).float().softmax(1)[..., :height, :width]


@pytest.mark.parametrize("blend", ["gaussian", "constant"])
@pytest.mark.parametrize("overlap", [0, 0.2])
def test_tiles_agree_with_one_window(network: ValidUNet, overlap: float, blend: str) -> None:
    """Without border effects it does not matter where tiles lie, as long as they start at multiples of 2^levels."""
    image = torch.randn(2, 1, 60, 60, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    size = 60 if overlap == 0 else 52  # tiles of 20 pixels at 0, 20, 40 or at 0, 16, 32
    image = image[..., :size, :size]
    found = ValidTileInferer((60, 60), LEVELS, sw_batch_size=3, overlap=overlap, blend=blend)(image, network)
    assert found.shape == (2, 2, size, size)
    torch.testing.assert_close(found.sum(1), torch.ones(2, size, size), rtol=0, atol=1e-5)
    torch.testing.assert_close(found, whole(network, image), rtol=0, atol=1e-6)  # float32 sums


def test_slice_in_one_piece(network: ValidUNet) -> None:
    image = torch.randn(1, 1, 71, 50, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    calls: list[torch.Size] = []

    def counted(x: torch.Tensor) -> torch.Tensor:
        calls.append(x.shape)
        return network(x)

    found = ValidTileInferer((), LEVELS)(image, counted)
    assert len(calls) == 1
    torch.testing.assert_close(found, whole(network, image), rtol=0, atol=1e-6)


def test_slices_smaller_than_a_tile(network: ValidUNet) -> None:
    image = torch.randn(1, 1, 45, 43, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = ValidTileInferer((100, 100), LEVELS)(image, network)
    torch.testing.assert_close(found, whole(network, image), rtol=0, atol=1e-6)


def test_batches_of_tiles_change_nothing(network: ValidUNet) -> None:
    image = torch.randn(2, 1, 90, 90, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    one = ValidTileInferer((60, 60), LEVELS, sw_batch_size=1)(image, network)
    many = ValidTileInferer((60, 60), LEVELS, sw_batch_size=100)(image, network)
    torch.testing.assert_close(one, many, rtol=0, atol=1e-6)


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(InputError, match=r"roi_size: 61 x 60 pixels.*60 or 64"):
        ValidTileInferer((61, 60), LEVELS)
    with pytest.raises(InputError, match="blend: unknown value 'linear'"):
        ValidTileInferer((60, 60), LEVELS, blend="linear")
    with pytest.raises(InputError, match="overlap"):
        ValidTileInferer((60, 60), LEVELS, overlap=1.0)


def test_views_are_averaged_and_turned_back() -> None:
    """An inferer that marks the first row of what it sees: the average marks the whole border alike."""

    def first_row(image: torch.Tensor, network: object) -> torch.Tensor:
        marked = torch.zeros_like(image)
        marked[..., 0, :] = 1
        return marked

    image = torch.zeros(1, 1, 5, 7)
    average = RightAngleInferer(first_row, enabled=True)(image, None)  # type: ignore[arg-type]
    expected = torch.zeros(5, 7)
    expected[0] += 0.25
    expected[-1] += 0.25
    expected[:, 0] += 0.25
    expected[:, -1] += 0.25
    torch.testing.assert_close(average[0, 0], expected)
    torch.testing.assert_close(RightAngleInferer(first_row, enabled=False)(image, None), first_row(image, None))  # type: ignore[arg-type]


def test_every_view_is_turned_back() -> None:
    """What gives back what it sees must come out as it went in, whatever the views."""
    image = torch.randn(1, 2, 6, 9, generator=torch.Generator().manual_seed(0))
    found = RightAngleInferer(lambda x, network: x, enabled=True)(image, None)  # type: ignore[arg-type]
    torch.testing.assert_close(found, image)


@pytest.mark.parametrize("levels", [1, 2, 3, 4, 5, 6])
@pytest.mark.parametrize("size", [700, 852, 853, 3000])
def test_large_slices_get_few_tiles_of_fitting_size(levels: int, size: int) -> None:
    """No tile beyond the limit, no more of them than needed, and at most a third more output than the overlap asks."""
    inferer = ValidTileInferer((), levels, overlap=0.25)
    tile = inferer._tile(size, size)[0]
    assert tile + 2 * border(levels) <= max(LARGEST, smallest_input_size(levels))
    starts = window_positions((size,), (tile,), 0.25)[0]
    assert starts[-1] + tile >= size
    assert len(starts) == 1 or tile * len(starts) < 1.6 * size
    most = LARGEST - 2 * border(levels)
    assert len(starts) <= max(1, -(-(size - most) // int(0.75 * most - 2**levels)) + 1)


def test_plan_decides_the_geometry(network: ValidUNet) -> None:
    image = torch.zeros(1, 1, 90, 80, dtype=torch.float64)
    tiles = EmPlan("a", "tile", (60, 60), (0.0, 255.0), 2, LEVELS)
    assert slice_inferer(tiles, roi_size=[60])(image, network).shape == (1, 2, 90, 80)
    resize = EmPlan("a", "resize", (100, 100), (0.0, 255.0), 2, LEVELS)
    assert slice_inferer(resize, tta=True)(image, network.float()).shape == (1, 2, 60, 60)
    oblong = EmPlan("a", "resize", (100, 60), (0.0, 255.0), 2, LEVELS)
    with pytest.raises(InputError, match="--tta True"):
        slice_inferer(oblong, tta=True)(image, network.float())
