"""Picture of an instance segmentation's validation: images, reference and prediction with what is right or wrong."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from monai_ext.datasets.instance_dataset import InstanceCase
from monai_ext.engines.instance_metric import named_detections
from monai_ext.engines.instance_outputs import case_picture
from monai_ext.evaluation.instance_collection import References
from monai_ext.evaluation.instance_picture import DrawnImage, compose_instances
from monai_ext.evaluation.painted_labels import painted_detections
from monai_ext.networks.mask_rcnn.structures import Detections
from monai_ext.planning.instance_plan import InstancePlan


class InstancePicture:
    """Keeps the detections of the first validation images; a `ValidationPicture`.

    Args:
        plan: how label maps are painted.
        cases: of the validation, with annotations; the files of those that are drawn are read when a picture is made.
            Other images are not drawn.
        num_images: drawn at most.
        output_transform: as in `InstanceMetric`.
    """

    def __init__(
        self,
        plan: InstancePlan,
        cases: Sequence[InstanceCase] = (),
        num_images: int = 4,
        output_transform: Callable[[Any], Any] = named_detections,
    ) -> None:
        self.plan = plan
        self.cases = {case.name: case for case in cases}
        self.references = References(cases)
        self.num_images = num_images
        self.output_transform = output_transform
        self.forget()

    def forget(self) -> None:
        self._kept: list[tuple[str, Detections]] = []

    def keep(self, output: dict[str, Any]) -> None:
        for name, detections in self.output_transform(output):
            if name in self.cases and len(self._kept) < self.num_images:
                self._kept.append((name, Detections(*(tensor.detach().clone() for tensor in detections))))

    def compose(self, title: str = "") -> np.ndarray | None:
        if not self._kept:
            return None
        return compose_instances([self._drawn(name, detections) for name, detections in self._kept], title)

    def _drawn(self, name: str, detections: Detections) -> DrawnImage:
        plan, case, reference = self.plan, self.cases[name], self.references[name]
        on_host = Detections(*(tensor.cpu() for tensor in detections))
        painted, places = painted_detections(on_host, *case.size, plan.label_threshold, plan.min_area)
        return DrawnImage(
            case_picture(case, plan.channels),
            reference.label_map,
            painted,
            name,
            reference.crowd,
            reference.labels,
            on_host.labels.numpy()[places],
        )
