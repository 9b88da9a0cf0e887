"""Folders as trainings of the four bundles leave them, a few cases each, written without training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from PIL import Image

BUNDLES = ("nnunet", "unet_em", "se_resnext101", "mask_rcnn")
SCORES = {"mean": 0.8137, "std": 0.0243, "median": 0.8211, "min": 0.7719, "max": 0.8453, "n": 3, "undefined": 0}
SUMMARIES: dict[str, dict[str, Any]] = {
    "nnunet": {
        "num_cases": 3,
        "absent_classes_rule": "a class absent from both scores 1",
        "classes": {
            "front": {"dice": SCORES, "surface_dice": SCORES, "hd95_mm": {**SCORES, "undefined": 2}, "cases": 3},
            "back|side": {"dice": SCORES, "surface_dice": SCORES, "hd95_mm": SCORES, "cases": 2},
        },
        "foreground_mean": {"dice": 0.8137, "surface_dice": 0.8137, "hd95_mm": 1.7731},
        "worst_cases": [{"case": "c", "dice": 0.7719, "class_dice": {"front": 0.7719}}],
        "group_by": "",
    },
    "unet_em": {
        "num_cases": 2, "soft_dice": 0.9013, "dice_membrane": 0.8017, "dice_background": 0.9419, "v_rand": 0.9617,
        "v_info": 0.9779, "rand_threshold": 0.91, "info_threshold": 0.73, "fold_rule": "disjoint",
    },
    "se_resnext101": {
        "num_cases": 4,
        "num_groups": None,
        "accuracy": 0.7613,
        "macro_f1": 0.7419,
        "intervals": {"accuracy": [0.3011, 0.9539], "macro_f1": None},
        "interval_rule": "95 % percentile bootstrap",
        "undefined_rule": "undefined is null",
        "classes": {
            name: {"cases": 2, "sensitivity": 0.5171, "intervals": {"sensitivity": [0.0947, 0.9053]}}
            for name in ("cat", "dog")
        },
        "calibration": {
            "before": {"expected_error": 0.1213, "brier": 0.2377, "nll": 0.6131},
            "after": {"expected_error": 0.0657, "brier": 0.2239, "nll": 0.5791},
            "rule": "cross-fitted",
        },
        "confident_errors": [{"case": "dog_17.png", "label": "dog", "predicted": "cat", "certainty": 0.8979}],
        "confusion_columns": ["cat", "dog"],
        "confusion_matrix": [[1, 1], [1, 1]],
        "part": "val",
    },
    "mask_rcnn": {
        "num_images": 2,
        "num_objects": 61,
        "mask_ap": 0.5197,
        "mask_ap50": 0.8311,
        "nuclei_pq": None,
        "sizes": {"small": [0, 1024]},
        "mask_ap_small": 0.5197,
        "classes": {"nucleus": {"objects": 61, "mask_ap": 0.5197}},
        "definitions": {"mask_ap": "COCO's", "mask_ar_N": "recall"},
        "detections_cut": 29,
        "part": "val",
    },
}  # fmt: skip
PLANS: dict[str, dict[str, Any]] = {
    "nnunet": {
        "dataset": "Shapes", "channels": ["MRI"], "labels": {"background": 0, "front": 1, "back|side": 2},
        "spatial_dims": 3, "spacing": [1.5, 1.0, 1.0], "patch_size": [16, 32, 32], "mirror_axes": [],
        "why": {"patch_size": "start 17x33x33 <= memory"},
    },
    "unet_em": {"dataset": "Slices", "geometry": "tile", "value_range": [0.0, 255.0], "levels": 4},
    "se_resnext101": {
        "dataset": "Pets", "classes": ["cat", "dog"], "channels": 3, "stem_pool": "ceil", "multi_label": False,
    },
    "mask_rcnn": {"dataset": "Cells", "classes": ["nucleus"], "channels": 1, "anchor_sizes": [[7.0, 10.0]],
                  "max_detections": 500},
}  # fmt: skip
TRAININGS: dict[str, dict[str, Any]] = {
    "nnunet": {"mean_dice": 0.8137, "dice": {"front": 0.8137}},
    "unet_em": {"soft_dice": 0.9013},
    "se_resnext101": {"accuracy": 0.7613},
    "mask_rcnn": {"mask_ap50": {"nucleus": 0.8311}},
}
RECORD: dict[str, Any] = {
    "data": {
        "stated": {"licence": "CC-BY-SA 4.0", "reference": "A university"},
        "licence_files": ["LICENSE"],
        "cases": {"training": 13, "validation": 3},
        "groups": 0,
        "properties": {"size": [26.0, 41.0, 39.5], "kinds": {"RGB 8-bit": 16}},
        "classes": {"columns": ["class", "cases"], "rows": [["front", 11]]},
        "warnings": ["two cases are the same"],
    },
    "training": {
        "versions": {"torch": "2.13.0", "monai_ext": "0.1.0"},
        "platform": "Linux",
        "device": "a processor",
        "processes": 2,
        "command": "python -m monai.bundle run training --fold 0",
    },
}


def write_run(folder: Path, bundle: str, evaluated: bool = True, recorded: bool = True) -> Path:
    """Write a run; the same files at every call."""
    (folder / "docs").mkdir(parents=True)
    (folder / "model.pt").write_bytes(b"weights")
    _json(folder / "plan.json", PLANS[bundle])
    _json(folder / "fold.json", {"train": [f"case {i}" for i in range(13)], "val": ["a", "b", "c"]})
    _json(
        folder / "metrics.json",
        {**TRAININGS[bundle], "best_epoch": 6, "iterations": 1277, "training_minutes": 3.881},
    )
    score = next(iter(TRAININGS[bundle]))
    log = [{"epoch": i, "iteration": 100 * i, "minutes": i / 8, "loss": 1 / i, score: 0.1 * i} for i in range(1, 8)]
    (folder / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in log))
    Image.new("RGB", (8, 8), "red").save(folder / "overlay.png")
    if recorded:
        _json(folder / "docs" / "record.json", RECORD)
    if evaluated:
        _evaluate(folder / "evaluation", bundle)
    return folder


def _evaluate(folder: Path, bundle: str) -> None:
    folder.mkdir()
    _json(folder / "summary.json", {**SUMMARIES[bundle], "fold": 0, "tta": False})
    Image.new("RGB", (8, 8), "green").save(folder / "gallery.png")
    if bundle == "unet_em":
        _json(folder / "metrics.json", {"slice 0": {"dice_membrane": 0.7913}, "slice 1": {"dice_membrane": 0.8121}})
    if bundle == "mask_rcnn":
        (folder / "per_image.csv").write_text("image,objects,ap,dice\na.png,30,0.4139,0.9\nb.png,31,0.6255,\n")


def _json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content))
