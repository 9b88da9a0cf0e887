"""Label maps resized by nearest centres."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812

from monai_ext.transforms.label_resize import nearest_places, resize_labels


def test_places_hold_the_centres() -> None:
    for length in (1, 2, 5, 7, 64):
        for new_length in (1, 3, 7, 10, 64, 129):
            centres = (torch.arange(new_length).double() + 0.5) * length / new_length
            assert nearest_places(length, new_length).tolist() == centres.floor().long().tolist()


def test_enlarging_repeats_and_shrinking_undoes_it() -> None:
    labels = torch.randint(0, 300, (1, 6, 9), dtype=torch.int32, generator=torch.Generator().manual_seed(0))
    large = resize_labels(labels, (0, 0, 6, 9), (18, 27))
    assert torch.equal(large, labels.repeat_interleave(3, 1).repeat_interleave(3, 2))
    assert large.dtype == torch.int32
    assert torch.equal(resize_labels(large, (0, 0, 18, 27), (6, 9)), labels)


def test_a_box_alone_is_a_copy() -> None:
    labels = torch.arange(20, dtype=torch.int32).reshape(4, 5)
    part = resize_labels(labels, (1, 2, 3, 5), (2, 3))
    assert part.tolist() == [[7, 8, 9], [12, 13, 14]]
    part.zero_()
    assert labels[1, 2] == 7


def test_objects_stay_where_those_of_the_image_are() -> None:
    y, x = torch.meshgrid(torch.arange(40), torch.arange(50), indexing="ij")
    disc = ((y - 17) ** 2 + (x - 30) ** 2 < 100).int()[None]
    for size in ((97, 71), (23, 31)):
        labels = resize_labels(disc, (3, 5, 38, 49), size)[0]
        image = F.interpolate(disc[:, None, 3:38, 5:49].float(), size, mode="bilinear", antialias=True)[0, 0]
        # a shift by half a pixel would differ at both sides of the disc, some 2 % of the pixels
        assert ((image > 0.5) != labels.bool()).float().mean() < 0.006
        centre = torch.nonzero(labels).float().mean(0) - torch.nonzero(image > 0.5).float().mean(0)
        assert centre.abs().max() < 0.25
