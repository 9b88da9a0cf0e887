"""The inferer that belongs to the plan of an EM model."""

from __future__ import annotations

from collections.abc import Sequence

from monai.inferers import Inferer

from monai_ext.errors import InputError
from monai_ext.inferers.resized_inferer import ResizedInferer
from monai_ext.inferers.right_angle_inferer import RightAngleInferer
from monai_ext.inferers.valid_tile_inferer import ValidTileInferer
from monai_ext.planning.em_plan import EmPlan


def slice_inferer(
    plan: EmPlan,
    roi_size: Sequence[int] = (),
    sw_batch_size: int = 4,
    overlap: float = 0.25,
    blend: str = "gaussian",
    tta: bool = False,
    cpu_bfloat16: bool = False,
) -> Inferer:
    """Maps slices `[B, 1, H, W]` and the network to probabilities `[B, 2, h, w]`.

    Args:
        plan: of the model; its geometry decides how slices are brought to the network. Tiles give probabilities of the
            size of the slice, resized slices of the size of the network's output.
        roi_size, sw_batch_size, overlap, blend: see `ValidTileInferer`; one number makes a square.
        tta: average over flips and turns of 90 degrees.
        cpu_bfloat16: call the network in mixed precision on a CPU.
    """
    if len(roi_size) > 2:
        raise InputError(f"--roi_size {list(roi_size)}: must be one or two numbers, or empty. Cure: [572]")
    inferer: Inferer
    if plan.geometry == "resize":
        inferer = ResizedInferer(plan.input_size, plan.levels, cpu_bfloat16)
    else:
        size = tuple(roi_size) * 2 if len(roi_size) == 1 else tuple(roi_size)
        inferer = ValidTileInferer(size, plan.levels, sw_batch_size, overlap, blend, cpu_bfloat16)
    return RightAngleInferer(inferer, tta)
