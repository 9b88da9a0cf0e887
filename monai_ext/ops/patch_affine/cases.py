"""Inputs of the op: turns, scales, mirrors, borders, storage types; labels in blocks, so that few shares are level."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from monai_ext.ops.case import Case
from monai_ext.ops.patch_affine.affine_matrix import affine_matrix

Arguments = tuple[
    list[torch.Tensor], list[torch.Tensor], torch.Tensor, torch.Tensor, tuple[int, ...], int, int, float, str
]


def _inputs(
    generator: torch.Generator,
    shapes: Sequence[Sequence[int]],
    matrices: Sequence[Sequence[Sequence[float]] | torch.Tensor],
    centres: Sequence[Sequence[float]],
    size: tuple[int, ...],
    order: int = 1,
    channels: int = 1,
    dtype: torch.dtype = torch.float32,
    label_dtype: torch.dtype = torch.uint8,
    label_mode: str = "linear",
    block: int = 3,
    scale: float = 1.0,
    offset: float = 0.0,
) -> Arguments:
    images, labels = [], []
    for shape in shapes:
        image = torch.randn(channels, *shape, generator=generator) * scale + offset
        images.append((image * 40).abs().to(dtype) if not dtype.is_floating_point else image.to(dtype))
        coarse = torch.randint(0, 4, [-(-n // block) for n in shape], generator=generator)
        for axis in range(3):
            coarse = coarse.repeat_interleave(block, axis)
        labels.append(coarse[: shape[0], : shape[1], : shape[2]][None].contiguous().to(label_dtype))
    turns = torch.stack([torch.as_tensor(m, dtype=torch.float64) for m in matrices])
    return images, labels, turns, torch.tensor(centres, dtype=torch.float64), size, order, 9, -1.5, label_mode


def _turn(*angles: float, scale: float = 1.0) -> torch.Tensor:
    return torch.from_numpy(affine_matrix(angles, [scale] * 3))


def _case(name: str, probe: bool = False, **options) -> Case:
    return Case(name, "patch_affine", lambda generator: _inputs(generator, **options), probe=probe)


def _strided(generator: torch.Generator) -> Arguments:
    """Every second slice, and axes swapped."""
    images, labels, *rest = _inputs(
        generator, [(14, 16, 12)] * 2, [_turn(20, 10, -15)] * 2, [(3.2, 6.9, 8.1)] * 2, (6, 5, 7), channels=2
    )
    images = [images[0][:, ::2], images[1].transpose(1, 3)[:, :7]]
    labels = [labels[0][:, ::2], labels[1].transpose(1, 3)[:, :7]]
    return images, labels, *rest  # type: ignore[return-value]


def _recipe(edge: int, order: int = 1, turn: Sequence[float] = (20, -15, 25), scale: float = 1.2) -> dict:
    stored = int(edge * 1.8)
    return {
        "shapes": [(stored, stored + 5, stored - 6)],
        "matrices": [_turn(*turn, scale=scale)],
        "centres": [(stored / 2 + 0.3, stored / 2, stored / 2 - 0.25)],
        "size": (edge,) * 3,
        "order": order,
        "block": 13,
    }


def _recipe_case(name: str, recipe: str, edge: int, share: float = 1.2**3, **options) -> Case:
    """`share`: voxels read per voxel written; 4 bytes an image voxel, 1 a label voxel."""
    traffic = int(edge**3 * 5 * (1 + share))
    make = _recipe(edge, **options)
    return Case(name, "patch_affine", lambda generator: _inputs(generator, **make), recipe=recipe, traffic=traffic)


_MIRROR = torch.diag(torch.tensor([1.0, -1.0, -1.0], dtype=torch.float64))
_PLAIN = torch.eye(3, dtype=torch.float64)
CASES: list[Case] = [
    _case(
        "turned_and_scaled",
        probe=True,
        shapes=[(12, 14, 13), (9, 20, 11)],
        matrices=[_turn(20, -25, 10, scale=1.2), _turn(-70, 30, 5, scale=0.8)],
        centres=[(5.3, 6.6, 6.2), (4.1, 9.7, 5.5)],
        size=(7, 6, 9),
        channels=2,
    ),
    _case(
        "over_the_border",
        probe=True,
        shapes=[(6, 7, 5)],
        matrices=[_turn(30, 40, -20, scale=1.3)],
        centres=[(1.2, 3.1, 4.4)],
        size=(9, 8, 11),
    ),
    _case(
        "misses_the_volume", shapes=[(4, 5, 6)], matrices=[_turn(10, 0, 0)], centres=[(90.0, -60, 3)], size=(3, 4, 5)
    ),
    _case("plain_copy", shapes=[(9, 8, 7)], matrices=[_PLAIN], centres=[(4.5, 3.0, 1.5)], size=(6, 7, 8), channels=2),
    _case(
        "mirrored_copy",
        probe=True,
        shapes=[(9, 8, 7)],
        matrices=[_MIRROR],
        centres=[(4.0, 3, 6)],
        size=(7, 5, 5),
        order=3,
    ),
    _case(
        "between_voxels",
        shapes=[(9, 8, 12)],
        matrices=[_PLAIN],
        centres=[(4.25, 3.125, 5.75)],
        size=(4, 5, 6),
        label_mode="nearest",
    ),
    _case("in_the_plane", shapes=[(1, 30, 20)], matrices=[_turn(33, 0, 0)], centres=[(0.0, 15.2, 10)], size=(1, 12, 9)),
    _case(
        "in_the_plane_cubic",
        shapes=[(3, 20, 30)],
        matrices=[_turn(70, 0, 0)],
        centres=[(1.0, 9, 15.2)],
        size=(3, 9, 12),
        order=3,
    ),
    _case(
        "cubic",
        probe=True,
        shapes=[(15, 16, 17), (11, 12, 10)],
        matrices=[_turn(20, -25, 10, scale=1.1), _turn(5, 7, 9)],
        centres=[(7.3, 8.1, 8.6), (2.1, 8.3, 5.5)],
        size=(6, 7, 8),
        order=3,
        channels=2,
        label_mode="nearest",
    ),
    *[
        _case(
            f"stored_as_{dtype}_{label}_order_{order}".replace("torch.", ""),
            shapes=[(10, 9, 12)],
            matrices=[_turn(15, 20, -10)],
            centres=[(4.4, 4.2, 6.3)],
            size=(8, 7, 6),
            order=order,
            dtype=dtype,
            label_dtype=label,
        )
        for dtype, label, order in [
            (torch.float16, torch.int8, 1),
            (torch.float16, torch.int16, 3),
            (torch.uint8, torch.int32, 1),
            (torch.int16, torch.int64, 1),
            (torch.int16, torch.int64, 3),
        ]
    ],
    _case("size_one", shapes=[(1, 1, 1)], matrices=[_turn(20, 0, 0)], centres=[(0.2, -0.3, 0.1)], size=(1, 1, 1)),
    _case("empty_patch", shapes=[(3, 3, 3)], matrices=[_PLAIN], centres=[(1.0, 1, 1)], size=(0, 3, 3)),
    Case("strided_volumes", "patch_affine", _strided),
    *[
        _case(
            name,
            shapes=[(8, 9, 10)],
            matrices=[_turn(20, 30, 10)],
            centres=[(4.1, 4.2, 4.3)],
            size=(5, 6, 7),
            scale=scale,
            offset=offset,
            order=order,
        )
        for name, scale, offset, order in [
            ("huge_values", 1e30, 0.0, 3),
            ("large_offset", 1.0, 1e4, 1),
            ("constant", 0.0, 7.25, 3),
        ]
    ],
    _case(
        "long_rows", shapes=[(4, 5, 400)], matrices=[_turn(0, 0.3, 0.2)], centres=[(2.0, 2.1, 199)], size=(2, 2, 300)
    ),
    _recipe_case("turned_64", "nnU-Net 3D, turned and scaled 64^3 of 115^3", 64),
    _recipe_case("scaled_64", "nnU-Net 3D, scaled 64^3 of 115^3", 64, turn=(0, 0, 0)),
    _recipe_case("cubic_64", "nnU-Net 3D, turned and scaled 64^3 of 115^3, cubic", 64, order=3),
    _recipe_case("turned_128", "nnU-Net 3D, turned and scaled 128^3 of 230^3", 128),
    Case(
        "plain_64",
        "patch_affine",
        lambda generator: _inputs(generator, [(115, 115, 115)], [_PLAIN], [(60.5, 61.5, 62.5)], (64, 64, 64), block=13),
        recipe="nnU-Net 3D, plain 64^3 of 115^3",
        traffic=64**3 * 10,
    ),
]
