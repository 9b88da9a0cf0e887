"""Limits of a trained model that follow from what its run has recorded, said without being asked."""

from __future__ import annotations

from typing import Any

from monai_ext.model_card.markdown import escaped, number, section, shown
from monai_ext.model_card.run_files import RunFiles

RESEARCH = "For research. Not a medical device: results on patients need validation on the user's own data."

NAMES = "Tables and pictures name cases as the dataset does: look through them before the card is given away."


def limits_section(run: RunFiles) -> str:
    """What the scores do not show, and what the model takes and does not take."""
    lines = [RESEARCH, *_scope(run), *_split(run), *_of_scores(run), *_input(run), NAMES]
    return section("Limitations", "\n".join(f"- {line}" for line in lines))


def _scope(run: RunFiles) -> list[str]:
    name = escaped(run.plan.get("dataset", ""))
    if not run.summary:
        return ["Not evaluated: how well it works is not known beyond the validation of its training."]
    count = run.summary.get("num_images", run.summary.get("num_cases"))
    lines = [f"Measured on {number(count)} cases of one dataset, {name}; other scanners, sites and protocols were not."]
    held_out = run.fold.get("val")
    if isinstance(held_out, list) and isinstance(count, int) and count < len(held_out) and _is_validation(run):
        lines.append(
            f"Only {number(count)} of the {number(len(held_out))} validation cases of the fold were evaluated."
        )
    if not run.evaluates_these_weights:
        lines.append("The evaluation in this folder is of other weights.")
    if str(run.summary.get("fold")) == "all":
        lines.append("Fold `all`: the model was trained on the cases that it was scored on, so the scores flatter.")
    elif _is_validation(run) and "best_epoch" in run.training:
        lines.append(
            "`model.pt` is the epoch with the best score on the validation cases, and these are the cases of the "
            "evaluation, so the scores are somewhat too good. A test on cases that chose nothing is missing."
        )
    return lines


def _is_validation(run: RunFiles) -> bool:
    return bool(run.summary.get("part", "val") == "val")


def _split(run: RunFiles) -> list[str]:
    summary = run.summary
    if not summary:
        return []
    if run.bundle == "unet_em":
        return ["Slices for training and validation are of one stack; tissue of another preparation was not seen."]
    known = _groups(run)
    if not known:
        return ["Whether cases of one patient lie on both sides of the split is not recorded."]
    if any(known):
        return []
    return ["No groups were given: cases of one patient may be in training and validation, which flatters the scores."]


def _groups(run: RunFiles) -> list[Any]:
    """What the run tells of groups that a split keeps together: their key or number, or that there are none."""
    places = ((run.summary, "group_by"), (run.summary, "num_groups"), (_mapping(run.record.get("data")), "groups"))
    return [entry[name] for entry, name in places if name in entry]


def _of_scores(run: RunFiles) -> list[str]:
    summary = run.summary
    lines = _rare_classes(summary.get("classes"))
    for name, scores in _mapping(summary.get("classes")).items():
        undefined = _mapping(_mapping(scores).get("hd95_mm")).get("undefined")
        if undefined:
            lines.append(f"HD95 of {escaped(name)} is undefined in {number(undefined)} cases and left out of its mean.")
    if "rand_threshold" in summary:
        lines.append("The thresholds of V_rand and V_info were chosen on the slices that they are scored on.")
    if summary.get("detections_cut"):
        lines.append(
            f"{number(summary['detections_cut'])} detections lay beyond the largest number that is scored per image."
        )
    if summary.get("confident_errors"):
        lines.append("Errors can be sure of themselves, see the table of the surest.")
    calibration = summary.get("calibration")
    if isinstance(calibration, dict) and not run.calibration:
        lines.append("No temperature is stored beside the model: its probabilities are not calibrated.")
    return lines


def _rare_classes(classes: Any) -> list[str]:
    counts: dict[str, int] = {}
    for name, entry in _mapping(classes).items():
        count = _mapping(entry).get("cases", _mapping(entry).get("objects"))
        if isinstance(count, int):
            counts[name] = count
    if len(set(counts.values())) < 2:
        return []
    rarest = min(counts, key=lambda name: counts[name])
    text = f"The rarest class of the evaluation is {escaped(rarest)}, with {number(counts[rarest])}"
    return [f"{text}; its scores are the least certain."]


def _input(run: RunFiles) -> list[str]:
    plan = run.plan
    if run.bundle == "nnunet":
        lines = [
            f"Takes the channels {shown(plan.get('channels'))}, in this order; it does not notice if others are given."
        ]
        if plan.get("spatial_dims") == 2:
            lines.append("A network of slices: it sees no neighbours of a slice.")
        if not plan.get("mirror_axes"):
            lines.append("Trained without flips: an image whose sides are exchanged is not what it knows.")
        return lines
    if run.bundle == "unet_em":
        return [f"Knows grey values of the range {shown(plan.get('value_range'))}; slices are segmented one by one."]
    lines = [f"Channels of the images that it takes: {shown(plan.get('channels'))}."]
    if run.bundle == "se_resnext101" and not plan.get("multi_label"):
        lines.append("Every image gets one of the classes, also one that shows none of them.")
    if run.bundle == "mask_rcnn":
        lines.append(f"Finds at most {number(plan.get('max_detections'))} objects per image or window.")
    return lines


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
