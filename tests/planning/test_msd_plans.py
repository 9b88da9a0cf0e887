"""Published plans: levels that the rule computes against the published table."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from monai_ext.errors import InputError
from monai_ext.planning.fingerprint import Fingerprint
from monai_ext.planning.msd_plans import MSD_TASKS, find_task, named_plan
from monai_ext.planning.plan import Plan

ALL, FLAT = (2, 2, 2), (1, 2, 2)
CUBE, DISC = (3, 3, 3), (1, 3, 3)
# task: strides of levels 1.., kernels of levels 0.., bottleneck, channels, classes
TABLE_3D = {
    "01": ([ALL] * 5, [CUBE] * 6, (4, 4, 4), 4, 4),
    "02": ([ALL] * 4 + [FLAT], [CUBE] * 6, (5, 6, 5), 1, 2),
    "03": ([ALL] * 5, [CUBE] * 6, (4, 4, 4), 1, 3),
    "04": ([ALL] * 3, [CUBE] * 4, (5, 7, 5), 1, 3),
    "05": ([FLAT, FLAT, ALL, ALL, FLAT], [DISC] * 2 + [CUBE] * 4, (5, 10, 8), 2, 3),
    "06": ([ALL] * 4 + [FLAT], [CUBE] * 6, (5, 6, 5), 1, 2),
    "07": ([FLAT, ALL, ALL, ALL, FLAT], [DISC] + [CUBE] * 5, (5, 7, 7), 1, 3),
    "08": ([ALL] * 4 + [FLAT], [CUBE] * 6, (4, 6, 6), 1, 3),
    "09": ([FLAT] + [ALL] * 4, [DISC] + [CUBE] * 5, (4, 6, 5), 1, 2),
    "10": ([FLAT, ALL, ALL, ALL, FLAT], [DISC] + [CUBE] * 5, (7, 6, 5), 1, 2),
}
TABLE_2D = {
    "01": (6, (6, 5)),
    "02": (6, (10, 8)),
    "03": (6, (16, 16)),
    "04": (4, (7, 5)),
    "05": (6, (10, 10)),
    "06": (6, (16, 16)),
    "07": (6, (16, 16)),
    "08": (6, (16, 16)),
    "09": (6, (16, 16)),
    "10": (6, (16, 16)),
}


def bottleneck(plan: Plan) -> tuple[int, ...]:
    edges = plan.patch_size
    for stride in plan.strides:
        edges = tuple(e // s for e, s in zip(edges, stride, strict=True))
    return edges


@pytest.mark.parametrize("task", TABLE_3D)
def test_3d_networks_are_the_published_ones(task: str) -> None:
    plan = named_plan(task)
    strides, kernels, edges, channels, classes = TABLE_3D[task]
    assert plan.strides == ((1, 1, 1), *strides)
    assert plan.kernels == tuple(kernels)
    assert bottleneck(plan) == edges
    assert (plan.num_channels, plan.num_classes) == (channels, classes)
    assert plan.patch_size == MSD_TASKS[task].patch_3d
    assert plan.features == (32, 64, 128, 256, 320, 320)[: len(plan.strides)]
    assert (plan.crop, plan.batch_size) == ("positive", 2)
    assert Plan.from_dict(json.loads(plan.to_json())) == plan


@pytest.mark.parametrize("task", TABLE_2D)
def test_2d_networks_are_the_published_ones(task: str) -> None:
    plan = named_plan(task, spatial_dims=2)
    levels, edges = TABLE_2D[task]
    assert len(plan.strides) == levels
    assert bottleneck(plan) == edges
    assert set(plan.kernels) == {(3, 3)}
    assert set(plan.strides[1:]) == {(2, 2)}
    assert plan.features == (32, 64, 128, 256, 512, 512)[:levels]


def test_ct_constants_reach_the_plan() -> None:
    plan = named_plan("10")
    assert plan.normalization == ("ct",)
    (found,) = plan.intensity
    assert (found.percentile_00_5, found.percentile_99_5, found.mean, found.std) == (-30, 165.82, 62.18, 32.65)


@pytest.mark.parametrize("name", ["4", 4, "04", "Task04", "task04_hippocampus", "Hippocampus"])
def test_tasks_are_found_by_number_and_name(name: str | int) -> None:
    assert find_task(name) is MSD_TASKS["04"]


@pytest.mark.parametrize("name", ["11", "", "Task00", "hippo", "Task400"])
def test_unknown_task_lists_the_known_ones(name: str) -> None:
    with pytest.raises(InputError, match="Task10_Colon"):
        named_plan(name)


def test_names_and_mr_intensity_come_from_the_dataset(make_fingerprint: Callable[..., Fingerprint]) -> None:
    fingerprint = make_fingerprint([(35, 50, 36)] * 3, [(1.0, 1.0, 2.0)] * 3, channels=("MR",))
    plan = named_plan("hippocampus", fingerprint)
    assert (plan.dataset, plan.channels, plan.labels) == ("synthetic", ("MR",), fingerprint.labels)
    assert plan.intensity == fingerprint.intensity
    assert plan.median_shape == (35, 50, 72)
    assert named_plan("hippocampus", fingerprint, spatial_dims=2).median_shape == (50, 72)


def test_ct_constants_win_over_the_dataset(make_fingerprint: Callable[..., Fingerprint]) -> None:
    fingerprint = make_fingerprint([(90, 500, 500)], [(5.0, 0.8, 0.8)], channels=("CT",), num_classes=2)
    assert named_plan("spleen", fingerprint).intensity == named_plan("spleen").intensity


def test_plan_of_another_task_is_refused_with_all_contradictions(make_fingerprint: Callable[..., Fingerprint]) -> None:
    fingerprint = make_fingerprint([(35, 50, 36)], [(1.0, 1.0, 1.0)], num_classes=2)
    with pytest.raises(InputError, match=r"2 problems") as caught:
        named_plan("05", fingerprint)
    assert "channels" in str(caught.value)
    assert "labels" in str(caught.value)


# task: spacing of volumes and of slices in mm, patch of volumes and of slices in voxels
SIZES = {
    "01": ((1, 1, 1), (1, 1), (128, 128, 128), (192, 160)),
    "02": ((1.37, 1.25, 1.25), (1.25, 1.25), (80, 192, 160), (320, 256)),
    "03": ((1, 0.7676, 0.7676), (0.7676, 0.7676), (128, 128, 128), (512, 512)),
    "04": ((1, 1, 1), (1, 1), (40, 56, 40), (56, 40)),
    "05": ((3.6, 0.62, 0.62), (0.62, 0.62), (20, 320, 256), (320, 320)),
    "06": ((1.24, 0.79, 0.79), (0.79, 0.79), (80, 192, 160), (512, 512)),
    "07": ((2.5, 0.8, 0.8), (0.8, 0.8), (40, 224, 224), (512, 512)),
    "08": ((1.5, 0.8, 0.8), (0.8, 0.8), (64, 192, 192), (512, 512)),
    "09": ((1.6, 0.79, 0.79), (0.79, 0.79), (64, 192, 160), (512, 512)),
    "10": ((3, 0.78, 0.78), (0.78, 0.78), (56, 192, 160), (512, 512)),
}
# task: lower and upper clip, mean, standard deviation in HU
HOUNSFIELD = {
    "03": (-17, 201, 99.4, 39.36),
    "06": (-1024, 325, -158.58, 324.7),
    "07": (-96, 215, 77.9, 75.4),
    "08": (-3, 243, 104.37, 52.62),
    "09": (-41, 176, 99.29, 39.47),
    "10": (-30, 165.82, 62.18, 32.65),
}


@pytest.mark.parametrize("spatial_dims", [2, 3])
@pytest.mark.parametrize("task", SIZES)
def test_sizes_crop_and_intensities_are_the_published_ones(task: str, spatial_dims: int) -> None:
    plan = named_plan(task, spatial_dims=spatial_dims)
    assert plan.spacing == SIZES[task][3 - spatial_dims]
    assert plan.patch_size == SIZES[task][5 - spatial_dims]
    assert plan.crop == "positive"
    assert plan.batch_dice
    assert not plan.res_block
    assert not plan.label_closing
    assert plan.resample == (spatial_dims == 3)  # slices keep their spacing; the one in the plan only shapes the levels
    assert plan.batch_size == {2: 64, 3: 2}[spatial_dims]
    assert plan.mirror_axes == tuple(range(spatial_dims))
    assert set(plan.normalization) == {"ct" if task in HOUNSFIELD else "zscore"}
    assert len(plan.normalization) == plan.num_channels
    for found in plan.intensity if task in HOUNSFIELD else ():
        limits = (found.percentile_00_5, found.percentile_99_5, found.mean, found.std)
        assert limits == HOUNSFIELD[task]
    plan.check()
