"""Images of an instance segmentation: from the file to the network's pixels, with the values that its plan says."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from monai_ext.datasets.file_picture import EIGHT_BIT
from monai_ext.datasets.picture import open_picture
from monai_ext.planning.instance_plan import InstancePlan
from monai_ext.transforms.box_resize import resize_box

MOST_VALUES = 2**22  # percentiles of more values than these are those of every n-th one


def read_image(path: str | Path, channels: int) -> torch.Tensor:
    """All of a picture: `[C, H, W]`, uint8 for pictures of 8 bits, else float32 of the file's values.

    Args:
        path: PNG, JPEG, TIFF or whatever else `open_picture` reads.
        channels: 1 or 3; grey and colours are converted into each other.

    Raises:
        InputError: the file is missing, damaged, or no picture of these channels.
    """
    picture = open_picture(path, channels)
    return picture.crop_resized((0, 0, *picture.size), picture.size)


def read_plan_image(path: str | Path, plan: InstancePlan) -> torch.Tensor:
    """As `read_image`, in values that `unit_limits` of the plan can be applied to.

    Percentiles fit any values. With `value_range` (0, 255), 16-bit pictures are scaled from 0..65535 to it; with
    another `value_range`, 8-bit pictures are scaled to it and others taken as they are.

    Raises:
        InputError: as `read_image`.
    """
    picture = open_picture(path, plan.channels)
    image = picture.crop_resized((0, 0, *picture.size), picture.size)
    if plan.normalisation == "percentile":
        return image
    low, high = plan.value_range
    if (low, high) == EIGHT_BIT:
        if image.dtype != torch.uint8 and picture.full_range is not None:
            image = image * (EIGHT_BIT[1] / picture.full_range[1])
        return image
    return image.float().mul_((high - low) / EIGHT_BIT[1]).add_(low) if image.dtype == torch.uint8 else image


def unit_limits(image: torch.Tensor, plan: InstancePlan) -> tuple[float, float]:
    """The values of an image `[C, H, W]` that become 0 and 1: percentiles of all its channels, or the plan's range.

    An image of one value has no range; it becomes 0 then.
    """
    if plan.normalisation == "range":
        return float(plan.value_range[0]), float(plan.value_range[1])
    low, high = percentiles(image, plan.percentiles)
    return (low, high) if high > low else (low, low + 1)


def percentiles(image: torch.Tensor, shares: Sequence[float]) -> tuple[float, ...]:
    """Percentiles of all values, interpolated linearly; of every n-th value of images beyond 4 million.

    Values that are no numbers do not count; of an image without numbers all percentiles are 0.

    Args:
        image: `[C, H, W]`.
        shares: 0 to 100.
    """
    if image.dtype == torch.uint8:  # exact, and a hundred times as fast as sorting
        counts = torch.bincount(image.reshape(-1), minlength=256).numpy()
        places = np.asarray(shares, dtype=np.float64) / 100 * max(int(counts.sum()) - 1, 0)
        reached = np.cumsum(counts)
        below = np.searchsorted(reached, np.floor(places), side="right")
        above = np.searchsorted(reached, np.ceil(places), side="right")
        return tuple((below + (above - below) * (places - np.floor(places))).tolist())
    values = image.reshape(-1)
    values = values[:: -(-values.numel() // MOST_VALUES)] if values.numel() else values
    numbers = values.numpy()[np.isfinite(values.numpy())]
    return tuple(np.percentile(numbers, shares).tolist()) if numbers.size else (0.0,) * len(shares)


def to_unit(image: torch.Tensor, limits: tuple[float, float]) -> torch.Tensor:
    """Map the limits to 0 and 1 and clamp what is beyond them; new float32 `[C, H, W]`, 0 where there is no number."""
    low, high = limits
    out = image.to(torch.float32, copy=True)
    if image.is_floating_point():
        out.nan_to_num_(nan=low, posinf=high, neginf=low)
    return out.sub_(low).mul_(1 / (high - low)).clamp_(0, 1)


def normalise(image: torch.Tensor, plan: InstancePlan) -> torch.Tensor:
    """Subtract the mean of the plan and divide by its deviation, in place; `[C, H, W]` float32 of 0 to 1."""
    mean, std = (torch.tensor(values, dtype=torch.float32).view(-1, 1, 1) for values in (plan.mean, plan.std))
    return image.sub_(mean).div_(std)


def network_size(size: Sequence[int], plan: InstancePlan) -> tuple[int, int]:
    """(height, width) in network pixels of an image of (height, width), before padding; at least 1."""
    factor = network_factor(size, plan)
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))


def network_factor(size: Sequence[int], plan: InstancePlan) -> float:
    """Network pixels per pixel of an image of (height, width), before rounding to whole pixels."""
    if plan.resize == "scale":
        return plan.scale
    return min(plan.image_size[0] / size[0], plan.image_size[1] / size[1])


def scaled_to_network(image: torch.Tensor, plan: InstancePlan) -> tuple[torch.Tensor, float, float]:
    """Bring a whole image to the network's pixels and values.

    Args:
        image: `[C, H, W]` as `read_plan_image` gives it.
        plan: of the model.

    Returns:
        `[C, h, w]` float32, normalised, not padded; and network pixels per image pixel along y and x (after rounding
        to whole pixels, so that boxes divided by them are exact).
    """
    size = network_size(image.shape[1:], plan)
    unit = to_unit(image, unit_limits(image, plan))
    out = normalise(resize_box(unit, (0, 0, *image.shape[1:]), size), plan)
    return out, size[0] / image.shape[1], size[1] / image.shape[2]
