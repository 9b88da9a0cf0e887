"""What becomes of the detections of held-out images: their scores, and pictures of the best and the worst."""

from __future__ import annotations

import logging
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ignite.engine import Engine, Events

from monai_ext.datasets.instance_dataset import InstanceCase
from monai_ext.datasets.picture import open_picture
from monai_ext.engines import process_group
from monai_ext.engines.instance_metric import detection_limits, gather_images, named_detections
from monai_ext.engines.shared_completion import when_all_are_done
from monai_ext.errors import InputError
from monai_ext.evaluation.instance_collection import InstanceCollection, References
from monai_ext.evaluation.instance_picture import DrawnImage, compose_instances, picture_of
from monai_ext.evaluation.instance_report import (
    REPORT_FILES,
    best_median_worst,
    ranked_images,
    write_instance_report,
)
from monai_ext.evaluation.instance_table import instance_table
from monai_ext.evaluation.overlay_picture import save_picture
from monai_ext.file_digest import file_sha256
from monai_ext.networks.mask_rcnn.structures import Detections
from monai_ext.planning.instance_plan import InstancePlan

logger = logging.getLogger(__name__)
GALLERY_FILE = "gallery.png"


class InstanceEvaluation:
    """Collects the detections of evaluated images; writes and prints their scores when all are there.

    Of several processes each scores its own images, and the first writes the report on all of them.

    Args:
        folder: for the files of `write_instance_report` and `gallery.png`.
        about: further entries of the summary.
        plan: classes, and how label maps are painted.
        cases: that are evaluated, with annotations.
        ckpt_path: the model, whose digest is recorded; "": unknown.
        label_threshold: score from which detections are painted; negative: that of the plan.
        min_area: smallest part of a painted object, pixels; negative: that of the plan.
        max_detections: per image and class that AP and AR are of; 0: of the plan. More than the plan's where images are
            tiled, as the plan's number is per tile.
        gallery: images drawn of the best, the median and the worst each; 0: no picture.
        output_transform: as in `InstanceMetric`.

    Raises:
        InputError: `max_detections` or `gallery` is negative.
    """

    def __init__(
        self,
        folder: str | Path,
        about: Mapping[str, Any],
        plan: InstancePlan,
        cases: Sequence[InstanceCase],
        ckpt_path: str | Path = "",
        label_threshold: float = -1.0,
        min_area: int = -1,
        max_detections: int = 0,
        gallery: int = 2,
        output_transform: Callable[[Any], Any] = named_detections,
    ) -> None:
        for name, value in (("max_detections", max_detections), ("gallery", gallery)):
            if value < 0:
                raise InputError(f"--{name} {value}: must not be negative. Cure: 0, or a number of images or objects")
        self.folder = Path(folder)
        self.about = dict(about)
        self.plan = plan
        self.cases = {case.name: case for case in cases}
        self.ckpt_path = ckpt_path
        self.label_threshold = plan.label_threshold if label_threshold < 0 else label_threshold
        self.min_area = plan.min_area if min_area < 0 else min_area
        self.most = max_detections or plan.max_detections
        self.gallery = gallery
        self.output_transform = output_transform
        self.references = References(cases)
        self.summary: dict[str, Any] = {}
        self._clear()

    def _clear(self, _: Any = None) -> None:
        limits = detection_limits(self.most)
        self.collected = InstanceCollection(self.plan.num_classes, limits, self.label_threshold, self.min_area)
        self._painted: dict[str, tuple[bytes, np.ndarray]] = {}

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self._clear)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._collect)
        when_all_are_done(engine, self._finish)

    def _collect(self, engine: Any) -> None:
        for name, found in self.output_transform(engine.state.output):
            detections = Detections(*(tensor.detach().cpu() for tensor in found))
            painted, places = self.collected.add(name, self.references[name], detections)
            if self.gallery:  # which images are drawn is known at the end only; packed, a map is a few kilobytes
                places = places[: int((detections.scores[places] >= self.label_threshold).sum())]
                painted = np.where(painted <= len(places), painted, 0)
                self._painted[name] = (zlib.compress(painted.tobytes(), 1), detections.labels.numpy()[places])

    def _finish(self) -> None:
        gather_images(self.collected, self.cases)
        self._gather_painted()
        process_group.first_alone(self._report)

    def _gather_painted(self) -> None:
        """Give the first process the maps that are drawn, whoever painted them."""
        chosen = best_median_worst(ranked_images(self.collected), self.gallery) if self.gallery else {}
        painted = {name: self._painted[name] for name in chosen if name in self._painted}
        self._painted = {name: one for share in process_group.gather(painted) for name, one in share.items()}

    def _report(self) -> None:
        if not self.collected.images:
            raise InputError("evaluation: there are no images. Cure: check that the fold or folder holds images")
        about = {
            "model_sha256": file_sha256(self.ckpt_path) if self.ckpt_path else "",
            "score_threshold": self.plan.score_threshold,
            "box_nms": self.plan.box_nms,
            **self.about,
        }
        self.summary = write_instance_report(self.folder, self.collected, self.plan.classes, about)
        print(instance_table(self.summary))
        files = [self.folder / file for file in REPORT_FILES]
        drawn = self._drawn()
        if drawn:
            files.append(self.folder / GALLERY_FILE)
            save_picture(files[-1], compose_instances(drawn, f"{self.plan.dataset}: best, median and worst images"))
        for file in files:
            print(f"{file.name + ':':<24}{file.resolve()}")
        logger.info("%d images, %d objects", self.summary["num_images"], self.summary["num_objects"])
        score = self.summary["mask_ap50"]
        logger.info("mask AP50 %s", "undefined: the images hold no objects" if score is None else f"{score:.3f}")

    def _drawn(self) -> list[DrawnImage]:
        if not self.gallery:
            return []
        chosen = best_median_worst(ranked_images(self.collected), self.gallery)
        counts = self.collected.maps.counts(self.collected.label_threshold)
        drawn = []
        for name, rank in chosen.items():
            scores = counts[name].scores()
            packed, labels = self._painted[name]
            reference = self.references[name]
            prediction = np.frombuffer(zlib.decompress(packed), dtype=np.int32).reshape(reference.size)
            caption = f"{rank}: {name}, AP50 {scores['ap50']:.3f}, AP {scores['ap']:.3f}"
            drawn.append(
                DrawnImage(
                    case_picture(self.cases[name], self.plan.channels),
                    reference.label_map,
                    prediction,
                    caption,
                    reference.crowd,
                    reference.labels,
                    labels,
                )
            )
        return drawn


def case_picture(case: InstanceCase, channels: int) -> np.ndarray:
    """The image of a case as one can look at it, `[H, W, 3]` uint8.

    Raises:
        InputError: the file cannot be read.
    """
    picture = open_picture(case.path, channels)
    height, width = picture.size
    return picture_of(picture.crop_resized((0, 0, height, width), (height, width)).numpy())
