"""Performance of a trained model as its evaluation measured it: per class, with the spread over the cases."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from monai_ext.model_card.markdown import code, escaped, facts, number, section, table
from monai_ext.model_card.run_files import RunFiles
from monai_ext.model_card.spread import spread_table

TITLE = "Performance"
SEGMENT_SCORES = {"dice": "Dice", "surface_dice": "surface Dice", "hd95_mm": "HD95 (mm)"}
SLICE_SCORES = {
    "soft_dice": "soft Dice",
    "dice_membrane": "Dice of the membrane",
    "dice_background": "Dice of the background",
    "v_rand": "V_rand",
    "v_rand_split": "V_rand, split",
    "v_rand_merge": "V_rand, merge",
    "v_info": "V_info",
    "v_info_split": "V_info, split",
    "v_info_merge": "V_info, merge",
}
CLASS_SCORES = {
    "accuracy": "accuracy",
    "top5_accuracy": "top-5 accuracy",
    "balanced_accuracy": "balanced accuracy",
    "macro_sensitivity": "sensitivity, mean of classes",
    "macro_specificity": "specificity, mean of classes",
    "macro_precision": "precision, mean of classes",
    "macro_f1": "F1, mean of classes",
    "macro_roc_auc": "ROC AUC, mean of classes",
    "macro_average_precision": "average precision, mean of classes",
}
EACH_CLASS = ("sensitivity", "specificity", "precision", "f1", "roc_auc", "average_precision")
INSTANCE_SCORES = (
    "mask_ap", "mask_ap50", "mask_ap75", "box_ap", "box_ap50", "box_ap75",
    "nuclei_ap", "nuclei_ap50", "nuclei_ap75", "nuclei_f1_50", "nuclei_pq", "nuclei_sq", "nuclei_rq", "nuclei_aji",
    "nuclei_dice",
)  # fmt: skip
IMAGE_SCORES = ("ap", "ap50", "ap75", "f1_50", "pq", "aji", "dice", "count_error")
LARGEST_CONFUSION = 12  # classes
MOST_CASES = 5  # of the worst, of the surest errors


def score_section(run: RunFiles) -> str:
    """The section; of a run without evaluation, the scores of the training's last validation and what they are."""
    if not run.summary:
        return section(
            TITLE,
            "Not evaluated: the run has no `evaluation/summary.json`. Its own validation, by which the weights were "
            "chosen, gave:",
            _validation(run.training),
        )
    parts = [_evaluated_on(run)]
    if not run.evaluates_these_weights:
        parts.append("**The evaluation is of other weights than the model.pt of this run: evaluate again.**")
    return section(TITLE, *parts, *_OF_BUNDLE[run.bundle](run))


def _validation(training: Mapping[str, Any]) -> str:
    found = {escaped(name): value for name, value in training.items() if isinstance(value, int | float | dict)}
    return facts(found) or "Nothing: `metrics.json` is missing."


def _evaluated_on(run: RunFiles) -> str:
    summary = run.summary
    count = summary.get("num_images", summary.get("num_cases"))
    names = {
        "cases": count,
        "part of the dataset": summary.get("part", "validation cases of the fold"),
        "fold": summary.get("fold"),
        "rule of the fold": summary.get("fold_rule"),
        "cases kept together by": summary.get("group_by") or None,
        "groups": summary.get("num_groups"),
        "selected": summary.get("select") or None,
        "average over flips (tta)": summary.get("tta"),
        "overlap of windows": summary.get("overlap"),
    }
    return "\n\n".join(part for part in (facts(names), _command(run), _cross_validation(run)) if part)


def _command(run: RunFiles) -> str:
    """What evaluated the run, if that was not its training."""
    command = run.record.get("evaluation", {}).get("command", "")
    if not command or command == run.record.get("training", {}).get("command"):
        return ""
    return "Evaluated with:\n\n" + code(command)


def _cross_validation(run: RunFiles) -> str:
    report = run.folder.parent / "cross_validation" / "cross_validation.md"
    if not report.is_file():
        return ""
    return "The folds together: [cross-validation](../../cross_validation/cross_validation.md)."


def _segmentation(run: RunFiles) -> list[str]:
    rows = []
    for name, scores in run.summary.get("classes", {}).items():
        for score, title in SEGMENT_SCORES.items():
            values = scores.get(score, {})
            rows.append(
                [
                    escaped(name),
                    title,
                    *(number(values.get(entry)) for entry in ("mean", "std", "median", "min", "max", "n")),
                    number(values.get("undefined")),
                ]
            )
    columns = ("class", "score", "mean", "standard deviation", "median", "least", "largest", "cases", "undefined")
    means = run.summary.get("foreground_mean", {})
    parts = [
        table(columns, rows, left=2),
        "Mean of the classes: "
        + ", ".join(f"{title} {number(means.get(score))}" for score, title in SEGMENT_SCORES.items()),
        escaped(run.summary.get("absent_classes_rule", "")),
    ]
    worst = run.summary.get("worst_cases", [])[:MOST_CASES]
    if worst:
        rows = [
            [escaped(case.get("case")), _class_dice(case.get("class_dice")), number(case.get("dice"))] for case in worst
        ]
        parts += ["Cases with the lowest Dice:", table(("case", "per class", "Dice"), rows, left=2)]
    steps = run.summary.get("postprocessing", {})
    if steps.get("applied") or steps.get("decided"):
        parts += ["Postprocessing:", facts({escaped(name.replace("_", " ")): value for name, value in steps.items()})]
    return parts


