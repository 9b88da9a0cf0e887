"""What every dataset reader returns: names, channels, labels and the files of each case."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Case:
    """One subject or scan. `images` is one file with all channels, or one file per channel in channel order."""

    name: str
    images: tuple[Path, ...]
    label: Path | None = None


@dataclass(frozen=True)
class SegmentationDataset:
    """A raw dataset on disk; nothing is loaded yet.

    Attributes:
        name: dataset name, used in folder names.
        root: folder that holds `dataset.json`.
        channels: modality of each channel, e.g. `("MRI",)` or `("FLAIR", "T1w")`.
        labels: class name to integer value, background 0 included; values are consecutive from 0.
        training: labelled cases, sorted by name.
        test: cases without labels, sorted by name.
        spatial_dims: 3 for volumes, 2 for images.
        ignore_label: value of unannotated voxels, None if every voxel is annotated.
    """

    name: str
    root: Path
    channels: tuple[str, ...]
    labels: dict[str, int]
    training: tuple[Case, ...]
    test: tuple[Case, ...] = ()
    spatial_dims: int = 3
    ignore_label: int | None = None

    @property
    def foreground_classes(self) -> dict[str, int]:
        """Class name to value, without background and ignore label."""
        return {n: v for n, v in self.labels.items() if v != 0 and v != self.ignore_label}
