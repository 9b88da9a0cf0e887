"""DICOM series for tests, written slice by slice as a scanner does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

MR_STORAGE = "1.2.840.10008.5.1.4.1.1.4"
RAS_FROM_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def turned_affine(angles: Sequence[float], spacing: Sequence[float], origin: Sequence[float]) -> np.ndarray:
    """RAS affine of axes (column, row, slice), turned by `angles` (radians) about x, y and z, sizes in mm."""
    axes = np.eye(3)
    for axis, angle in enumerate(angles):
        i, j = (axis + 1) % 3, (axis + 2) % 3
        turn = np.eye(3)
        turn[[i, i, j, j], [i, j, i, j]] = np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)
        axes = turn @ axes
    affine = np.eye(4)
    affine[:3, :3] = axes @ np.diag(spacing)
    affine[:3, 3] = origin
    return affine


def write_series(
    folder: Path,
    voxels: np.ndarray,
    affine: np.ndarray,
    reverse: bool = False,
    missing: Sequence[int] = (),
    shift: np.ndarray | None = None,
    **elements: Any,
) -> list[Any]:
    """Write `[slice, row, column]` int16 as one MR image a slice.

    Args:
        folder: made if it is missing.
        voxels: stored as they are.
        affine: `4 x 4`, (column, row, slice) to RAS mm.
        reverse: file names and instance numbers run against the slices.
        missing: slices that are not written.
        shift: mm (LPS) by which every slice lies further away from its place than the one before.
        elements: further elements, or other values for those that are written; None leaves one away.

    Returns:
        The data sets in the order of the slices.
    """
    folder.mkdir(parents=True, exist_ok=True)
    grid = RAS_FROM_LPS @ affine
    spacing = np.linalg.norm(grid[:3, :3], axis=0)
    axes = grid[:3, :3] / spacing
    study, series, frame = generate_uid(), generate_uid(), generate_uid()
    written = []
    for k in range(len(voxels)):
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = MR_STORAGE, generate_uid()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        number = len(voxels) - k if reverse else k + 1
        path = folder / f"IM{number:04d}.dcm"
        slice_ = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
        values: dict[str, Any] = {
            "SpecificCharacterSet": "ISO_IR 100",
            "SOPClassUID": MR_STORAGE,
            "SOPInstanceUID": meta.MediaStorageSOPInstanceUID,
            "StudyInstanceUID": study,
            "SeriesInstanceUID": series,
            "FrameOfReferenceUID": frame,
            "Modality": "MR",
            "PatientName": "Müller^Jörg",
            "PatientID": "P-17",
            "PatientBirthDate": "19700102",
            "PatientSex": "M",
            "AccessionNumber": "A1",
            "StudyID": "7",
            "StudyDate": "20240102",
            "StudyTime": "101112",
            "SeriesDate": "20240102",
            "SeriesDescription": "T1",
            "SeriesNumber": 4,
            "InstanceNumber": number,
            "Rows": voxels.shape[1],
            "Columns": voxels.shape[2],
            "PixelSpacing": [float(spacing[1]), float(spacing[0])],
            "SliceThickness": float(spacing[2]),
            "ImagePositionPatient": list(grid[:3, 3] + k * (grid[:3, 2] + (0 if shift is None else shift))),
            "ImageOrientationPatient": [*axes[:, 0], *axes[:, 1]],
            "SamplesPerPixel": 1,
            "PhotometricInterpretation": "MONOCHROME2",
            "BitsAllocated": 16,
            "BitsStored": 16,
            "HighBit": 15,
            "PixelRepresentation": 1,
            **elements,
        }
        with pydicom.config.disable_value_validation():
            for name, value in values.items():
                if value is None:
                    continue
                if name in ("PixelSpacing", "SliceThickness", "ImagePositionPatient", "ImageOrientationPatient"):
                    value = [
                        f"{v:.10g}" for v in np.atleast_1d(np.asarray(value, dtype=float))
                    ]  # 16 characters at most
                setattr(slice_, name, value)
            slice_.PixelData = np.ascontiguousarray(voxels[k].astype("<i2")).tobytes()
            written.append(slice_)
            if k not in missing:
                slice_.save_as(path)
    return written
