"""Zooming in."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from monai_ext.transforms.zoom import RandZoomInd, zoom_in


@pytest.mark.parametrize(("mode", "torch_mode"), [("linear", "trilinear"), ("nearest", "nearest-exact")])
def test_crop_and_resize(mode: str, torch_mode: str) -> None:
    image = torch.randn(2, 10, 12, 14, generator=torch.Generator().manual_seed(0))
    part = image[:, 1:9, 1:11, 1:12]  # round(0.8 n) = 8, 10, 11 voxels
    expected = F.interpolate(part[None], image.shape[1:], mode=torch_mode)[0]
    # torch computes its positions in float32
    torch.testing.assert_close(zoom_in(image, 0.8, mode), expected, atol=1e-5, rtol=0)


def test_cubic_keeps_constants_and_parabolas_and_differs_from_linear() -> None:
    line = torch.arange(20.0)
    image = (line.view(-1, 1, 1) ** 2 + 0 * line.view(1, -1, 1) + 3).expand(20, 20, 4)[None].contiguous()
    cubic, linear = zoom_in(image, 0.5, "cubic"), zoom_in(image, 0.5, "linear")
    positions = 5 + (line + 0.5) / 2 - 0.5
    inside = (positions >= 6) & (positions <= 13)  # all four voxels of the crop
    # float32 of values up to 200
    torch.testing.assert_close(cubic[0, inside, 0, 0], positions[inside] ** 2 + 3, atol=1e-3, rtol=0)
    assert (linear - cubic).abs().max() > 0.1


def test_label_keeps_its_classes() -> None:
    label = torch.randint(0, 4, (1, 12, 12, 12), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    transform = RandZoomInd(prob=1, scale=(0.5, 0.6))
    transform.set_random_state(seed=1)
    out = transform({"image": label.float(), "label": label})
    assert out["label"].dtype == torch.uint8
    assert out["label"].shape == label.shape
    assert set(out["label"].unique().tolist()) <= {0, 1, 2, 3}
    assert not torch.equal(out["label"], label)
