"""Where the voxels of a file lie in the body, and the way to canonical axes and back."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import lru_cache
from itertools import product
from typing import Any

import numpy as np
from nibabel.orientations import aff2axcodes, apply_orientation, inv_ornt_aff, io_orientation, ornt_transform

from monai_ext.errors import InputError

Affine = tuple[tuple[float, ...], ...]
CANONICAL = np.array([[0, 1], [1, 1], [2, 1]], dtype=float)


@dataclass(frozen=True)
class Geometry:
    """Grid of one image file. Arrays in memory are canonical (RAS+) with axes (z, y, x); the file may have any axes.

    Attributes:
        shape: canonical (z, y, x) voxels.
        spacing: canonical (z, y, x) mm.
        affine: `4 x 4`, voxel (x, y, z as stored in the file) to RAS mm.
        file_shape: spatial shape as stored, (x, y, z); two numbers for a 2D file.
        nifti_fields: header fields of a NIfTI input that a result copies (qform, codes, units); else empty.
    """

    shape: tuple[int, int, int]
    spacing: tuple[float, float, float]
    affine: Affine
    file_shape: tuple[int, ...]
    nifti_fields: tuple[tuple[str, float], ...] = ()

    @staticmethod
    def from_affine(
        affine: np.ndarray, file_shape: tuple[int, ...], nifti_fields: tuple[tuple[str, float], ...] = ()
    ) -> Geometry:
        """Geometry of a file from its affine and spatial shape (x, y, z).

        Raises:
            InputError: an entry is not finite, an axis has zero length, or the axes do not span a volume.
        """
        matrix = np.asarray(affine, dtype=np.float64)
        if not np.isfinite(matrix).all():
            raise InputError(f"affine has entries that are not finite: {matrix[:3].tolist()}")
        lengths = np.linalg.norm(matrix[:3, :3], axis=0)
        if (lengths == 0).any():
            raise InputError(f"affine gives a spacing of zero: {tuple(lengths.tolist())} mm")
        # product of unit vectors: a pure number, 1 for right angles, so the limit does not depend on the voxel size
        if abs(np.linalg.det(matrix[:3, :3] / lengths)) < 1e-6:
            raise InputError(f"affine is singular (two axes are parallel): {matrix[:3, :3].tolist()}")
        orientation = _orientation(matrix)
        order = np.argsort(orientation[:, 0])  # canonical axis -> file axis
        full = volume_shape(file_shape)
        x, y, z = (int(axis) for axis in order)
        return Geometry(
            shape=(full[z], full[y], full[x]),
            spacing=(float(lengths[z]), float(lengths[y]), float(lengths[x])),
            affine=tuple(tuple(float(v) for v in row) for row in matrix),
            file_shape=tuple(int(n) for n in file_shape),
            nifti_fields=nifti_fields,
        )

    @property
    def orientation(self) -> str:
        """Closest anatomical directions of the file's axes, e.g. `LPS`; `RAS` is canonical."""
        return "".join(str(code) for code in aff2axcodes(np.array(self.affine)))

    def canonical_affine(self) -> np.ndarray:
        """`4 x 4` float64: canonical voxel (x, y, z) to RAS mm."""
        affine = np.array(self.affine)
        return affine @ inv_ornt_aff(_orientation(affine), volume_shape(self.file_shape))

    def to_canonical(self, stored: np.ndarray) -> np.ndarray:
        """File order `[x, y, z, ...]` -> canonical `[z, y, x, ...]`; a view where possible."""
        full = stored.reshape(*volume_shape(self.file_shape), *stored.shape[len(self.file_shape) :], order="A")
        turned = apply_orientation(full, _orientation(np.array(self.affine)))
        return turned.transpose(2, 1, 0, *range(3, turned.ndim))

    def to_file(self, canonical: np.ndarray) -> np.ndarray:
        """Canonical `[z, y, x, ...]` -> file order `[x, y, z, ...]`, the inverse of `to_canonical`."""
        if canonical.shape[:3] != self.shape:
            raise ValueError(f"array of shape {canonical.shape[:3]} does not fit the geometry's {self.shape}")
        turned = canonical.transpose(2, 1, 0, *range(3, canonical.ndim))
        back = apply_orientation(turned, ornt_transform(CANONICAL, _orientation(np.array(self.affine))))
        return back.reshape(*self.file_shape, *back.shape[3:])

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form."""
        return asdict(self)

    @staticmethod
    def from_dict(values: dict[str, Any]) -> Geometry:
        """Inverse of `to_dict`, also after a way through JSON."""
        depth, height, width = (int(n) for n in values["shape"])
        dz, dy, dx = (float(v) for v in values["spacing"])
        return Geometry(
            shape=(depth, height, width),
            spacing=(dz, dy, dx),
            affine=tuple(tuple(float(v) for v in row) for row in values["affine"]),
            file_shape=tuple(int(n) for n in values["file_shape"]),
            nifti_fields=tuple((str(k), float(v)) for k, v in values["nifti_fields"]),
        )


def _orientation(affine: np.ndarray) -> np.ndarray:
    """nibabel's `io_orientation`, which depends on the axes only and takes a decomposition each time."""
    return np.array(_orientation_of_axes(affine[:3, :3].tobytes()))


@lru_cache(maxsize=1024)
def _orientation_of_axes(axes: bytes) -> tuple[tuple[float, float], ...]:
    affine = np.eye(4)
    affine[:3, :3] = np.frombuffer(axes).reshape(3, 3)
    return tuple((float(axis), float(flip)) for axis, flip in io_orientation(affine))


def volume_shape(file_shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Spatial shape with a third axis of one slice for 2D files."""
    x, y, z = (*file_shape, 1)[:3] if len(file_shape) < 3 else file_shape
    return int(x), int(y), int(z)


def geometry_difference(a: Geometry, b: Geometry) -> str:
    """Describe how two grids differ after reorientation; empty if they are the same.

    The eight corners may lie apart by a thousandth of the largest spacing (rounded origins) plus 1e-5 of the extent
    (spacings and directions written with five digits).
    """
    if a.shape != b.shape:
        return f"shape {_xyz(a.shape)} against {_xyz(b.shape)} (x, y, z)"
    corners = np.array([[*corner, 1.0] for corner in product(*((0, n - 1) for n in reversed(a.shape)))])
    apart = np.linalg.norm((corners @ (a.canonical_affine() - b.canonical_affine()).T)[:, :3], axis=1).max()
    extent = float(np.linalg.norm([n * s for n, s in zip(a.shape, a.spacing, strict=True)]))
    if apart <= 1e-3 * max(a.spacing) + 1e-5 * extent:
        return ""
    if not np.allclose(a.spacing, b.spacing, rtol=1e-3):
        return f"spacing {_xyz(a.spacing)} mm against {_xyz(b.spacing)} mm (x, y, z)"
    return f"position or direction (affine), corners up to {apart:.4g} mm apart"


def check_same_geometry(a: Geometry, b: Geometry, name_a: str = "first image", name_b: str = "second image") -> None:
    """Require that two files describe the same grid.

    Raises:
        InputError: shape, spacing, position or direction differ by more than the tolerance of `geometry_difference`.
    """
    difference = geometry_difference(a, b)
    if difference:
        raise InputError(
            f"{name_b}: differs from {name_a} in {difference}. "
            "Cure: resample one onto the grid of the other, or correct the header that is wrong"
        )


def _xyz(values: tuple[float, ...] | tuple[int, ...]) -> str:
    return "x".join(f"{v:g}" for v in reversed(values))
