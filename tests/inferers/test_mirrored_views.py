"""Mean over mirror images."""

from __future__ import annotations

import pytest
import torch

from monai_ext.errors import InputError
from monai_ext.inferers.mirrored_views import MirroredViews


def corner(image: torch.Tensor) -> torch.Tensor:
    """Logits that see one corner only, so that every flip gives others."""
    return torch.stack([image[:, 0, 0, 0], image[:, 0, 1, 0]], 1)


@pytest.mark.parametrize("multi_label", [False, True])
def test_mean_of_probabilities(multi_label: bool) -> None:
    x = torch.randn(3, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    found = MirroredViews((0, 1), multi_label)(x, corner)
    views = [corner(v) for v in (x, x.flip(2), x.flip(3), x.flip(2, 3))]
    if multi_label:
        torch.testing.assert_close(found.sigmoid(), torch.stack([v.sigmoid() for v in views]).mean(0))
    else:
        torch.testing.assert_close(found.softmax(1), torch.stack([v.softmax(1) for v in views]).mean(0))


def test_axis_that_is_not_there() -> None:
    with pytest.raises(InputError, match="2 axes"):
        MirroredViews((2,))(torch.zeros(1, 1, 4, 4), corner)


def test_one_view_is_the_network_itself() -> None:
    x = torch.randn(2, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(MirroredViews()(x, corner), corner(x), rtol=0, atol=0)
