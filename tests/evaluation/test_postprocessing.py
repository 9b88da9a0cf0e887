"""Which components are kept is decided by the rule of nnU-Net v2, and survives a way through a file."""

from __future__ import annotations

import gc
import json
import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monai_ext.errors import InputError
from monai_ext.evaluation.largest_component import keep_largest_component
from monai_ext.evaluation.postprocessing import Postprocessing, PostprocessingTrial, decide_postprocessing
from monai_ext.evaluation.segmentation_metrics import case_metrics

CLASSES = {"organ": 1, "tumour": 2}
Case = tuple[str, np.ndarray, np.ndarray]


def blocks(*boxes: tuple[slice, slice, slice, int]) -> np.ndarray:
    labels = np.zeros((8, 16, 16), dtype=np.uint8)
    for z, y, x, value in boxes:
        labels[z, y, x] = value
    return labels


ORGAN = (slice(2, 6), slice(2, 8), slice(2, 8), 1)
TUMOUR = (slice(3, 5), slice(4, 6), slice(4, 6), 2)  # inside the organ
FAR_ORGAN = (slice(6, 8), slice(12, 15), slice(12, 15), 1)
FAR_TUMOUR = (slice(0, 1), slice(13, 15), slice(2, 4), 2)


def mean_dice(cases: list[Case], classes: dict[str, int], ignore: int | None = None) -> dict[str, float]:
    each = [case_metrics(p, r, (1, 1, 1), classes, ignore_label=ignore) for _, p, r in cases]
    dice = {name: float(np.mean([m[name]["dice"] for m in each])) for name in each[0]}
    return {**dice, "mean": float(np.mean(list(dice.values())))}


def test_all_foreground_together_comes_first() -> None:
    truth = blocks(ORGAN, TUMOUR)
    decided = decide_postprocessing([("a", blocks(ORGAN, TUMOUR, FAR_ORGAN, FAR_TUMOUR), truth)], CLASSES)
    assert decided.keep_largest == ((1, 2),)
    step = decided.why[0]
    assert step.adopted
    assert step.after == {"organ": 1.0, "tumour": 1.0, "mean": 1.0}
    assert step.before["mean"] < 1
    assert [later.adopted for later in decided.why[1:]] == [False, False]
    np.testing.assert_array_equal(decided.apply(blocks(ORGAN, FAR_TUMOUR)), blocks(ORGAN))


def test_a_class_that_would_fall_forbids_it_for_all_but_not_for_the_other_class() -> None:
    truth = blocks(ORGAN, FAR_TUMOUR)  # the tumour lies apart: with all foreground together it would go
    predicted = blocks(ORGAN, FAR_TUMOUR, FAR_ORGAN)
    decided = decide_postprocessing([("a", predicted, truth)], CLASSES)
    assert decided.keep_largest == ((1,),)
    assert not decided.why[0].adopted
    assert decided.why[0].after["organ"] > decided.why[0].before["organ"]
    np.testing.assert_array_equal(decided.apply(predicted), truth)


def test_both_steps_in_order() -> None:
    scattered = (slice(3, 4), slice(7, 8), slice(7, 8), 2)  # apart from the tumour, within the organ
    predicted = blocks(ORGAN, TUMOUR, scattered, FAR_ORGAN)
    truth = blocks(ORGAN, TUMOUR)
    decided = decide_postprocessing([("a", predicted, truth)], CLASSES)
    assert decided.keep_largest == ((1, 2), (2,))
    assert decided.why[1].before == decided.why[0].after


def test_nothing_is_kept_unless_something_rises() -> None:
    decided = decide_postprocessing([("a", blocks(ORGAN), blocks(ORGAN))], CLASSES)
    assert decided.keep_largest == Postprocessing.NONE.keep_largest == ()
    labels = blocks(ORGAN, FAR_ORGAN)
    assert decided.apply(labels) is labels
    assert "none helps (1 cases)" in decided.describe(CLASSES)


def test_mean_over_cases_decides() -> None:
    helped = ("a", blocks(ORGAN, FAR_ORGAN), blocks(ORGAN))
    harmed = ("b", blocks(ORGAN, FAR_ORGAN), blocks(ORGAN, FAR_ORGAN))
    classes = {"organ": 1}
    assert decide_postprocessing([helped], classes).keep_largest == ((1,),)
    assert decide_postprocessing([helped, helped, harmed], classes).num_cases == 3
    gain = mean_dice([helped], classes)["organ"]
    assert gain < 1
    # one case gains 1 - gain, the other loses as much by symmetry of Dice: no rise
    assert decide_postprocessing([helped, harmed], classes).keep_largest == ()


