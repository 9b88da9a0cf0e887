"""Label maps as DICOM segmentations (DICOM PS3.3 A.51) that refer to the series they were predicted from.

Every segment is a class of the model, every frame lies exactly where its source slice lies and names it, so that a
viewer shows the segments on the series. Series with tilted gantry or unequal distances, whose volume is not their
voxels, are refused. Contours (RTSTRUCT) are not written.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from monai_ext import __version__
from monai_ext.atomic_files import replacing
from monai_ext.datasets.dicom_packages import dicom_package
from monai_ext.datasets.dicom_series import geometry_of, read_headers, slices_in_order
from monai_ext.datasets.geometry import Geometry, volume_shape
from monai_ext.datasets.segment_codes import SegmentCode, segment_codes
from monai_ext.errors import InputError

MAKER = "monai_ext"
SERIES_OFFSET = 1000  # added to the number of the source series, so that the study's own numbers stay free
LARGEST_NUMBER = 2**31 - 1  # of a series: DICOM's integer strings
LABEL_LENGTH = 64  # characters of a segment label
UTF8 = "ISO_IR 192"
# elements that must be there, though empty where the source does not tell
EMPTY_IF_MISSING = (
    "PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID", "StudyDate",
    "StudyTime", "ReferringPhysicianName",
)  # fmt: skip


def check_source(images: Sequence[Path], folder: str | Path) -> None:
    """Refuse a case from which no DICOM segmentation can be made, before it is predicted.

    Args:
        images: of the case, as `find_inputs` gives them.
        folder: where the segmentation will be written.

    Raises:
        InputError: highdicom is missing, the case is no DICOM series, its headers lack what a reference needs, or the
            segmentation would be written among its slices.
    """
    dicom_package("highdicom")
    if len(images) != 1 or not Path(images[0]).is_dir():
        raise InputError(
            f"--pred_format dicom: {images[0]} is no folder with a DICOM series, which a DICOM segmentation refers to. "
            "Cure: give the folder of the series as --input, or --pred_format nii"
        )
    if Path(folder).resolve() == Path(images[0]).resolve():
        raise InputError(
            f"--output_dir {folder}: is the folder of the series, which would hold two series then. "
            "Cure: another --output_dir"
        )
    headers = read_headers(images[0])
    slices_in_order(headers, geometry_of(headers), str(images[0]))


def write_segmentation(
    path: str | Path,
    labels: np.ndarray,
    geometry: Geometry,
    series: str | Path,
    classes: Mapping[str, int],
    codes: Mapping[str, SegmentCode] | None = None,
    algorithm: str = MAKER,
) -> None:
    """Write labels `[D, H, W]` as one DICOM segmentation with a binary segment for each class.

    A model of one class writes all slices, so that ITK, which knows stacks only, reads the file as a volume in its
    place. With several classes only the slices on which a class occurs are written, as usual for such files.
    (ITK up to 5.4 leaves the last voxels of the last slice undefined, up to 7, where their number is no multiple of 8.)

    Args:
        path: file to write.
        labels: integers, canonical axes (z, y, x) as `geometry` describes them.
        geometry: of the volume that was read from `series`.
        series: folder of the source series.
        classes: class name to value in `labels`; segments are numbered from 1 by rising value.
        codes: coded terms and colour of each class, see `segment_codes`; without them every class is a tissue.
        algorithm: name of the model, stored with each segment.

    Raises:
        InputError: see `read_headers` and `slices_in_order`; highdicom is missing or refuses the source's headers.
    """
    if labels.shape != geometry.shape:
        raise ValueError(f"labels must have the shape {geometry.shape} of the geometry, got {labels.shape}")
    highdicom, pydicom = dicom_package("highdicom"), dicom_package("pydicom")
    headers = slices_in_order(read_headers(series), geometry, str(series))
    names = sorted(classes, key=lambda name: classes[name])
    coded = codes or segment_codes("", names)
    largest = max([int(labels.max(initial=0)), *classes.values()])
    numbers = np.zeros(largest + 1, dtype=np.uint8 if len(names) < 256 else np.uint16)
    for number, name in enumerate(names, start=1):
        numbers[classes[name]] = number
    frames = numbers[_slices(labels, geometry)]
    source = headers[0]
    try:
        with pydicom.config.disable_value_validation():  # values longer than DICOM allows are carried as they are
            measures = _pixel_measures(source, geometry)
            for header in headers:
                _complete(header, measures, pydicom)
            made = highdicom.seg.Segmentation(
                source_images=headers,
                pixel_array=frames,
                segmentation_type=highdicom.seg.SegmentationTypeValues.BINARY,
                segment_descriptions=[
                    _description(number, name, coded[name], algorithm) for number, name in enumerate(names, start=1)
                ],
                series_instance_uid=highdicom.UID(),
                series_number=_series_number(source),
                sop_instance_uid=highdicom.UID(),
                instance_number=1,
                manufacturer=MAKER,
                manufacturer_model_name=algorithm[:LABEL_LENGTH],
                software_versions=__version__,
                device_serial_number=__version__,
                content_label="SEGMENTATION",
                content_description="Automatic segmentation, not reviewed",
                series_description=_text(f"Segmentation of {source.get('SeriesDescription') or 'series'}"),
                pixel_measures=measures,
                omit_empty_frames=len(names) > 1 and bool(frames.any()),
            )
            with replacing(path) as partial:
                made.save_as(partial)
    except InputError:  # of the disk
        raise
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(
            f"{series}: its headers do not allow a DICOM segmentation ({reason}). "
            "Cure: export the series again from its archive, or --pred_format nii"
        ) from error


def _slices(labels: np.ndarray, geometry: Geometry) -> np.ndarray:
    """Labels as DICOM has them, `[slice, row, column]`."""
    stored = geometry.to_file(labels)
    return np.ascontiguousarray(stored.reshape(volume_shape(geometry.file_shape)).transpose(2, 1, 0))


def _text(words: str) -> str:
    """As one value of DICOM: a backslash would part it into two."""
    return words.replace("\\", "/")[:LABEL_LENGTH]


def _description(number: int, name: str, code: SegmentCode, algorithm: str) -> Any:
    highdicom = dicom_package("highdicom")
    families = dicom_package("pydicom.sr.codedict").codes.cid7162
    description = highdicom.seg.SegmentDescription(
        segment_number=number,
        segment_label=_text(name),
        segmented_property_category=highdicom.sr.CodedConcept(*code.category),
        segmented_property_type=highdicom.sr.CodedConcept(*code.type),
        algorithm_type=highdicom.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=highdicom.AlgorithmIdentificationSequence(
            name=algorithm[:LABEL_LENGTH], family=families.ArtificialIntelligence, version=__version__
        ),
    )
    description.RecommendedDisplayCIELabValue = list(code.cielab())
    return description


def _pixel_measures(source: Any, geometry: Geometry) -> Any:
    """Size of a voxel: the distance of slices as it is, not as the header states it, which is wrong now and then."""
    highdicom = dicom_package("highdicom")
    distance = float(np.linalg.norm(np.array(geometry.affine)[:3, 2]))
    thickness = float(source.get("SliceThickness") or 0)
    return highdicom.PixelMeasuresSequence(
        pixel_spacing=[float(v) for v in source.PixelSpacing],
        slice_thickness=thickness if thickness > 0 else distance,
        spacing_between_slices=distance if volume_shape(geometry.file_shape)[2] > 1 else None,
    )


def _series_number(source: Any) -> int:
    number = max(int(source.get("SeriesNumber") or 0), 0) + SERIES_OFFSET
    return min(number, LARGEST_NUMBER)


def _complete(header: Any, measures: Any, pydicom: Any) -> None:
    """Give a header what a segmentation must copy: elements that are empty, thickness and a frame of reference."""
    header.SpecificCharacterSet = UTF8  # class names may have letters that the source's set lacks
    header.SliceThickness = measures[0].SliceThickness
    for name in EMPTY_IF_MISSING:
        if name not in header or not _is_valid(name, header.get(name), pydicom):
            setattr(header, name, "")
    if not header.get("FrameOfReferenceUID"):
        # the same for all results on this series
        entropy = hashlib.sha256(str(header.SeriesInstanceUID).encode()).hexdigest()
        header.FrameOfReferenceUID = pydicom.uid.generate_uid(entropy_srcs=[entropy])


def _is_valid(name: str, value: Any, pydicom: Any) -> bool:
    """Whether a date, time or sex is one; other elements are text, of which nothing is asked."""
    try:
        if name.endswith("Date"):
            pydicom.valuerep.DA(value)
        elif name.endswith("Time"):
            pydicom.valuerep.TM(value)
    except ValueError:
        return False
    return name != "PatientSex" or value in ("M", "F", "O", "", None)
