"""Scores of an instance segmentation over a validation."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from ignite.engine import Engine
from ignite.metrics import Metric
from monai.utils.enums import CommonKeys

from monai_ext.datasets.instance_dataset import InstanceCase
from monai_ext.engines import process_group
from monai_ext.errors import InputError
from monai_ext.evaluation.instance_collection import InstanceCollection, References
from monai_ext.networks.mask_rcnn.structures import Detections
from monai_ext.planning.instance_plan import InstancePlan

KEY_SCORES = (
    "mask_ap",
    "mask_ap50",
    "mask_ap75",
    "box_ap",
    "box_ap50",
    "box_ap75",
    "nuclei_ap",
    "nuclei_ap50",
    "nuclei_ap_per_image",
    "nuclei_ap50_per_image",
    "nuclei_f1_50",
    "nuclei_pq",
    "nuclei_aji",
)
CLASS_SCORE = "mask_ap50"


def named_detections(output: Any) -> list[tuple[str, Detections]]:
    """Case names and detections of an evaluator's output, without images that do not count, see `CaseInOutput`."""
    return [(name, found) for name, found in zip(output["case"], output[CommonKeys.PRED], strict=True) if name]


def detection_limits(most: int) -> tuple[int, ...]:
    """Numbers of detections that recall is given for: COCO's 1 and 10, and `most`."""
    return (*(limit for limit in (1, 10) if limit < most), most)


def gather_images(collected: InstanceCollection, names: Iterable[str]) -> None:
    """Fill a collection with the images of all processes, in the order of `names`; to be called by all of them.

    The order decides between detections of equal scores, so that neither batches nor processes do.
    """
    shares = process_group.gather(collected.images)
    images = {name: image for share in shares for name, image in share.items()}
    collected.replace({name: images[name] for name in names if name in images})


class InstanceMetric(Metric):
    """AP, or another score, of a validation.

    `engine.state.class_scores` holds the mask AP50 of every class that has validation objects, `engine.state.scores`
    all scores of `InstanceCollection.overall` that are defined.

    Args:
        plan: classes, and how label maps are painted.
        cases: of the validation, with annotations.
        key_score: what decides which model is kept, one of `KEY_SCORES`.
        by_size: AP and AR by size as well.
        output_transform: takes `engine.state.output` to a list of (case name, `Detections` in pixels of the image).

    Raises:
        InputError: the key score is unknown.
    """

    def __init__(
        self,
        plan: InstancePlan,
        cases: Sequence[InstanceCase],
        key_score: str = "mask_ap50",
        by_size: bool = False,
        output_transform: Callable[[Any], Any] = named_detections,
    ) -> None:
        if key_score not in KEY_SCORES:
            raise InputError(f"--key_score {key_score!r}: is not known. Cure: one of {', '.join(KEY_SCORES)}")
        self.plan = plan
        self.key_score = key_score
        self.by_size = by_size
        self.references = References(cases)
        self.collected: InstanceCollection
        super().__init__(output_transform=output_transform)

    def reset(self) -> None:
        plan = self.plan
        self.collected = InstanceCollection(
            plan.num_classes, detection_limits(plan.max_detections), plan.label_threshold, plan.min_area, self.by_size
        )
        self._overall: dict[str, float] | None = None
        self._complete = False

    def update(self, output: Sequence[tuple[str, Detections]]) -> None:
        for name, detections in output:
            self.collected.add(name, self.references[name], detections)
        self._overall, self._complete = None, False

    def overall(self) -> dict[str, float]:
        """All scores of the images so far, those of all processes.

        Raises:
            InputError: there are no images.
        """
        if not self._complete:
            gather_images(self.collected, self.references.cases)
            self._complete = True
        if not self.collected.images:
            raise InputError("validation: has no cases. Cure: a dataset or fold with validation images")
        if self._overall is None:
            self._overall = self.collected.overall()
        return self._overall

    def compute(self) -> float:
        """Value of the key score.

        Raises:
            InputError: it is undefined, as the validation images hold no object.
        """
        value = self.overall()[self.key_score]
        if not np.isfinite(value):
            raise InputError(
                f"--key_score {self.key_score}: is undefined, the validation images hold no objects. "
                "Cure: validation images with objects"
            )
        return value

    def completed(self, engine: Engine, name: str) -> None:
        # processes of which one has failed meet here, see `when_all_are_done`
        process_group.together(lambda: None)
        process_group.together(lambda: super(InstanceMetric, self).completed(engine, name))
        state: Any = engine.state
        values = self.collected.per_class()[CLASS_SCORE]
        state.class_scores = {c: float(v) for c, v in zip(self.plan.classes, values, strict=True) if np.isfinite(v)}
        state.scores = {name: value for name, value in self.overall().items() if np.isfinite(value)}
