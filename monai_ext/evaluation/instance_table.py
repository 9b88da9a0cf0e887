"""Evaluation of an instance segmentation as text for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from monai_ext.evaluation.coco_ap import COCO_SIZES, NUCLEI_SIZES

MOST_CLASSES = 30
AP_COLUMNS = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large")


def instance_table(summary: Mapping[str, Any]) -> str:
    """Text of an evaluation for the terminal.

    Args:
        summary: of `write_instance_report`.
    """
    most = summary["max_detections"]
    lines = [
        f"{summary['num_images']} images, {summary['num_objects']} objects, {summary['num_detections']} detections",
        "",
        f"COCO, all images pooled, at most {most[-1]} detections per image and class"
        + (f" ({summary['detections_cut']} more were left out)" if summary["detections_cut"] else ""),
    ]
    recalls = [f"ar_{limit}" for limit in most]
    header = ("", *(title(name) for name in (*AP_COLUMNS, *recalls)))
    lines += _aligned(
        [header, *((k, *(_text(summary.get(f"{k}_{n}")) for n in (*AP_COLUMNS, *recalls))) for k in ("box", "mask"))]
    )
    sizes = [name for name in NUCLEI_SIZES if name not in COCO_SIZES]
    lines += ["", "mask AP by size of the object (square of the same area)"]
    lines += _aligned([[name.replace("_", " ") for name in sizes], [_text(summary[f"mask_ap_{n}"]) for n in sizes]])
    lines += ["", f"label maps of detections from score {summary['label_threshold']:g}, TP / (TP + FP + FN) at IoU"]
    steps = [f"ap{step}" for step in range(50, 100, 5)]
    rows = [("", *(f"0.{step[2:]}" for step in steps), "mean")]
    for label, ending in (("pooled", ""), ("mean of images", "_per_image")):
        rows.append((label, *(_text(summary[f"nuclei_{name}{ending}"], 3) for name in (*steps, "ap"))))
    lines += _aligned(rows)
    parts = (
        ("F1", "f1_50"),
        ("PQ", "pq"),
        ("SQ", "sq"),
        ("RQ", "rq"),
        ("AJI", "aji"),
        ("Dice", "dice"),
    )
    lines.append("pooled: " + ", ".join(f"{name} {_text(summary[f'nuclei_{key}'])}" for name, key in parts))
    lines.append(
        f"count error {_text(summary['nuclei_count_error'], 2)} per image (bias {summary['nuclei_count_bias']:+.2f})"
    )
    lines += ["", "by score threshold of the label map (pooled)"]
    columns = ("nuclei_ap50", "nuclei_f1_50", "nuclei_ap", "nuclei_ap_per_image", "nuclei_pq", "nuclei_count_bias")
    table: list[Sequence[str]] = [("score", "AP50", "F1", "AP", "AP per image", "PQ", "count bias")]
    for row in summary["by_score_threshold"]:
        table.append((f"{row['score_threshold']:.2f}", *(_text(row[name], 3) for name in columns)))
    lines += _aligned(table)
    best = summary["best_score_threshold"]["nuclei_ap50"]
    if best is not None and best["nuclei_ap50"] > 0 and best["score_threshold"] != summary["label_threshold"]:
        lines.append(f"AP50 is best from score {best['score_threshold']:g}: {best['nuclei_ap50']:.4f}")
    if len(summary["classes"]) > 1:
        lines += ["", *_aligned(_classes(summary["classes"]))]
    return "\n".join(lines)


def title(name: str) -> str:
    """`AP50`, `AP small`, `AR 500`."""
    return name.replace("ap", "AP", 1).replace("ar_", "AR ", 1).replace("_", " ")


def _classes(entries: Mapping[str, Mapping[str, Any]]) -> list[Sequence[str]]:
    """The classes, or of many those with the lowest AP."""
    columns = ("mask_ap", "mask_ap50", "box_ap", "nuclei_ap50", "nuclei_pq")
    order = sorted(entries, key=lambda name: (entries[name]["mask_ap"] is None, entries[name]["mask_ap"] or 0.0))
    listed = set(order[:MOST_CLASSES])
    rows: list[Sequence[str]] = [("class", "objects", "mask AP", "mask AP50", "box AP", "map AP50", "PQ")]
    for name, entry in entries.items():
        if name in listed:
            rows.append((name, str(entry["objects"]), *(_text(entry[column]) for column in columns)))
    return rows


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(
            c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _text(value: float | None, digits: int = 4) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
