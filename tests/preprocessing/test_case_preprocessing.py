from __future__ import annotations

import json
from collections.abc import Callable
from itertools import permutations
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from monai_ext.errors import InputError
from monai_ext.planning.plan import Plan
from monai_ext.preprocessing.case_preprocessing import (
    Placement,
    needs_resampling,
    preprocess,
    restore_labels,
    restore_probabilities,
    restore_stored_labels,
)

MakePlan = Callable[..., Plan]


def one_hot(labels: np.ndarray, classes: int = 3) -> torch.Tensor:
    return torch.nn.functional.one_hot(torch.from_numpy(labels).long(), classes).movedim(-1, 0).float()


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return float(2 * (a & b).sum() / (a.sum() + b.sum()))


@pytest.mark.parametrize("axes", list(permutations(range(3))))
def test_same_spacing_survives_exactly(make_plan: MakePlan, tools: SimpleNamespace, axes: tuple[int, ...]) -> None:
    shape, spacing = (18, 20, 25), (1.5, 1.0, 0.8)
    image, label = tools.ball_case(shape)
    geometry = tools.grid(shape, spacing)
    plan = make_plan(axes=axes, spacing=tuple(spacing[a] for a in axes), normalization=("none",))
    stored, stored_label, placement = preprocess(image, geometry, plan, label)
    assert stored_label is not None
    assert placement.box == ((1, 18), (2, 20), (0, 22))
    np.testing.assert_array_equal(stored[0], image[0, 1:, 2:, :22].transpose(axes))
    assert not needs_resampling(placement, geometry, plan)

    inside = np.zeros_like(label)
    inside[1:, 2:, :22] = label[1:, 2:, :22]
    np.testing.assert_array_equal(restore_stored_labels(stored_label, placement, geometry, plan), inside)
    for dtype in (torch.float32, torch.float16):
        restored = restore_labels(one_hot(stored_label).to(dtype), placement, geometry, plan)
        assert restored.dtype == np.uint8
        np.testing.assert_array_equal(restored, inside)


@pytest.mark.parametrize("axes", [(0, 1, 2), (2, 0, 1)])
@pytest.mark.parametrize(
    ("spacing", "target"),
    [((1.0, 1.0, 1.0), (1.3, 0.8, 0.9)), ((4.0, 1.0, 1.0), (4.0, 0.8, 0.8)), ((2.0, 1.0, 0.5), (1.0, 1.0, 1.0))],
)
def test_other_spacing_keeps_the_ball(
    make_plan: MakePlan,
    tools: SimpleNamespace,
    axes: tuple[int, ...],
    spacing: tuple[float, float, float],
    target: tuple[float, float, float],
) -> None:
    shape = tuple(round(40 / s) for s in spacing)
    image, label = tools.ball_case(shape, spacing)
    geometry = tools.grid(shape, spacing)
    plan = make_plan(axes=axes, spacing=tuple(target[a] for a in axes))
    stored, stored_label, placement = preprocess(image, geometry, plan, label)
    assert stored_label is not None
    box = [placement.box[a][1] - placement.box[a][0] for a in axes]
    expected = tuple(max(1, round(spacing[a] / target[a] * n)) for a, n in zip(axes, box, strict=True))
    assert stored.shape[1:] == stored_label.shape == placement.stored_shape == expected
    assert needs_resampling(placement, geometry, plan)
    restored = restore_labels(one_hot(stored_label), placement, geometry, plan)
    assert dice(restored > 0, label > 0) > 0.95
    assert dice(restored == 2, label == 2) > 0.9  # the core has an eighth of the volume
    with pytest.raises(ValueError, match="resampled"):
        restore_stored_labels(stored_label, placement, geometry, plan)


def test_probabilities_agree_with_labels(make_plan: MakePlan, tools: SimpleNamespace) -> None:
    shape = (18, 20, 25)
    image, label = tools.ball_case(shape)
    geometry, plan = tools.grid(shape, (1.0, 1.0, 1.0)), make_plan(axes=(1, 2, 0), spacing=(0.8, 1.0, 1.2))
    _, stored_label, placement = preprocess(image, geometry, plan, label)
    assert stored_label is not None
    rng = np.random.default_rng(0)
    logits = 4 * one_hot(stored_label) + torch.from_numpy(rng.normal(size=(3, *stored_label.shape)).astype(np.float32))
    probabilities = restore_probabilities(logits, placement, geometry, plan)
    assert probabilities.dtype == np.float32
    np.testing.assert_allclose(probabilities.sum(0), 1, atol=1e-6)
    np.testing.assert_array_equal(probabilities.argmax(0), restore_labels(logits, placement, geometry, plan))
    assert (probabilities[0, 0] == 1).all()  # outside the crop
    assert (probabilities[1:, :, :, 22:] == 0).all()


def test_input_is_not_changed(make_plan: MakePlan, tools: SimpleNamespace) -> None:
    image, label = tools.ball_case((10, 11, 12))
    before = image.copy(), label.copy()
    preprocess(image, tools.grid((10, 11, 12), (1.0, 1.0, 1.0)), make_plan(crop="none"), label)
    np.testing.assert_array_equal(image, before[0])
    np.testing.assert_array_equal(label, before[1])


