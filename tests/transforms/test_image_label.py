"""What transforms of an image and its label check before they draw."""

from __future__ import annotations

import pytest
import torch
from monai.transforms import Compose, RandRotate90d

from monai_ext.errors import InputError
from monai_ext.transforms.crop_resize import RandCropResized
from monai_ext.transforms.elastic import RandElasticd
from monai_ext.transforms.image_label import check_binary
from monai_ext.transforms.mirrored_tile import RandMirroredTiled
from monai_ext.transforms.sample_seed import seed_transforms

KINDS = (RandCropResized, RandElasticd, RandMirroredTiled)


def make_sample(height: int = 20, width: int = 31) -> dict:
    generator = torch.Generator().manual_seed(0)
    return {
        "image": torch.rand(1, height, width, generator=generator),
        "label": torch.randint(0, 2, (1, height, width), generator=generator),
    }


@pytest.mark.parametrize("kind", KINDS)
def test_several_images_and_labels_move_alike(kind) -> None:
    sample = make_sample()
    sample |= {"second": sample["image"], "mask": sample["label"].to(torch.int8), "case": "a"}
    transform = kind(("image", "second"), ("label", "mask"))
    transform.set_random_state(seed=0)
    out = transform(sample)
    assert torch.equal(out["second"], out["image"])
    assert out["mask"].dtype == torch.int8
    assert torch.equal(out["mask"].long(), out["label"])
    assert out["case"] == "a"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("label", [torch.zeros(1, 20, 30), torch.zeros(20, 31)], ids=["width", "no channel"])
def test_shapes_that_differ_are_refused(kind, label: torch.Tensor) -> None:
    with pytest.raises(InputError, match=r"one height and width, found .*Cure: ") as caught:
        kind()({**make_sample(), "label": label.long()})
    assert kind.__name__ in str(caught.value)


@pytest.mark.parametrize("kind", KINDS)
def test_a_key_is_an_image_or_a_label(kind) -> None:
    with pytest.raises(InputError, match=r"\['label'\] are keys and label_keys\. Cure: "):
        kind(("image", "label"), "label")


@pytest.mark.parametrize("kind", KINDS)
def test_missing_label_only_where_allowed(kind) -> None:
    image = make_sample()["image"]
    with pytest.raises(KeyError):
        kind()({"image": image})
    assert set(kind(allow_missing_keys=True)({"image": image})) == {"image"}


@pytest.mark.parametrize("kind", [RandCropResized, RandElasticd])
@pytest.mark.parametrize("value", [-1, 255])
def test_labels_beyond_0_and_1_are_refused_where_they_are_interpolated(kind, value: int) -> None:
    sample = make_sample()
    sample["label"][0, 3, 4] = value
    with pytest.raises(InputError, match=f"0 and 1 only, found .*{value}.*Cure: "):
        kind()(sample)


def test_binary_labels_pass_as_they_are() -> None:
    for label in (torch.zeros(1, 2, 2, dtype=torch.uint8), torch.ones(1, 2, 2, dtype=torch.bool)):
        assert check_binary("x", label) is label


@pytest.mark.parametrize("kind", KINDS)
def test_a_chain_with_right_angles_of_monai_depends_on_seed_and_index_only(kind) -> None:
    extra = {"output_size": 6, "margin": 2} if kind is RandMirroredTiled else {}

    def chain() -> Compose:
        # hands its MetaTensor on to the transform under test
        return Compose([RandRotate90d(("image", "label"), prob=0.75, max_k=3), kind(**extra)])

    fresh, used, sample = chain(), chain(), make_sample()
    results = []
    for index in range(6):
        used(sample)  # an unseeded call in between must not matter
        a, b = seed_transforms(fresh, 1, index)(sample), seed_transforms(used, 1, index)(sample)
        assert torch.equal(torch.as_tensor(a["image"]), torch.as_tensor(b["image"]))
        assert torch.equal(torch.as_tensor(a["label"]), torch.as_tensor(b["label"]))
        results.append(torch.as_tensor(a["image"]))
    assert not any(r.shape == results[0].shape and torch.equal(r, results[0]) for r in results[1:])