def _class_dice(scores: Any) -> str:
    return ", ".join(f"{escaped(name)} {number(value)}" for name, value in (scores or {}).items())


def _slices(run: RunFiles) -> list[str]:
    summary = run.summary
    rows = [[title, number(summary[score])] for score, title in SLICE_SCORES.items() if score in summary]
    return [
        table(("score", "all slices"), rows),
        "V_rand and V_info are of the segments between membranes, at the threshold that is best on these slices: "
        f"{number(summary.get('rand_threshold'), 2)} and {number(summary.get('info_threshold'), 2)}.",
        spread_table(run.cases, ("soft_dice", "dice_membrane", "dice_background"), SLICE_SCORES),
    ]


def _classes(run: RunFiles) -> list[str]:
    summary = run.summary
    bounds = summary.get("intervals", {})
    rows = [
        [title, number(summary[score]), _interval(bounds.get(score))]
        for score, title in CLASS_SCORES.items()
        if score in summary
    ]
    each = [
        [
            escaped(name),
            number(entry.get("cases")),
            *(
                f"{number(entry.get(score))} {_interval(entry.get('intervals', {}).get(score), '')}".strip()
                for score in EACH_CLASS
            ),
        ]
        for name, entry in summary.get("classes", {}).items()
    ]
    parts = [
        table(("score", "value", "interval"), rows),
        table(("class", "cases", *(score.replace("_", " ") for score in EACH_CLASS)), each),
        "Intervals: " + escaped(summary.get("interval_rule", "no rule recorded")),
        escaped(summary.get("undefined_rule", "")),
        _calibration(run),
    ]
    names, matrix = summary.get("confusion_columns"), summary.get("confusion_matrix")
    if names and matrix and len(names) <= LARGEST_CONFUSION:
        rows = [[escaped(name), *map(number, row)] for name, row in zip(summary["classes"], matrix, strict=False)]
        parts += ["Confusion matrix (rows: true class, columns: predicted):"]
        parts += [table(("", *map(escaped, names)), rows)]
    errors = summary.get("confident_errors", [])[:MOST_CASES]
    if errors:
        rows = [[escaped(e.get(name)) for name in ("case", "label", "predicted")] for e in errors]
        rows = [[*row, number(e.get("certainty"))] for row, e in zip(rows, errors, strict=True)]
        parts += [
            "Errors that the model was surest of:",
            table(("case", "class", "predicted", "certainty"), rows, left=3),
        ]
    return parts


def _calibration(run: RunFiles) -> str:
    found = run.summary.get("calibration")
    if not isinstance(found, dict):
        return "Calibration: not measured."
    rows = [
        [when, *(number(found.get(key, {}).get(score)) for score in ("expected_error", "brier", "nll"))]
        for key, when in (("before", "as trained"), ("after", "with the temperature"))
    ]
    temperature = run.calibration.get("temperature", found.get("temperature"))
    return "\n\n".join(
        [
            f"Calibration, with temperature {number(temperature)}:",
            table(("probabilities", "expected calibration error", "Brier score", "log loss"), rows),
            escaped(found.get("rule", "")),
        ]
    )


def _instances(run: RunFiles) -> list[str]:
    summary = run.summary
    rows = [[f"`{score}`", number(summary[score])] for score in INSTANCE_SCORES if score in summary]
    each = summary.get("classes", {})
    scores = [score for score in INSTANCE_SCORES if any(score in entry for entry in each.values())]
    class_rows = [
        [escaped(name), number(entry.get("objects")), *(number(entry.get(score)) for score in scores)]
        for name, entry in each.items()
    ]
    sizes = summary.get("sizes", {})
    size_rows = [
        [f"`{escaped(size)}`", *(number(summary.get(f"{kind}_{size}")) for kind in ("mask_ap", "box_ap"))]
        for size in sizes
    ]
    shown_scores = [name for name in summary.get("definitions", {}) if name in (*INSTANCE_SCORES, "nuclei_apNN")]
    return [
        facts(
            {
                "annotated objects": summary.get("num_objects"),
                "detections": summary.get("num_detections"),
                "objects painted into label maps": summary.get("num_painted"),
                "score from which a detection is painted": summary.get("label_threshold"),
            }
        ),
        table(("score", "all images"), rows),
        table(("class", "objects", *(f"`{score}`" for score in scores)), class_rows),
        table(("size of objects", "`mask_ap`", "`box_ap`"), size_rows) if size_rows else "",
        spread_table(run.cases, IMAGE_SCORES, {"count_error": "count error"}),
        "Definitions:" if shown_scores else "",
        "\n".join(f"- `{name}`: {escaped(summary['definitions'][name])}" for name in shown_scores),
    ]


def _interval(bounds: Any, without: str = "-") -> str:
    if not isinstance(bounds, list) or len(bounds) != 2:
        return without
    return f"({number(bounds[0])} to {number(bounds[1])})"


_OF_BUNDLE: dict[str, Callable[[RunFiles], list[str]]] = {
    "nnunet": _segmentation,
    "unet_em": _slices,
    "se_resnext101": _classes,
    "mask_rcnn": _instances,
}