def test_slices_are_not_resampled_along_z(make_plan: MakePlan, tools: SimpleNamespace) -> None:
    shape, spacing = (7, 20, 24), (5.0, 1.0, 1.0)
    image, label = tools.ball_case(shape, spacing)
    geometry = tools.grid(shape, spacing)
    two = {"patch_size": (16, 16), "strides": ((1, 1), (2, 2)), "kernels": ((3, 3), (3, 3)), "median_shape": (20, 24)}
    plan = make_plan(spatial_dims=2, axes=(0, 1), spacing=(0.5, 2.0), crop="none", **two)
    stored, stored_label, placement = preprocess(image, geometry, plan, label)
    assert stored_label is not None
    assert stored.shape == (1, 7, 40, 12)
    assert restore_labels(one_hot(stored_label), placement, geometry, plan).shape == shape
    turned = make_plan(spatial_dims=2, axes=(1, 0), spacing=(1.0, 1.0), crop="none", normalization=("none",), **two)
    np.testing.assert_array_equal(preprocess(image, geometry, turned)[0], image.transpose(0, 1, 3, 2))


def test_axes_never_vanish(make_plan: MakePlan, tools: SimpleNamespace) -> None:
    image, _ = tools.ball_case((12, 12, 12))
    plan = make_plan(spacing=(100.0, 1.0, 1.0))
    stored, stored_label, placement = preprocess(image, tools.grid((12, 12, 12), (1.0, 1.0, 1.0)), plan)
    assert stored_label is None
    assert stored.shape[1] == placement.stored_shape[0] == 1


def test_ignore_label_stays(make_plan: MakePlan, tools: SimpleNamespace) -> None:
    image, label = tools.ball_case((16, 16, 16))
    label[label == 1] = 3
    plan = make_plan(
        labels={"background": 0, "ball": 1, "core": 2, "ignore": 3}, ignore_label=3, spacing=(0.7, 1.0, 1.0)
    )
    stored_label = preprocess(image, tools.grid((16, 16, 16), (1.0, 1.0, 1.0)), plan, label)[1]
    assert set(np.unique(stored_label)) == {0, 2, 3}


def test_network_outputs_map_to_class_values(make_plan: MakePlan, tools: SimpleNamespace) -> None:
    plan = make_plan(labels={"background": 0, "ignore": 1, "ball": 2}, ignore_label=1, crop="none")
    geometry = tools.grid((2, 2, 2), (1.0, 1.0, 1.0))
    placement = Placement((2, 2, 2), ((0, 2),) * 3, (2, 2, 2))
    logits = torch.zeros(2, 2, 2, 2)
    logits[1, 0] = 1
    assert restore_labels(logits, placement, geometry, plan)[:, 0, 0].tolist() == [2, 0]


def test_large_label_values_need_int16(make_plan: MakePlan, tools: SimpleNamespace) -> None:
    image, label = tools.ball_case((12, 12, 12))
    geometry = tools.grid((12, 12, 12), (1.0, 1.0, 1.0))
    small, large = label.astype(np.int16), label.astype(np.int16) * 200
    assert preprocess(image, geometry, make_plan(), small)[1].dtype == np.uint8  # type: ignore[union-attr]
    stored = preprocess(image, geometry, make_plan(), large)[1]
    assert stored is not None
    assert stored.dtype == np.int16
    assert stored.max() == 400


def test_label_problems(make_plan: MakePlan, tools: SimpleNamespace) -> None:
    image, label = tools.ball_case((12, 12, 12))
    geometry = tools.grid((12, 12, 12), (1.0, 1.0, 1.0))
    with pytest.raises(InputError, match=r"\(11, 12, 12\).*Cure"):
        preprocess(image, geometry, make_plan(), label[1:])
    with pytest.raises(InputError, match=r"value -1.*Cure"):
        preprocess(image, geometry, make_plan(), label.astype(np.int16) - 1)


def test_prediction_of_another_shape(make_plan: MakePlan, tools: SimpleNamespace) -> None:
    placement = Placement((4, 4, 4), ((0, 4),) * 3, (4, 4, 4))
    with pytest.raises(ValueError, match="does not fit"):
        restore_labels(torch.zeros(3, 4, 4, 5), placement, tools.grid((4, 4, 4), (1.0, 1.0, 1.0)), make_plan())


def test_placement_survives_json() -> None:
    placement = Placement((9, 8, 7), ((1, 9), (0, 8), (2, 5)), (8, 8, 3))
    assert Placement.from_dict(json.loads(json.dumps(placement.to_dict()))) == placement


@pytest.mark.parametrize("slice_axis", [0, 1, 2])
@pytest.mark.parametrize("resample", [True, False])
def test_stack_of_slices_goes_and_comes_back(
    make_plan: MakePlan, tools: SimpleNamespace, slice_axis: int, resample: bool
) -> None:
    """The axis across the slices comes first and is never resampled; `resample` decides about the other two."""
    shape, spacing = (18, 20, 25), (1.5, 1.0, 0.8)
    image, label = tools.ball_case(shape)
    geometry = tools.grid(shape, spacing)
    flat = {"spatial_dims": 2, "axes": (0, 1), "spacing": (0.5, 0.5), "patch_size": (16, 16), "crop": "none"}
    levels = {"strides": ((1, 1), (2, 2)), "kernels": ((3, 3), (3, 3))}
    plan = make_plan(**flat, **levels, slice_axis=slice_axis, resample=resample)
    plan.check()
    stored, stored_label, placement = preprocess(image, geometry, plan, label)
    within = [a for a in range(3) if a != slice_axis]
    factors = [spacing[a] / 0.5 if resample else 1 for a in within]
    assert stored.shape[1] == shape[slice_axis]
    assert stored.shape[2:] == tuple(round(shape[a] * f) for a, f in zip(within, factors, strict=True))
    assert needs_resampling(placement, geometry, plan) == resample
    assert stored_label is not None
    restored = restore_labels(one_hot(stored_label), placement, geometry, plan)
    assert restored.shape == shape
    assert dice(restored > 0, label > 0) > (0.97 if resample else 0.9999)
