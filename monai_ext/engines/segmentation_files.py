"""DICOM segmentations of predicted cases: which files a case gets, and writing them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from monai_ext.datasets.dicom_segmentation import check_source, write_segmentation
from monai_ext.datasets.geometry import Geometry
from monai_ext.datasets.segment_codes import segment_codes
from monai_ext.datasets.segmentation_dataset import Case

TOGETHER, PER_CLASS = "dicom", "dicom_per_class"


class SegmentationFiles:
    """`<case>.dcm` with all classes, `<case>_class<value>.dcm` with one, or both, or none.

    Args:
        formats: what is asked for; other names than `dicom` and `dicom_per_class` are left to others.
        classes: class name to value, without the background.
        codes_file: coded terms of the classes, see `segment_codes`; empty for none.

    Raises:
        InputError: as `segment_codes`.
    """

    def __init__(self, formats: Sequence[str], classes: Mapping[str, int], codes_file: str | Path = "") -> None:
        self._codes = segment_codes(codes_file, sorted(classes, key=lambda name: classes[name]))
        self._classes: dict[str, Mapping[str, int]] = {}
        if TOGETHER in formats:
            self._classes[".dcm"] = classes
        if PER_CLASS in formats:
            self._classes |= {f"_class{value}.dcm": {name: value} for name, value in classes.items()}

    @property
    def endings(self) -> list[str]:
        """What follows the name of a case."""
        return list(self._classes)

    def check(self, cases: Sequence[Case], folder: Path) -> None:
        """Refuse cases from which no DICOM segmentation can be made, if any is asked for.

        Raises:
            InputError: as `check_source`.
        """
        for case in cases if self._classes else ():
            check_source(case.images, folder)

    def write(self, case: Case, labels: np.ndarray, geometry: Geometry, folder: Path) -> list[Path]:
        """Write the segmentations of a case into a folder; labels `[D, H, W]` integers, canonical axes (z, y, x).

        Raises:
            InputError: as `write_segmentation`.
        """
        written = []
        for ending, classes in self._classes.items():
            path = folder / f"{case.name}{ending}"
            write_segmentation(path, labels, geometry, case.images[0], classes, self._codes)
            written.append(path)
        return written
