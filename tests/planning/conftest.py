"""Fingerprints made by hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from monai_ext.planning.fingerprint import CaseFingerprint, Fingerprint
from monai_ext.planning.plan import ChannelIntensity

MakeFingerprint = Callable[..., Fingerprint]


def fingerprint_of(
    shapes: Sequence[Sequence[int]],
    spacings: Sequence[Sequence[float]],
    channels: Sequence[str] = ("MRI",),
    num_classes: int = 3,
    median_relative_size: float = 1.0,
    crop: str = "nonzero",
) -> Fingerprint:
    cases = tuple(
        CaseFingerprint(f"case_{i:03}", tuple(shape), tuple(shape), tuple(spacing), (1,) * num_classes)
        for i, (shape, spacing) in enumerate(zip(shapes, spacings, strict=True))
    )
    return Fingerprint(
        dataset="synthetic",
        channels=tuple(channels),
        labels={f"class {i}": i for i in range(num_classes)},
        ignore_label=None,
        crop=crop,
        cases=cases,
        median_relative_size=median_relative_size,
        intensity=tuple(ChannelIntensity(10.0, 2.0, 10.0, 0.0, 20.0, 4.0, 16.0) for _ in channels),
    )


@pytest.fixture(scope="session")
def make_fingerprint() -> MakeFingerprint:
    return fingerprint_of
