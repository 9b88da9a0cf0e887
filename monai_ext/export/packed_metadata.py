"""`metadata.json` of a packed bundle: channels, sizes and classes of its own plan instead of the default plan's."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np

from monai_ext.planning.valid_sizes import smallest_input_size, valid_output_size


def metadata_of_model(metadata: Mapping[str, Any], bundle: str, plan: Any) -> dict[str, Any]:
    """The bundle's metadata with what MONAI and its readers take from it set to the model's plan.

    Args:
        metadata: of the bundle.
        bundle: its name.
        plan: of the model.
    """
    content = copy.deepcopy(dict(metadata))
    formats = content["network_data_format"]
    image, pred = formats["inputs"]["image"], formats["outputs"]["pred"]
    {"nnunet": _nnunet, "unet_em": _unet_em, "se_resnext101": _se_resnext101, "mask_rcnn": _mask_rcnn}[bundle](
        plan, image, pred
    )
    content["data_source"] = f"Trained on {plan.dataset}."
    return content


def _nnunet(plan: Any, image: dict[str, Any], pred: dict[str, Any]) -> None:
    image["num_channels"], image["modality"] = plan.num_channels, ", ".join(plan.channels)
    image["channel_def"] = {str(number): name for number, name in enumerate(plan.channels)}
    names = {value: name for name, value in plan.labels.items()}
    values = sorted(value for value in names if value != plan.ignore_label)
    pred["num_channels"] = plan.num_classes
    pred["channel_def"] = {
        str(number): "background" if value == 0 else names[value] for number, value in enumerate(values)
    }
    factors = np.prod(plan.strides, axis=0)
    sizes = []
    for factor, edge in zip(factors.tolist(), plan.patch_size, strict=True):
        # instance norm refuses a single voxel in the bottleneck, which n = 1 of `factor*n` would leave
        sizes.append(f"{2 * factor if edge >= 2 * factor else edge}*n")
    image["spatial_shape"], pred["spatial_shape"] = sizes, list(sizes)


def _unet_em(plan: Any, image: dict[str, Any], pred: dict[str, Any]) -> None:
    step, smallest = 2**plan.levels, smallest_input_size(plan.levels)
    given = smallest if plan.levels < 4 else smallest + step
    outputs = valid_output_size(given, plan.levels)
    image["spatial_shape"] = [f"{step}*n+{given - step}"] * 2
    pred["spatial_shape"] = [f"{step}*n{outputs - step:+d}"] * 2


def _se_resnext101(plan: Any, image: dict[str, Any], pred: dict[str, Any]) -> None:
    image["num_channels"], image["spatial_shape"] = plan.channels, list(plan.image_size)
    image["channel_def"] = _colours(plan.channels)
    pred["num_channels"] = plan.num_classes
    pred["channel_def"] = {str(number): name for number, name in enumerate(plan.classes)}


def _mask_rcnn(plan: Any, image: dict[str, Any], pred: dict[str, Any]) -> None:
    image["num_channels"], image["spatial_shape"] = plan.channels, list(plan.image_size)
    image["channel_def"] = _colours(plan.channels)
    pixels = plan.mask_size**2
    pred["num_channels"] = 6 + pixels
    pred["channel_def"]["6"] = f"first of {pixels} mask probabilities"


def _colours(channels: int) -> dict[str, str]:
    names = {1: ("image",), 3: ("red", "green", "blue")}.get(channels, [f"channel {k}" for k in range(channels)])
    return {str(number): name for number, name in enumerate(names)}
