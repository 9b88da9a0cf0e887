"""Raw files as network input, for evaluation and inference in original geometry."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from monai.utils.enums import CommonKeys
from torch.utils.data import Dataset

from monai_ext.datasets.image_files import read_image, read_label
from monai_ext.datasets.segmentation_dataset import Case
from monai_ext.errors import InputError
from monai_ext.planning.plan import Plan
from monai_ext.preprocessing.case_preprocessing import needs_resampling, preprocess, raw_grid

MOST_LOGITS = 2**30  # bytes


class RawVolumes(Dataset[dict[str, Any]]):
    """Reads and preprocesses one raw case per item, as the plan says.

    An item holds `image` `[C, d, h, w]` float32 in plan space, `case`, `geometry`, `placement` (the way back), and
    `reference` `[D, H, W]` in canonical raw space if the case has a label. A case that cannot be read becomes an item
    with `error`, so that one bad file does not cost the others.

    Args:
        data: the cases.
        plan: of the model.
    """

    def __init__(self, data: Sequence[Case], plan: Plan) -> None:
        self.data = list(data)
        self.plan = plan

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> dict[str, Any]:
        case = self.data[index]
        try:
            image, geometry = read_image(case.images)
            if image.shape[0] != self.plan.num_channels:
                raise InputError(
                    f"{case.images[0]}: has {image.shape[0]} channels, the model needs {self.plan.num_channels} "
                    f"({', '.join(self.plan.channels)}). Cure: give the channels in this order"
                )
            reference = read_label(case.label)[0] if case.label is not None else None
            stored, _, placement = preprocess(image, geometry, self.plan)
        except InputError as error:
            return {
                "case": case,
                "error": str(error),
                "image": torch.zeros(self.plan.num_channels, *self.plan.patch_size),
            }
        return {
            "image": torch.from_numpy(stored),
            "case": case,
            "geometry": geometry,
            "placement": placement,
            "reference": reference,
        }


def one_case(items: list[dict[str, Any]]) -> dict[str, Any]:
    """`collate_fn` for batches of one: the image gets its batch axis, everything else stays as it is."""
    (item,) = items
    return {**item, "image": item["image"][None]}


class CasePrediction:
    """`iteration_update` of the evaluator: predict one case, holding no more than its output needs.

    Where nobody asked for probabilities and the stored grid is the raw grid, windows are reduced to labels slab by
    slab, so that the logits of the whole volume (classes x voxels x 4 bytes) never exist. Elsewhere they, not labels,
    are what must be resampled: all at once if they are small, else slab by slab as well, straight to the raw grid.

    Args:
        plan: of the model.
        probabilities: keep logits in any case.
        most_logits: bytes of logits of one case that are kept if only labels are wanted.
    """

    def __init__(self, plan: Plan, probabilities: bool = False, most_logits: int = MOST_LOGITS) -> None:
        self.plan = plan
        self.probabilities = probabilities
        self.most_logits = most_logits

    def __call__(self, engine: Any, batch: dict[str, Any]) -> dict[str, torch.Tensor]:
        """Return `pred`: labels `[1, 1, d, h, w]` or logits `[1, K, d, h, w]`; nothing for an unreadable case."""
        if "error" in batch:
            return {}
        image = batch[CommonKeys.IMAGE].to(engine.state.device)
        device = torch.device(engine.state.device).type
        with engine.mode(engine.network), torch.autocast(device, enabled=engine.amp, **engine.amp_kwargs):
            return {CommonKeys.PRED: self._predict(engine, image, batch)}

    def _predict(self, engine: Any, image: torch.Tensor, batch: dict[str, Any]) -> torch.Tensor:
        predicted: torch.Tensor
        placement, geometry = batch["placement"], batch["geometry"]
        resampled = needs_resampling(placement, geometry, self.plan)
        if not self.probabilities and not resampled:
            predicted = engine.inferer.segment(image, engine.network)
        elif self.probabilities or math.prod(placement.stored_shape) * self.plan.num_classes * 4 <= self.most_logits:
            predicted = engine.inferer(image, engine.network)
        else:
            predicted = engine.inferer.segment_resampled(
                image, engine.network, *raw_grid(placement, geometry, self.plan)
            )
        return predicted
