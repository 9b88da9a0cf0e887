"""Mixup, cutmix and smoothing: targets say exactly what the images show."""

from __future__ import annotations

import pytest
import torch

from monai_ext.engines.batch_mixing import BatchMixing
from monai_ext.errors import InputError

COUNT = 6


def marked(*shape: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Image i is i everywhere and of class i: every value of a mixture tells whose it is."""
    images = torch.arange(float(COUNT)).view(-1, *[1] * (len(shape) + 1)).expand(COUNT, 2, *shape).clone()
    return images, torch.arange(COUNT)


@pytest.mark.parametrize("per_sample", [False, True])
def test_mixup_targets_are_the_shares_of_the_images(per_sample: bool) -> None:
    images, labels = marked(4, 5)
    before, seen = images.clone(), set()
    torch.manual_seed(0)
    for _ in range(50):
        mixed, targets = BatchMixing(COUNT, mixup_alpha=0.4, per_sample=per_sample)(images, labels)
        assert torch.allclose(targets.sum(1), torch.ones(COUNT))
        # sum of class times share is what a pixel shows
        shown = targets @ torch.arange(float(COUNT))
        assert torch.allclose(mixed, shown.view(-1, 1, 1, 1).expand_as(mixed), atol=1e-5)
        kept = targets[labels, labels]
        if per_sample:
            assert torch.allclose(targets.flip(1).diagonal() + kept, torch.ones(COUNT), atol=1e-6)  # partner 5 - i
            seen.add(len(set(kept.tolist())) > 2)
        else:
            seen.add(round(float(kept[kept < 1].min()), 4) if (kept < 1).any() else 1.0)
    assert torch.equal(images, before)
    assert len(seen) > 10 if not per_sample else seen == {True}


@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("shape", [(13, 17), (7, 9, 8)])
def test_cutmix_targets_count_the_pixels(per_sample: bool, shape: tuple[int, ...]) -> None:
    images, labels = marked(*shape)
    torch.manual_seed(1)
    shares = []
    for _ in range(40):
        mixed, targets = BatchMixing(COUNT, cutmix_alpha=1.0, per_sample=per_sample)(images, labels)
        for number in range(COUNT):
            counts = torch.bincount(mixed[number, 0].flatten().long(), minlength=COUNT)
            assert torch.allclose(targets[number], counts / counts.sum(), atol=1e-6)
            assert torch.equal(mixed[number, 0], mixed[number, 1])
            foreign = (mixed[number, 0] != number).nonzero()
            if len(foreign):
                # a box: as many pixels as its extents span
                spans = foreign.max(0).values - foreign.min(0).values + 1
                assert spans.prod() == len(foreign)
        shares.append(float(targets[0, 0]))
    assert torch.equal(images, marked(*shape)[0])
    assert min(shares) < 0.6  # lambda is uniform at alpha 1, but boxes lose what reaches beyond the border
    assert max(shares) > 0.9


def test_both_ways_take_turns() -> None:
    images, labels = marked(8, 8)
    torch.manual_seed(0)
    mixing, ways = BatchMixing(COUNT, mixup_alpha=1.0, cutmix_alpha=1.0), []
    for _ in range(60):
        mixed, _ = mixing(images, labels)
        ways.append(bool((mixed == mixed.round()).all()))
    assert 15 < sum(ways) < 45  # half, within four standard deviations


def test_lambda_follows_the_beta_law() -> None:
    images, labels = torch.zeros(2000, 1, 1, 1), torch.arange(2000)
    torch.manual_seed(0)
    _, targets = BatchMixing(2000, mixup_alpha=0.2, per_sample=True)(images, labels)
    kept = targets.diagonal().double()
    # Beta(a, a): mean 1/2, variance 1 / (4 (2 a + 1)); within four standard errors
    assert abs(kept.mean() - 0.5) < 4 * (0.1786 / 2000) ** 0.5
    assert abs(kept.var() - 1 / (4 * 1.4)) < 0.01


def test_smoothing() -> None:
    images = torch.zeros(2, 1, 2, 2)
    same, targets = BatchMixing(4, label_smoothing=0.1)(images, torch.tensor([0, 3]))
    assert same is images
    assert targets.dtype == torch.float32
    assert torch.allclose(targets, torch.tensor([[0.925, 0.025, 0.025, 0.025], [0.025, 0.025, 0.025, 0.925]]))
    several = torch.tensor([[1, 0, 1], [0, 0, 0]])
    _, targets = BatchMixing(3, label_smoothing=0.1, multi_label=True)(images, several)
    assert torch.allclose(targets, torch.tensor([[0.95, 0.05, 0.95], [0.05, 0.05, 0.05]]))


def test_several_labels_are_mixed_too() -> None:
    images = torch.tensor([0.0, 1.0]).view(2, 1, 1, 1)
    labels = torch.tensor([[1.0, 0.0], [1.0, 1.0]])
    torch.manual_seed(0)
    mixed, targets = BatchMixing(2, mixup_alpha=1.0, multi_label=True, per_sample=True)(images, labels)
    assert torch.allclose(targets[:, 0], torch.ones(2))
    assert torch.allclose(targets[:, 1], mixed.flatten(), atol=1e-6)


def test_the_generator_decides() -> None:
    images, labels = marked(8, 8)
    mixing = BatchMixing(COUNT, mixup_alpha=0.2, cutmix_alpha=1.0)
    torch.manual_seed(5)
    first = mixing(images, labels)
    second = mixing(images, labels)
    torch.manual_seed(5)
    again = mixing(images, labels)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[1], second[1])


def test_half_precision_and_layout_stay() -> None:
    images = marked(8, 8)[0].to(torch.bfloat16).contiguous(memory_format=torch.channels_last)
    for options in ({"mixup_alpha": 0.5}, {"cutmix_alpha": 1.0}):
        mixed, targets = BatchMixing(COUNT, **options)(images, torch.arange(COUNT))
        assert mixed.dtype == torch.bfloat16
        assert mixed.is_contiguous(memory_format=torch.channels_last)
        assert targets.dtype == torch.float32


def test_all_bad_arguments_are_named() -> None:
    with pytest.raises(InputError, match=r"(?s)3 problems.*mixup_alpha -1.*cutmix_alpha -2.*label_smoothing 1"):
        BatchMixing(3, -1, -2, 1.0)
