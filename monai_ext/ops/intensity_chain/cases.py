"""Inputs of `intensity_chain`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from monai_ext.ops.case import Case

Chain = list[dict[str, Any]]


def noise(std: float = 0.1, seed: int = 5) -> dict[str, Any]:
    return {"name": "noise", "std": std, "seed": seed}


def blur(*sigma: Sequence[float]) -> dict[str, Any]:
    return {"name": "blur", "sigma": [list(row) for row in sigma]}


def brightness(*factor: float) -> dict[str, Any]:
    return {"name": "brightness", "factor": list(factor)}


def contrast(*factor: float, about: str = "mean") -> dict[str, Any]:
    return {"name": "contrast", "factor": list(factor), "about": about}


def low_resolution(*zoom: Sequence[float]) -> dict[str, Any]:
    return {"name": "low_resolution", "zoom": [list(row) for row in zoom]}


def gamma(*exponent: float, invert: bool = False, keep_stats: bool = True) -> dict[str, Any]:
    return {"name": "gamma", "exponent": list(exponent), "invert": invert, "keep_stats": keep_stats}


def whole_chain(channels: int, axes: int, seed: int = 7) -> Chain:
    """All steps of nnU-Net v2 in its order, drawn at once."""
    return [
        noise(0.07, seed),
        blur(*[[0.5 + 0.15 * c + 0.1 * a for a in range(axes)] for c in range(channels)]),
        brightness(*[1.2 - 0.3 * c for c in range(channels)]),
        contrast(*[0.8 + 0.4 * c for c in range(channels)]),
        low_resolution(*[[0.6 + 0.1 * c] * axes for c in range(channels)]),
        gamma(*[0.7 + 0.5 * c for c in range(channels)], invert=True),
        gamma(*[1.4 - 0.4 * c for c in range(channels)]),
    ]


def _case(name: str, shape: Sequence[int], *chains: Chain, scale: float = 1, offset: float = 0, **options: Any) -> Case:
    def make(generator: torch.Generator) -> tuple[Any, ...]:
        return torch.randn(*shape, generator=generator).mul_(scale).add_(offset), [list(c) for c in chains]

    return Case(name, "intensity_chain", make, **options)


def _strided(generator: torch.Generator) -> tuple[Any, ...]:
    images = torch.randn(2, 9, 8, 7, 2, generator=generator).movedim(-1, 1)
    return images, [whole_chain(2, 3), [gamma(0.8, 1.2)]]


def _with_nan(generator: torch.Generator) -> tuple[Any, ...]:
    images = torch.randn(4, 2, 6, 7, generator=generator)
    images[:, 1, 2, 3] = math.nan
    chains = [[contrast(0.8, 0.9)], [gamma(0.8, 0.9)], [noise(), brightness(2, 3)], [contrast(0.8, 0.9, about="zero")]]
    return images, chains


def _constant(generator: torch.Generator) -> tuple[Any, ...]:
    images = torch.full((3, 1, 5, 9), 2.5)
    return images, [[gamma(0.7), contrast(1.2)], [gamma(0.7, keep_stats=False)], [blur([1.0, 0.7]), gamma(1.4)]]


def _outliers(generator: torch.Generator) -> tuple[Any, ...]:
    images = torch.randn(3, 1, 24, 10, 11, generator=generator)
    images[:, 0, 3, 4, 5], images[:, 0, 20, 0, 0] = 1e30, -1e30
    return images, [[contrast(0.8), gamma(0.8)], [brightness(1.2), gamma(0.7, invert=True)], [blur([0.6] * 3)]]


def _bfloat16(generator: torch.Generator) -> tuple[Any, ...]:
    return torch.randn(1, 1, 20, 20, generator=generator).bfloat16(), [[gamma(0.8), noise()]]


def _traffic(*shape: int) -> int:
    return 2 * 4 * math.prod(shape)


_LARGE_OFFSET = "statistics and curves of values that float32 holds to 6e-8 of 10^4"

CASES = [
    _case("noise", (2, 2, 5, 7, 11), [noise(0.5, 2**64 - 1)], [noise(0.1, 0)]),
    _case("noise 2d", (1, 1, 64, 64), [noise(1.0, 12345678901)]),
    _case("blur", (2, 1, 9, 10, 13), [blur([0.5, 0.7, 1.0])], [blur([0.0, 1.5, 0.4])]),
    _case("blur wide", (2, 1, 7, 21, 6), [blur([0.0, 2.5, 0.3])], [blur([3.0, 0.0, 0.0])]),
    _case("blur of single voxels", (1, 2, 1, 1, 2), [blur([1, 0.5, 0.5], [0, 0, 0.8])]),
    _case("brightness", (1, 3, 4, 5, 6), [brightness(0.5, 1, -2)]),
    _case("contrast", (3, 2, 6, 5, 7), [contrast(0.7, 1.4)], [contrast(1.5, 0.9, about="zero")], [], probe=True),
    _case("contrast twice", (2, 1, 40, 41), [contrast(1.4), contrast(0.7), contrast(1.2, about="zero")], [contrast(0)]),
    _case(
        "low resolution",
        (2, 2, 10, 12, 9),
        [low_resolution([0.6] * 3, [1, 0.5, 0.8])],
        [low_resolution(*[[1] * 3] * 2)],
    ),
    _case("low resolution to the end", (1, 1, 17, 33, 20), [low_resolution([0.05, 0.3, 0.01])]),
    _case("low resolution 2d", (1, 1, 40, 31), [low_resolution([0.55, 0.73])]),
    _case(
        "gamma",
        (4, 2, 9, 8, 7),
        *[[gamma(0.7, 1.5, invert=i, keep_stats=k)] for i in (False, True) for k in (False, True)],
    ),
    _case(
        "gamma twice", (2, 1, 55, 40), [gamma(0.8, invert=True), gamma(1.3)], [gamma(1.3, keep_stats=False), gamma(0.7)]
    ),
    _case("whole chain", (1, 2, 12, 14, 13), whole_chain(2, 3), probe=True),
    _case("whole chain 2d", (2, 1, 35, 70), whole_chain(1, 2), [contrast(1.2), *whole_chain(1, 2)], probe=True),
    _case(
        "zero between others",
        (2, 2, 20, 20),
        [noise(), contrast(1.3, 1.1, about="zero"), gamma(1.2, 0.8)],
        [blur([1, 1], [0, 0])],
    ),
    _case("single voxels", (1, 2, 1, 1), whole_chain(2, 2)),
    _case("no sample", (0, 1, 4, 4)),
    _case("no channel", (1, 0, 4, 4), []),
    _case("large offset", (1, 1, 12, 16, 15), [contrast(1.2), gamma(0.8)], offset=1e4, why=_LARGE_OFFSET),
    _case("tiny values", (1, 1, 30, 30), [contrast(0.8), brightness(2.0)], scale=1e-20),
    Case("strided", "intensity_chain", _strided),
    Case("nan", "intensity_chain", _with_nan),
    Case("constant", "intensity_chain", _constant),
    Case("outliers", "intensity_chain", _outliers),
    Case("bfloat16", "intensity_chain", _bfloat16, tolerance=0.004, why="rounded once to 8 bits"),
    _case(
        "v2 chain",
        (2, 1, 64, 64, 64),
        whole_chain(1, 3),
        whole_chain(1, 3, 8),
        recipe="nnU-Net 3D, all steps drawn",
        traffic=_traffic(2, 1, 64, 64, 64),
    ),
    _case(
        "v2 chain small",
        (2, 1, 40, 56, 40),
        whole_chain(1, 3),
        [gamma(1.2)],
        recipe="nnU-Net 3D, hippocampus",
        traffic=_traffic(2, 1, 40, 56, 40),
    ),
    _case(
        "v2 chain large",
        (1, 1, 128, 128, 128),
        whole_chain(1, 3)[1:],
        recipe="nnU-Net 3D, 128^3 without noise",
        traffic=_traffic(1, 1, 128, 128, 128),
    ),
    _case(
        "v2 chain 2d",
        (12, 1, 192, 160),
        *[whole_chain(1, 2, s) for s in range(12)],
        recipe="nnU-Net 2D",
        traffic=_traffic(12, 1, 192, 160),
    ),
]