def test_absent_classes_and_unannotated_voxels_count_as_in_the_metrics() -> None:
    truth = blocks(ORGAN, FAR_ORGAN)
    truth[FAR_ORGAN[:3]] = 3
    cases = [("a", blocks(ORGAN, FAR_ORGAN), truth), ("b", blocks(FAR_TUMOUR), blocks()), ("c", blocks(), blocks())]
    classes = {**CLASSES, "unknown": 3}
    decided = decide_postprocessing(cases, classes, ignore_label=3)
    assert decided.why[0].before == pytest.approx(mean_dice(cases, classes, 3), abs=1e-12)
    assert decided.keep_largest == ()  # what lies in unannotated voxels costs nothing, so removing it gains nothing


maps = st.lists(st.sampled_from([0, 0, 0, 0, 1, 2]), min_size=48, max_size=48).map(
    lambda values: np.array(values, dtype=np.uint8).reshape(3, 4, 4)
)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(maps, maps), min_size=1, max_size=3))
def test_every_step_tells_the_dice_of_the_metrics(pairs: list[tuple[np.ndarray, np.ndarray]]) -> None:
    cases = [(str(i), predicted, reference) for i, (predicted, reference) in enumerate(pairs)]
    decided = decide_postprocessing(cases, CLASSES)
    present = cases
    for step in decided.why:
        changed = [(n, keep_largest_component(p, step.values), r) for n, p, r in present]
        before, after = mean_dice(present, CLASSES), mean_dice(changed, CLASSES)
        assert step.before == pytest.approx(before, abs=1e-12)
        # a single class is tried by itself: removing it changes no other class
        assert step.after == pytest.approx(after, abs=1e-12)
        if len(step.values) == 2:
            helps = after["mean"] > before["mean"] + 1e-12 and all(after[c] >= before[c] - 1e-12 for c in CLASSES)
        else:
            name = next(n for n, v in CLASSES.items() if v == step.values[0])
            helps = after[name] > before[name] + 1e-12
        assert step.adopted == helps
        if step.adopted:
            present = changed
    applied = [(n, decided.apply(p), r) for n, p, r in cases]
    assert mean_dice(applied, CLASSES) == pytest.approx(mean_dice(present, CLASSES), abs=1e-12)


def test_one_case_in_memory_at_a_time() -> None:
    alive: list[weakref.ref[np.ndarray]] = []

    def cases() -> Iterator[Case]:
        for i in range(4):
            gc.collect()
            assert sum(ref() is not None for ref in alive[:-1]) == 0
            labels = blocks(ORGAN, FAR_ORGAN)
            alive.append(weakref.ref(labels))
            yield str(i), labels, blocks(ORGAN)

    assert decide_postprocessing(cases(), CLASSES).num_cases == 4


def test_file_gives_the_same(tmp_path: Path) -> None:
    decided = decide_postprocessing([("a", blocks(ORGAN, FAR_ORGAN), blocks(ORGAN))], CLASSES)
    decided.save(tmp_path / "postprocessing.json")
    assert Postprocessing.load(tmp_path / "postprocessing.json") == decided


@pytest.mark.parametrize(
    "change",
    [
        {"keep_largest": [[0]]},
        {"keep_largest": [[]]},
        {"keep_largest": [["1"]]},
        {"keep_largest": [[1, 1]]},
        {"keep_largest": [1]},
        {"version": 2},
        {"more": 1},
        {"why": [{"values": [1]}]},
    ],
)
def test_damaged_file_is_refused(tmp_path: Path, change: dict) -> None:
    path = tmp_path / "postprocessing.json"
    Postprocessing(((1,),)).save(path)
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(InputError, match="Cure: delete it"):
        Postprocessing.load(path)


@pytest.mark.parametrize("content", ["", "[]", '{"keep_largest": [[1]'])
def test_what_is_no_object_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "postprocessing.json").write_text(content)
    with pytest.raises(InputError, match="not a post-processing"):
        Postprocessing.load(tmp_path / "postprocessing.json")
    with pytest.raises(InputError, match="No such file"):
        Postprocessing.load(tmp_path / "none.json")


def test_cases_must_exist_and_fit() -> None:
    with pytest.raises(InputError, match="no cases"):
        decide_postprocessing([], CLASSES)
    with pytest.raises(InputError, match=r"a: prediction has shape \(8, 16, 16\)"):
        PostprocessingTrial(CLASSES).add("a", blocks(), blocks()[:4])
