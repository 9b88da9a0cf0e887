"""Raw files as network input, for evaluation and inference in original geometry."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from monai.utils.enums import CommonKeys
from torch.utils.data import Dataset

from monai_ext.datasets.image_files import read_image, read_label
from monai_ext.datasets.segmentation_dataset import Case
from monai_ext.errors import InputError
from monai_ext.planning.plan import Plan
from monai_ext.preprocessing.case_preprocessing import preprocess


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


def image_only(
    batch: dict[str, Any], device: torch.device | str | None = None, non_blocking: bool = False, **_: Any
) -> tuple[torch.Tensor, None]:
    """`prepare_batch` for raw cases: the reference stays in raw space on the CPU."""
    return batch[CommonKeys.IMAGE].to(device, non_blocking=non_blocking), None
