from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monai_ext.preprocessing.crop import crop, foreground_box, paste


def test_box_covers_all_channels() -> None:
    image = np.zeros((2, 6, 7, 8), dtype=np.float32)
    image[0, 2, 3, 4] = -1
    image[1, 4, 1, 5] = 2
    assert foreground_box(image, "nonzero") == ((2, 5), (1, 4), (4, 6))
    assert foreground_box(image, "positive") == ((4, 5), (1, 2), (5, 6))
    assert foreground_box(image, "none") == ((0, 6), (0, 7), (0, 8))


@pytest.mark.parametrize("rule", ["nonzero", "positive", "none"])
def test_empty_image_keeps_the_whole_volume(rule: str) -> None:
    assert foreground_box(np.zeros((1, 3, 4, 5), dtype=np.float32), rule) == ((0, 3), (0, 4), (0, 5))


def test_unknown_rule() -> None:
    with pytest.raises(ValueError, match="negative"):
        foreground_box(np.zeros((1, 3, 4, 5), dtype=np.float32), "negative")


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1), st.tuples(*[st.integers(1, 6)] * 3))
def test_paste_undoes_crop(seed: int, shape: tuple[int, int, int]) -> None:
    rng = np.random.default_rng(seed)
    image = (rng.random((2, *shape)) < 0.1).astype(np.float32) * rng.normal(size=(2, *shape)).astype(np.float32)
    box = foreground_box(image, "nonzero")
    part = crop(image, box)
    np.testing.assert_array_equal(paste(part, box, shape), image)
    if image.any():
        for axis in (1, 2, 3):  # a smaller box would lose something
            assert part.take(0, axis).any()
            assert part.take(-1, axis).any()


def test_paste_fills_outside() -> None:
    whole = paste(np.ones((1, 1, 1), dtype=np.uint8), ((1, 2), (0, 1), (0, 1)), (3, 1, 1), fill=7)
    assert whole.ravel().tolist() == [7, 1, 7]
