"""Picture of a classifier's validation: images with their class and the predicted one, confusion matrix beside."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from monai.utils.enums import CommonKeys

from monai_ext.evaluation.classification_scores import class_probabilities, confusion_matrix, label_counts
from monai_ext.evaluation.confusion_picture import compose_confusion
from monai_ext.evaluation.image_grid import RIGHT, WRONG, compose_image_grid, displayed, side_by_side
from monai_ext.planning.class_plan import ClassPlan


class ClassPicture:
    """Keeps the first validation images of every class, and all decisions; a `ValidationPicture`.

    Args:
        plan: classes and normalisation.
        num_images: drawn at most; every class gets its share, in the order of the cases.
        threshold: of multi-label decisions.
    """

    def __init__(self, plan: ClassPlan, num_images: int = 24, threshold: float = 0.5) -> None:
        self.plan = plan
        self.num_images = num_images
        self.threshold = threshold
        self.forget()

    def forget(self) -> None:
        self._images: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        self._kept = np.zeros(self.plan.num_classes + 1, dtype=int)  # the last: of no class
        self._outputs: list[tuple[torch.Tensor, torch.Tensor]] = []

    def keep(self, output: dict[str, Any]) -> None:
        logits = torch.as_tensor(output[CommonKeys.PRED]).detach().to(torch.float32, copy=True)
        labels = torch.as_tensor(output[CommonKeys.LABEL]).detach().clone().reshape(len(logits), -1)
        self._outputs.append((logits, labels))
        if len(self._images) >= self.num_images:
            return  # without reading from the device
        share = max(1, self.num_images // self.plan.num_classes)
        for image, given, label in zip(output[CommonKeys.IMAGE], logits, labels.cpu(), strict=True):
            kind = self._kind(label)
            if len(self._images) < self.num_images and self._kept[kind] < share:
                self._kept[kind] += 1
                shown = displayed(torch.as_tensor(image).float().cpu().numpy(), self.plan.mean, self.plan.std)
                self._images.append((shown, self._probabilities(given[None])[0], label.numpy()))

    def _kind(self, label: torch.Tensor) -> int:
        if not self.plan.multi_label:
            return int(label[0])
        present = label.nonzero().flatten().tolist()
        return min(present, key=lambda k: self._kept[k], default=self.plan.num_classes)

    def _probabilities(self, logits: torch.Tensor) -> np.ndarray:
        return class_probabilities(np.nan_to_num(logits.cpu().numpy()), self.plan.multi_label)

    def compose(self, title: str = "") -> np.ndarray | None:
        if not self._outputs:
            return None
        probabilities = self._probabilities(torch.cat([logits for logits, _ in self._outputs]))
        labels = torch.cat([labels for _, labels in self._outputs]).cpu().numpy()
        multi_label, classes = self.plan.multi_label, self.plan.classes
        if multi_label:
            matrix = label_counts(labels, probabilities >= self.threshold)
        else:
            matrix = confusion_matrix(labels[:, 0], probabilities.argmax(1), len(classes))
        confusion = compose_confusion(matrix, classes, title or "validation", multi_label)
        if not self._images:
            return confusion
        order = sorted(range(len(self._images)), key=lambda i: self._images[i][2].tolist())
        drawn = [(self._images[i][0], *self._caption(*self._images[i][1:])) for i in order]
        images, captions, right = zip(*drawn, strict=True)
        grid = compose_image_grid(images, captions, [RIGHT if r else WRONG for r in right])
        return side_by_side([grid, confusion])

    def _caption(self, probabilities: np.ndarray, label: np.ndarray) -> tuple[list[str], bool]:
        """Lines under an image, and whether the decision is right."""
        names = self.plan.classes
        if self.plan.multi_label:
            chosen, given = probabilities >= self.threshold, label > 0.5
            found = " + ".join(name for name, c in zip(names, chosen, strict=True) if c) or "none"
            wanted = " + ".join(name for name, g in zip(names, given, strict=True) if g) or "none"
            return [found, f"is {wanted}"], bool((chosen == given).all())
        best = int(probabilities.argmax())
        right = best == int(label[0])
        first = f"{names[best]} {100 * probabilities[best]:.0f} %"
        return [first, "" if right else f"is {names[int(label[0])]}"], right
