"""Export of the model that a training left, from the keys of its bundle."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from monai_ext.datasets.classification_dataset import ImageCase
from monai_ext.engines.calibration_file import calibration_beside
from monai_ext.engines.class_source import ClassSource, check_classes
from monai_ext.engines.picture_samples import WholePictures
from monai_ext.export.classifier import export_classifier
from monai_ext.export.comparison import Runner
from monai_ext.planning.class_plan import ClassPlan

CALIBRATION_IMAGES, SCORED_IMAGES, BATCH = 128, 512, 32
LARGEST_DROP = 0.01  # of accuracy, by rounding to 8 bits


class AgreementWithLabels:
    """Share of right decisions over images: of classes, or of all labels of all images.

    Args:
        cases: with their labels.
        plan: of the network.
        threshold: of labels that do not exclude one another.
    """

    def __init__(self, cases: Sequence[ImageCase], plan: ClassPlan, threshold: float = 0.5) -> None:
        self.pictures = WholePictures(cases, plan)
        self.multi_label = plan.multi_label
        self.threshold = threshold

    def __call__(self, run: Runner) -> float:
        """Score of a function from images `[B, C, *S]` to probabilities `[B, K]`."""
        right = total = 0
        for first in range(0, len(self.pictures), BATCH):
            samples = [self.pictures[i] for i in range(first, min(first + BATCH, len(self.pictures)))]
            found = run(torch.stack([sample["image"] for sample in samples])).cpu()
            labels = torch.stack([sample["label"] for sample in samples])
            equal = (found >= self.threshold) == (labels > 0.5) if self.multi_label else found.argmax(1) == labels
            right, total = right + int(equal.sum()), total + equal.numel()
        return right / max(1, total)


def export_model(
    network: nn.Module,
    plan: ClassPlan,
    ckpt_path: str,
    folder: str,
    export_format: str,
    quantize: str,
    symmetric: bool,
    source: ClassSource,
    threshold: float = 0.5,
) -> dict[str, Any]:
    """Write the files that `export_format` names into a folder and print what they are.

    Probabilities are calibrated by the temperature that lies beside the model. Files are compared with the network, and
    8-bit ranges taken, on evenly spaced training images; a file whose accuracy on validation images is more than a
    hundredth (of few images, three of them) below the network's is refused.

    Raises:
        InputError: a file differs from the network, or a package is missing; see `export_classifier`.
    """
    check_classes(source, ckpt_path, plan)
    pictures = WholePictures(_spread(source.cases("train"), CALIBRATION_IMAGES), plan)
    images = torch.stack([pictures[i]["image"] for i in range(len(pictures))])
    scored = _spread(source.cases("val"), SCORED_IMAGES)
    fitted = calibration_beside(ckpt_path)
    manifest = export_classifier(
        network,
        plan,
        folder,
        tuple(export_format.split("+")),
        images,
        quantize,
        symmetric,
        temperature=fitted.temperature if fitted is not None else 1.0,
        score=AgreementWithLabels(scored, plan, threshold),
        # of few images, three decisions more or less are chance
        max_score_drop=max(LARGEST_DROP, 3 / max(1, len(scored))),
    )
    print(f"network: accuracy {manifest['network_score']:.4f}")
    for artefact in manifest["artefacts"]:
        print(f"{artefact['file']}: accuracy {artefact['score']:.4f}, {Path(folder).resolve() / artefact['file']}")
    return manifest


def _spread(cases: Sequence[ImageCase], most: int) -> list[ImageCase]:
    """At most that many cases, evenly spaced."""
    return [cases[i] for i in range(0, len(cases), max(1, -(-len(cases) // most)))]
