"""Elastic deformation, rotation and scaling of a slice in one resampling.

A pixel at offset `o` from the centre takes its value from `centre + A @ o + u(o)`: `A` is the rotation times the
scale, `u` a smooth random displacement. As in Ronneberger et al., "U-Net: convolutional networks for biomedical image
segmentation" (2015), `u` is a cubic interpolation of Gaussian vectors on a coarse grid; theirs has 3 by 3 points and
10 pixels standard deviation. Here the distance of the points is given in pixels, so that the deformation of a
structure does not depend on the size of the slice.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from monai_ext.errors import InputError
from monai_ext.ops.patch_affine.affine_matrix import affine_matrix
from monai_ext.transforms.drawn_transform import Params, check_probability, check_range, warn_does_nothing
from monai_ext.transforms.image_label import ImageLabelTransform, check_binary
from monai_ext.transforms.separable import cubic_matrix

BORDERS = ("mirror", "edge")
_SLAB = 1 << 16  # pixels sampled at once on a CPU: half of the time of a whole slice, which leaves the cache


def control_points(edge: int, spacing: float) -> int:
    """Number of control points along an axis of `edge` pixels.

    One point lies at the centre, and one beyond the outermost that is needed on each side: every pixel has the two
    neighbours on either side that cubic interpolation asks for.
    """
    return 2 * math.ceil((edge - 1) / (2 * spacing)) + 3


def displacement_field(control: torch.Tensor, spacing: float, shape: Sequence[int]) -> torch.Tensor:
    """Cubic convolution (Keys, 1981) of the displacements at the control points.

    Args:
        control: `[2, rows, columns]` float32, displacements along both axes in pixels; `control_points` of each.
        spacing: distance of the control points in pixels.
        shape: (H, W) of the slice.

    Returns:
        `[2, H, W]` float32 in pixels. It passes through the control points; a constant stays constant.
    """
    rows, columns = (
        cubic_matrix(n, (torch.arange(edge, dtype=torch.float64) - (edge - 1) / 2) / spacing + (n - 1) // 2).to(control)
        for n, edge in zip(control.shape[1:], shape, strict=True)
    )
    return rows @ control @ columns.T


def source_positions(shape: Sequence[int], params: Params, device: torch.device) -> torch.Tensor:
    """Where every pixel takes its value from, in pixels; `[2, H, W]` float32, exact where nothing moves."""
    matrix = affine_matrix((params["angle"], 0, 0), (1, params["scale"], params["scale"]))[1:, 1:]
    half = [(edge - 1) / 2 for edge in shape]
    offsets = [torch.arange(edge, dtype=torch.float64) - h for edge, h in zip(shape, half, strict=True)]
    out = torch.empty((2, *shape), device=device)
    for axis in range(2):
        down = (float(matrix[axis, 0]) * offsets[0] + half[axis]).float()[:, None]
        across = (float(matrix[axis, 1]) * offsets[1]).float()
        torch.add(down.to(device), across.to(device), out=out[axis])
    if params["control"] is not None:
        control = torch.tensor(params["control"], dtype=torch.float32, device=device)
        out += displacement_field(control, params["spacing"], shape)
    return out


def fold_into(position: torch.Tensor, edge: int, border: str) -> torch.Tensor:
    """Bring positions along an axis of `edge` pixels into [0, edge - 1], in place; integers stay exact.

    `mirror` reflects at the centre of the outermost pixel as often as it takes, `edge` repeats that pixel.
    """
    if border == "mirror" and edge > 1:
        return position.abs_().fmod_(2 * (edge - 1)).sub_(edge - 1).abs_().neg_().add_(edge - 1)
    return position.clamp_(0, edge - 1)


def sample_bilinear(image: torch.Tensor, positions: torch.Tensor, border: str) -> torch.Tensor:
    """Bilinear interpolation in pixel coordinates.

    Not `grid_sample`: its coordinates in [-1, 1] cost 3e-5 pixels even where nothing moves.

    Args:
        image: `[C, H, W]` floating point.
        positions: `[2, h, w]` float32, rows and columns; not changed.
        border: see `fold_into`.

    Returns:
        `[C, h, w]` of the image's type.
    """
    out = image.new_empty((len(image), *positions.shape[1:]))
    pixels = image.reshape(len(image), -1)
    rows = max(1, _SLAB // positions.shape[2]) if image.device.type == "cpu" else positions.shape[1]
    for first in range(0, positions.shape[1], rows):
        slab = slice(first, first + rows)
        values = _sample_slab(pixels, image.shape[1:], positions[:, slab], border)
        out[:, slab] = values.view(len(image), -1, positions.shape[2])
    return out


def _sample_slab(pixels: torch.Tensor, shape: Sequence[int], positions: torch.Tensor, border: str) -> torch.Tensor:
    """As `sample_bilinear` for an image given as `[C, H W]`; `[C, h w]`."""
    height, width = shape
    row = fold_into(positions[0].clone(), height, border)
    column = fold_into(positions[1].clone(), width, border)
    # the last cell holds the last pixel too, with weight 1; an axis of one pixel has no second neighbour to go to
    top, left = row.floor().clamp_(max=max(height - 2, 0)), column.floor().clamp_(max=max(width - 2, 0))
    down, across = row.sub_(top).to(pixels).view(-1), column.sub_(left).to(pixels).view(-1)
    index = top.long().mul_(width).add_(left.long()).view(-1)
    beside, below = int(width > 1), width if height > 1 else 0

    def row_at(offset: int) -> torch.Tensor:
        near = pixels.index_select(1, index + offset)
        return near.lerp_(pixels.index_select(1, index + (offset + beside)), across)

    return row_at(0).lerp_(row_at(below), down)


class RandElasticd(ImageLabelTransform):
    """Bend, turn and scale a slice, all drawn independently and done in one linear interpolation.

    Where the interpolated share of class 1 is at least 0.5 a label pixel becomes 1: smoother borders than those of the
    nearest pixel. The displacement has the standard deviation `sigma` at the control points and less between them,
    down to 0.64 `sigma` midway between four. They are drawn on the CPU: all devices get the same deformation.

    Args:
        keys: images `[C, H, W]` floating point.
        label_keys: labels `[C, H, W]` of 0 and 1.
        prob: chance that anything is done to a sample; the chances below hold for samples that are drawn.
        elastic_prob: chance of an elastic deformation.
        grid_spacing: distance of the control points in pixels.
        sigma: standard deviation of their displacement in pixels, along each axis; 0 for no deformation. Above a
            quarter of `grid_spacing` the image begins to fold over itself.
        rotation: range of the angle in degrees, uniform; 90 turns a square slice as `torch.rot90` does.
        rotation_prob: chance of a rotation.
        scale: range of the scale of both axes, uniform; above 1 the slice shows more and objects shrink.
        scale_prob: chance of a scaling.
        border: what lies beyond the slice: `mirror` (without repeating the border pixel) or `edge`.
        allow_missing_keys: skip keys that a sample lacks.

    Raises:
        InputError: an argument is out of bounds, or (when called) a shape or a label value does not fit.
    """

    def __init__(
        self,
        keys: str | Sequence[str] = "image",
        label_keys: str | Sequence[str] = "label",
        prob: float = 1.0,
        elastic_prob: float = 1.0,
        grid_spacing: float = 128.0,
        sigma: float = 10.0,
        rotation: Sequence[float] = (0.0, 0.0),
        rotation_prob: float = 1.0,
        scale: Sequence[float] = (1.0, 1.0),
        scale_prob: float = 1.0,
        border: str = "mirror",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, label_keys, prob, allow_missing_keys)
        name = "RandElasticd"
        self.elastic_prob = check_probability(name, "elastic_prob", elastic_prob)
        self.rotation_prob = check_probability(name, "rotation_prob", rotation_prob)
        self.scale_prob = check_probability(name, "scale_prob", scale_prob)
        self.rotation = check_range(name, "rotation", rotation, -360.0)
        self.scale = check_range(name, "scale", scale)
        if self.scale[0] == 0:
            raise InputError(f"{name}: scale must be above 0, found 0. Cure: e.g. [0.9, 1.1]")
        if not grid_spacing >= 1:
            raise InputError(f"{name}: grid_spacing must be at least 1 pixel, found {grid_spacing}. Cure: e.g. 128")
        if not sigma >= 0:
            raise InputError(f"{name}: sigma must not be negative, found {sigma}. Cure: e.g. 10, or 0 for none")
        if border not in BORDERS:
            raise InputError(f"{name}: border must be of {list(BORDERS)}, found {border!r}. Cure: choose one")
        self.grid_spacing, self.sigma, self.border = float(grid_spacing), float(sigma), border
        bends = self.sigma > 0 and self.elastic_prob > 0
        turns = self.rotation != (0.0, 0.0) and self.rotation_prob > 0
        scales = self.scale != (1.0, 1.0) and self.scale_prob > 0
        if not (bends or turns or scales):
            warn_does_nothing(name, "it neither bends nor turns nor scales", "Set sigma, rotation or scale")

    def draw(self, image: torch.Tensor) -> Params:
        control, angle, scale = None, 0.0, 1.0
        if self.R.random_sample() < self.elastic_prob and self.sigma > 0:
            points = [control_points(edge, self.grid_spacing) for edge in image.shape[1:]]
            control = self.R.normal(0.0, self.sigma, (2, *points)).tolist()
        if self.R.random_sample() < self.rotation_prob:
            angle = float(self.R.uniform(*self.rotation))
        if self.R.random_sample() < self.scale_prob:
            scale = float(self.R.uniform(*self.scale))
        if control is None and angle == 0 and scale == 1:
            return {}
        return {
            "control": control,
            "spacing": self.grid_spacing,
            "angle": angle,
            "scale": scale,
            "border": self.border,
        }

    def apply(self, image: torch.Tensor, params: Params) -> torch.Tensor:
        positions = source_positions(image.shape[1:], params, image.device)
        return sample_bilinear(image, positions, params["border"])

    def apply_label(self, label: torch.Tensor, params: Params) -> torch.Tensor:
        # the positions are computed again: 2 ms for 512 x 512 pixels, and nothing to keep between the keys
        share = self.apply(check_binary("RandElasticd", label).float(), params)
        return (share >= 0.5).to(label.dtype)
