"""Which window is the first and which the last at a voxel."""

from __future__ import annotations

import pytest
import torch

from monai_ext.inferers.window_grid import WindowGrid

GRIDS = {
    "regular": ((16, 16), (8, 8), 0.5),
    "odd": ((13, 17, 9), (7, 8, 5), 0.6),
    "padded": ((5, 20, 6), (8, 8, 9), 0.25),
    "no_overlap": ((16, 9), (8, 8), 0.0),
    "equal_starts": ((4, 9), (3, 3), 0.9),
    "1d": ((50,), (16,), 0.5),
}


@pytest.mark.parametrize("name", GRIDS)
def test_fresh_and_final_boxes_are_those_of_the_first_and_last_window(name: str) -> None:
    shape, roi, overlap = GRIDS[name]
    grid = WindowGrid(shape, roi, overlap, "gaussian")
    places = list(grid.places)
    assert len(places) == grid.num_windows
    first, last = torch.full(shape, -1), torch.full(shape, -1)
    for number, place in enumerate(places):
        box = grid.reach(place)
        first[box] = torch.where(first[box] < 0, number, first[box])
        last[box] = number
    assert (last >= 0).all()
    for number, place in enumerate(places):
        fresh, final = torch.zeros(shape, dtype=torch.bool), torch.zeros(shape, dtype=torch.bool)
        corner = tuple(slice(new, None) for new in grid.fresh(place))
        reached = torch.zeros(shape, dtype=torch.bool)
        reached[grid.reach(place)] = True
        fresh[corner] = True
        final[grid.final(place)] = True
        assert torch.equal(fresh & reached, first == number)
        assert torch.equal(final, last == number)
