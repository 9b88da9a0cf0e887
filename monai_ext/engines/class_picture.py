"""Picture of a classifier's validation: images with their class and the predicted one, confusion matrix beside."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from monai.utils.enums import CommonKeys

from monai_ext.engines.class_scores import ClassScores
from monai_ext.evaluation.classification_scores import class_probabilities, confusion_matrix, label_counts
from monai_ext.evaluation.confusion_picture import compose_confusion
from monai_ext.evaluation.image_grid import RIGHT, WRONG, compose_image_grid, displayed, side_by_side
from monai_ext.planning.class_plan import ClassPlan


class ClassPicture:
    """Keeps the first validation images of every class, and all decisions; a `ValidationPicture`.

    Of several processes the first draws: images of its own, the decisions of all that are in `scores`.

    Args:
        plan: classes and normalisation.
        num_images: drawn at most; every class gets its share, in the order of the cases.
        threshold: of multi-label decisions.
        scores: of the same validation, which know the cases of all processes; None: this process has all.
    """

    def __init__(
        self, plan: ClassPlan, num_images: int = 24, threshold: float = 0.5, scores: ClassScores | None = None
    ) -> None:
        self.plan = plan
        self.scores = scores
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
        logits, labels = self._decided()
        probabilities = self._probabilities(logits)
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

    def _decided(self) -> tuple[torch.Tensor, np.ndarray]:
        """Logits `[N, K]` and labels `[N, 1]` or `[N, K]` of all cases."""
        of_all = None if self.scores is None else self.scores.of_all
        if of_all is not None:
            return torch.from_numpy(of_all[0]), of_all[1]
        logits, labels = zip(*self._outputs, strict=True)
        return torch.cat(logits), torch.cat(labels).cpu().numpy()

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
