"""Slices resized to a network's output, and back."""

from __future__ import annotations

import torch

from monai_ext.preprocessing.slice_resize import on_canvas, resized, resized_labels


def test_halving_averages_four_pixels() -> None:
    """Pixel centres at halves: output 0 lies between inputs 0 and 1."""
    image = torch.tensor([[[[0.0, 2.0], [4.0, 6.0]]]])
    assert resized(image, (1, 1)).item() == 3
    assert resized(image, (2, 2)) is image


def test_labels_are_cut_at_a_half() -> None:
    labels = torch.tensor([[[[1, 1, 0, 0], [0, 0, 0, 1]]]])
    assert resized_labels(labels, (1, 2)).tolist() == [[[[1, 0]]]]  # shares 0.5 and 0.25
    assert resized_labels(labels, (2, 4)).tolist() == labels.tolist()
    assert resized_labels(labels.byte(), (2, 4)).dtype == torch.int64


def test_canvas_has_a_zero_border() -> None:
    canvas = on_canvas(torch.ones(2, 1, 6, 6), (4, 3), 5)
    assert canvas.shape == (2, 1, 14, 13)
    assert canvas.sum() == 2 * 4 * 3
    assert canvas[:, :, 5:9, 5:8].min() == 1
