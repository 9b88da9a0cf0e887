"""Files and text of an evaluation."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from drawn_objects import disc_case, disc_detections
from monai_ext.errors import InputError
from monai_ext.evaluation.instance_collection import InstanceCollection, References
from monai_ext.evaluation.instance_report import best_median_worst, ranked_images, write_instance_report
from monai_ext.evaluation.instance_table import instance_table

SIZE = (64, 80)
DISCS = [(12, 12, 8), (40, 20, 9), (60, 45, 10)]
SCORES = [0.95, 0.75, 0.55]


@pytest.fixture
def references(tmp_path: Path) -> References:
    cases = [disc_case(tmp_path, name, SIZE, DISCS) for name in ("a", "b")]
    return References([*cases, disc_case(tmp_path, "empty", SIZE, [])])


def collected(references: References, **options: Any) -> InstanceCollection:
    """One image with all found, one with a found and a wrong one, one where nothing is and nothing was found."""
    collection = InstanceCollection(1, **options)
    given = {
        "a": disc_detections(DISCS, SCORES),
        "b": disc_detections([DISCS[0], (30, 50, 6)], [0.9, 0.7]),
        "empty": disc_detections([], []),
    }
    for name, detections in given.items():
        case = f"images/{name}.png"
        collection.add(case, references[case], detections)
    return collection


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_summary_and_tables(references: References, tmp_path: Path) -> None:
    summary = write_instance_report(tmp_path / "out", collected(references), ("disc",), {"part": "val"})
    assert json.loads((tmp_path / "out" / "summary.json").read_text(encoding="utf-8")) == summary
    counts = [summary[name] for name in ("num_images", "num_objects", "num_detections", "num_painted")]
    assert counts == [3, 6, 5, 5]
    # 4 of 6 found and 1 wrong; recalls of 1/6 to 3/6 before the wrong one, 4/6 after it; then the last one of 0.55
    assert summary["nuclei_ap50"] == pytest.approx(4 / 7)
    assert summary["nuclei_ap50_per_image"] == pytest.approx((1 + 1 / 4) / 2)
    assert summary["nuclei_count_error"] == pytest.approx(1 / 3)
    precisions = np.repeat([1, 4 / 5, 0], [51, 67 - 51, 101 - 67])
    assert summary["mask_ap50"] == summary["box_ap50"] == pytest.approx(precisions.mean())
    assert summary["mask_ap_large"] is None
    assert summary["max_detections"] == [1, 10, 500]
    assert summary["iou_thresholds"] == [0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95]
    assert summary["part"] == "val"
    assert "pooled" in summary["definitions"]["nuclei_ap50"]
    assert "averaged over images" in summary["definitions"]["nuclei_ap50_per_image"]
    table = {row["score_threshold"]: row for row in summary["by_score_threshold"]}
    assert list(table) == [0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9]
    assert table[0.6]["nuclei_ap50"] == pytest.approx(3 / 7)
    assert table[0.75]["nuclei_f1_50"] == pytest.approx(6 / 9)
    assert summary["best_score_threshold"]["nuclei_ap50"] == {"score_threshold": 0.3, "nuclei_ap50": 4 / 7}
    entry = summary["classes"]["disc"]
    assert entry["objects"] == 6
    assert entry["mask_ap50"] == summary["mask_ap50"]
    assert entry["nuclei_pq"] == summary["nuclei_pq"]

    images = {row["image"]: row for row in rows(tmp_path / "out" / "per_image.csv")}
    assert images["images/a.png"]["ap50"] == "1"
    assert images["images/b.png"]["ap50"] == "0.25"
    assert images["images/b.png"]["count_error"] == "-1"
    assert images["images/empty.png"]["ap50"] == images["images/empty.png"]["aji"] == ""
    assert [row["class"] for row in rows(tmp_path / "out" / "per_class.csv")] == ["disc"]
    assert [float(row["nuclei_ap50"]) for row in rows(tmp_path / "out" / "by_score_threshold.csv")] == [
        pytest.approx(table[threshold]["nuclei_ap50"], rel=1e-5) for threshold in table
    ]
    text = instance_table(summary)
    assert "at most 500 detections per image and class" in text
    assert "label maps of detections from score 0.5" in text
    assert "pooled" in text
    assert "mean of images" in text
    assert "score 0.3" in text


def test_the_label_map_is_that_of_the_thresholds(references: References, tmp_path: Path) -> None:
    collection = collected(references, label_threshold=0.8, min_area=20, max_detections=(1, 2))
    summary = write_instance_report(tmp_path, collection, ("disc",))
    assert summary["num_painted"] == 2
    assert summary["nuclei_ap50"] == pytest.approx(2 / 6)
    assert summary["detections_cut"] == 1
    # 2 of 3 in one image, 1 of 3 in the other, at all thresholds that the masks reach
    assert summary["mask_ar_1"] < summary["mask_ar_2"] <= 3 / 6
    assert "mask_ar_500" not in summary
    assert "(1 more were left out)" in instance_table(summary)
    assert "AP50 is best from score 0.3" in instance_table(summary)


def test_several_classes(tmp_path: Path) -> None:
    """The label map file has one class, so that what is found as the second one is wrong."""
    references = References([disc_case(tmp_path, "a", SIZE, DISCS)])
    collection = InstanceCollection(3)
    collection.add("images/a.png", references["images/a.png"], disc_detections(DISCS, SCORES, [1, 2, 1]))
    summary = write_instance_report(tmp_path, collection, ("x", "y", "z"))
    assert summary["nuclei_ap50"] == pytest.approx(2 / 4)
    assert [summary["classes"][name]["objects"] for name in "xyz"] == [3, 0, 0]
    assert summary["classes"]["x"]["nuclei_ap50"] == pytest.approx(2 / 3)
    assert summary["classes"]["y"]["nuclei_ap50"] == 0  # found where none is
    assert summary["classes"]["z"]["nuclei_ap50"] is None
    assert summary["classes"]["y"]["mask_ap"] is None
    assert rows(tmp_path / "per_class.csv")[1]["mask_ap"] == ""
    assert "mask AP50" in instance_table(summary)


def test_ranking_leaves_out_what_holds_nothing(references: References) -> None:
    assert ranked_images(collected(references)) == ["images/a.png", "images/b.png"]


def test_best_median_worst() -> None:
    names = list("abcdefghi")
    assert best_median_worst(names, 1) == {"a": "best", "e": "median", "i": "worst"}
    assert list(best_median_worst(names, 2).items()) == [
        ("a", "best"), ("b", "best"), ("d", "median"), ("e", "median"), ("h", "worst"), ("i", "worst"),
    ]  # fmt: skip
    assert best_median_worst(["a", "b"], 2) == {"a": "best", "b": "worst"}
    assert best_median_worst(["a", "b"], 1) == {"a": "best", "b": "worst"}
    assert best_median_worst([], 2) == {}


def test_no_images_and_names_taken(references: References, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no images"):
        write_instance_report(tmp_path, InstanceCollection(1), ("disc",))
    with pytest.raises(InputError, match="nuclei_pq would replace"):
        write_instance_report(tmp_path, collected(references), ("disc",), {"nuclei_pq": 1})
    collection = collected(references)
    with pytest.raises(ValueError, match=r"a\.png: was added twice"):
        collection.add("images/a.png", references["images/a.png"], disc_detections([], []))


def test_references_are_kept_within_their_memory(references: References, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    original = type(references.cases["images/a.png"]).instances

    def counted(case: Any) -> Any:
        read.append(case.name)
        return original(case)

    monkeypatch.setattr(type(references.cases["images/a.png"]), "instances", counted)
    one = references["images/a.png"].nbytes
    for cache_bytes, times in ((2 * one, 2), (one, 3), (0, 4)):
        read.clear()
        some = References(list(references.cases.values()), cache_bytes)
        for name in ("images/a.png", "images/b.png") * 2:
            assert some[name].label_map.max() == 3
        assert len(read) == times
