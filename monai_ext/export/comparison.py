"""Whether an exported file computes what the network does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from monai_ext.errors import InputError

Runner = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Comparison:
    """Differences of outputs.

    Attributes:
        max_difference: largest absolute difference; of label maps the share of labels that differ.
        mean_difference: mean absolute difference; of label maps the same share.
        agreement: share of inputs, of segmentations of voxels, with the same largest output along axis 1; of label
            maps the share of equal labels.
        largest: absolute value of the network's outputs.
    """

    max_difference: float
    mean_difference: float
    agreement: float
    largest: float


def compare(expected: Runner, found: Runner, batches: Sequence[torch.Tensor]) -> Comparison:
    """Run both on every batch `[B, ...]`; batches of different sizes show whether the batch size is free."""
    differences, agree, largest = [], [], 0.0
    for batch in batches:
        with torch.no_grad():
            one, other = expected(batch).detach().cpu(), found(batch).detach().cpu()
        if one.shape != other.shape:
            raise InputError(
                f"exported network: output has shape {tuple(other.shape)} for an input of {tuple(batch.shape)}, the "
                f"network gives {tuple(one.shape)}. Cure: a network whose forward does not depend on the batch size"
            )
        if not one.is_floating_point():
            equal = one == other
            agree.append(equal.flatten())
            differences.append((~equal).float().mean().flatten())
            continue
        one, other = one.float(), other.float()
        # not a number is as far as can be
        differences.append((one - other).abs().nan_to_num(nan=float("inf")).flatten())
        agree.append((one.argmax(1) == other.argmax(1)).flatten())
        largest = max(largest, float(one.abs().max()))
    difference, agreement = torch.cat(differences), torch.cat(agree).float().mean()
    return Comparison(float(difference.max()), float(difference.mean()), float(agreement), largest)


def require_near(name: str, comparison: Comparison, tolerance: float, mean: bool = False) -> None:
    """Raise where a file is further from its network than it may be: the largest difference, or the mean one.

    Raises:
        InputError: naming the file, the difference and the tolerance.
    """
    found, kind = (comparison.mean_difference, "mean") if mean else (comparison.max_difference, "largest")
    if found > tolerance:
        raise InputError(
            f"{name}: differs from the network by {found:.3g} ({kind}), allowed are {tolerance:.3g}; the same class "
            f"for {100 * comparison.agreement:.0f} % of the test inputs. Cure: another format, or a larger tolerance "
            "if this is accurate enough"
        )
