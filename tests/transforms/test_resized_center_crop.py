"""Centre crop of evaluation against resizing the shorter side and cutting the centre."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from PIL import Image

from monai_ext.errors import InputError
from monai_ext.transforms.resized_center_crop import ResizedCenterCropd, center_box


@pytest.mark.parametrize(
    ("shape", "size", "ratio", "box"),
    [
        ((256, 256), (224, 224), 0.875, (16, 16, 240, 240)),
        ((375, 500), (224, 224), 0.875, (23, 86, 351, 414)),  # 375 * 0.875 = 328.1
        ((500, 375), (224, 224), 1.0, (62, 0, 437, 375)),
        ((100, 100), (50, 200), 1.0, (37, 0, 62, 100)),
        ((3, 3), (224, 224), 0.875, (0, 0, 3, 3)),
        ((1, 5), (16, 16), 0.1, (0, 2, 1, 3)),
    ],
)
def test_box(shape: tuple[int, ...], size: tuple[int, ...], ratio: float, box: tuple[int, ...]) -> None:
    assert center_box(shape, size, ratio) == box


def test_volumes_are_cut_in_their_own_shape() -> None:
    assert center_box((20, 256, 256), (96, 96, 96), 0.875, keep_aspect=False) == (1, 16, 16, 19, 240, 240)
    out = ResizedCenterCropd("image", (9, 8, 7))({"image": torch.rand(2, 20, 30, 40)})
    assert out["image"].shape == (2, 9, 8, 7)


def test_same_as_resizing_then_cutting() -> None:
    random = np.random.default_rng(0)
    image = Image.fromarray(random.integers(0, 256, (240, 300, 3), dtype=np.uint8))
    tensor = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    out = ResizedCenterCropd("image", (112, 112))({"image": tensor})["image"]
    resized = image.resize((160, 128), Image.Resampling.BILINEAR)  # 128 = 112 / 0.875
    wanted = np.asarray(resized.crop((24, 8, 136, 120))).transpose(2, 0, 1).astype(int)
    error = np.abs(out.numpy() - wanted)[:, 2:-2, 2:-2]  # at the border the cut picture is all there is to see
    assert error.max() <= 2  # rounding between the axes


def test_inverse() -> None:
    image = MetaTensor(torch.linspace(1, 2, 40)[None, :, None].expand(1, 40, 60).clone())
    transform = ResizedCenterCropd("image", (20, 20), crop_ratio=0.5)
    out = transform({"image": image})
    assert out["image"].shape == (1, 20, 20)
    back = transform.inverse(out)["image"]
    assert back.shape == (1, 40, 60)
    assert torch.allclose(back[:, 10:30, 20:40].as_tensor(), image[:, 10:30, 20:40].as_tensor(), atol=1e-6)
    assert back.sum() == pytest.approx(float(back[:, 10:30, 20:40].sum()))


def test_impossible_ratio() -> None:
    with pytest.raises(InputError, match="crop_ratio must be in"):
        ResizedCenterCropd("image", (20, 20), crop_ratio=0)
