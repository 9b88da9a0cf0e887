"""All scores of a set of images with detected objects, collected one image after the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from monai_ext.datasets.instance_dataset import InstanceCase
from monai_ext.evaluation.coco_ap import COCO_SIZES, NUCLEI_SIZES, CocoScores, ImageMatches
from monai_ext.evaluation.instance_objects import Reference, objects_of_detections, reference_of
from monai_ext.evaluation.instance_scores import LabelMapScores, Overlaps, overlap_table
from monai_ext.evaluation.painted_labels import painted_detections

if TYPE_CHECKING:
    from monai_ext.networks.mask_rcnn.structures import Detections

SCORE_THRESHOLDS = tuple(round(0.3 + 0.05 * i, 2) for i in range(13))


class References:
    """What is annotated in images, kept in memory as far as it fits and read again beyond.

    Args:
        cases: with annotations.
        cache_bytes: memory of what is kept.
    """

    def __init__(self, cases: Sequence[InstanceCase], cache_bytes: int = 2**28) -> None:
        self.cases = {case.name: case for case in cases}
        self.cache_bytes = cache_bytes
        self._kept: dict[str, Reference] = {}
        self._bytes = 0

    def __getitem__(self, name: str) -> Reference:
        """Of the image of a case.

        Raises:
            KeyError: there is no such case.
            InputError: its label map cannot be used.
        """
        kept = self._kept.get(name)
        if kept is None:
            kept = reference_of(self.cases[name])
            if self._bytes + kept.nbytes <= self.cache_bytes:
                self._kept[name] = kept
                self._bytes += kept.nbytes
        return kept


@dataclass(frozen=True)
class ScoredImage:
    """What one image adds to an `InstanceCollection`, small enough to be sent to another process.

    Attributes:
        matches: of COCO's scores.
        overlaps: of the label maps.
        detections: their number.
    """

    matches: ImageMatches
    overlaps: Overlaps
    detections: int


class InstanceCollection:
    """COCO's AP of boxes and masks, and scores of the painted label maps.

    Args:
        num_classes: labels are 1 to this.
        max_detections: per image and class, see `CocoScores`.
        label_threshold: score from which detections are painted.
        min_area: smaller parts of painted objects are dropped, pixels.
        by_size: AP and AR by size as well.
    """

    def __init__(
        self,
        num_classes: int,
        max_detections: Sequence[int] = (1, 10, 500),
        label_threshold: float = 0.5,
        min_area: int = 1,
        by_size: bool = True,
    ) -> None:
        self.label_threshold = label_threshold
        self.min_area = min_area
        self.coco = CocoScores(num_classes, max_detections, COCO_SIZES | NUCLEI_SIZES if by_size else {})
        self.maps = LabelMapScores()
        self.images: dict[str, ScoredImage] = {}

    @property
    def detections(self) -> dict[str, int]:
        """Name to number of detections."""
        return {name: image.detections for name, image in self.images.items()}

    def add(self, name: str, reference: Reference, detections: Detections) -> tuple[np.ndarray, np.ndarray]:
        """One image.

        Args:
            name: of the image, which must not have been added before.
            reference: what is annotated.
            detections: boxes in pixels of the image, by descending score.

        Returns:
            As `painted_detections`, from the lowest score threshold on: values up to n are what the n first places
            give alone.

        Raises:
            ValueError: the name has been there before.
        """
        if name in self.images:
            raise ValueError(f"{name}: was added twice")
        detections = type(detections)(*(tensor.detach().cpu() for tensor in detections))
        height, width = reference.size
        matches = self.coco.add(reference.objects, objects_of_detections(detections, height, width))
        # one painting serves all higher thresholds
        lowest = min(self.label_threshold, *SCORE_THRESHOLDS)
        painted, places = painted_detections(detections, height, width, lowest, self.min_area)
        labels, scores = detections.labels.numpy()[places], detections.scores.double().numpy()[places]
        overlaps = overlap_table(reference.label_map, painted, reference.labels, labels, scores, reference.crowd)
        self.maps.add(name, overlaps)
        self.images[name] = ScoredImage(matches, overlaps, len(detections.scores))
        return painted, places

    def replace(self, images: Mapping[str, ScoredImage]) -> None:
        """Hold these images and no others, in this order; for putting together what several processes have scored.

        Args:
            images: of collections with the same settings.
        """
        self.coco.clear()
        self.maps = LabelMapScores()
        self.images = dict(images)
        for name, image in self.images.items():
            self.coco.put(image.matches)
            self.maps.add(name, image.overlaps)

    def overall(self) -> dict[str, float]:
        """All scores by name; undefined ones are NaN."""
        return {**self.coco.overall(), **self.maps.overall(self.label_threshold)}

    def per_class(self) -> dict[str, np.ndarray]:
        """Scores of `CocoScores.per_class`, `[K]` each."""
        return self.coco.per_class()
