"""What a training step of a detector learns from."""

from __future__ import annotations

from dataclasses import dataclass, field

from monai_ext.errors import InputError
from monai_ext.networks.mask_rcnn.proposals import ProposalLimits


@dataclass(frozen=True)
class TrainingRules:
    """Which examples are drawn, and how they count.

    Attributes:
        rpn_batch, rpn_positive: anchors drawn from an image, largest share of positives.
        rpn_high, rpn_low: overlaps from which an anchor is positive, and below which it is negative.
        proposals: that a step starts from.
        roi_batch, roi_positive: regions drawn from an image, largest share of positives.
        roi_threshold: overlap from which a region is positive.
        mask_batch: most positives of an image that the mask head learns from; 0: all.
        rpn_beta, box_beta: of the smooth L1 losses; 0 is L1.

    Raises:
        InputError: `rpn_low` is above `rpn_high`.
    """

    rpn_batch: int = 256
    rpn_positive: float = 0.5
    rpn_high: float = 0.7
    rpn_low: float = 0.3
    proposals: ProposalLimits = field(default_factory=ProposalLimits)
    roi_batch: int = 512
    roi_positive: float = 0.25
    roi_threshold: float = 0.5
    mask_batch: int = 0
    rpn_beta: float = 0.0
    box_beta: float = 0.0

    def __post_init__(self) -> None:
        if self.rpn_low > self.rpn_high:
            raise InputError(
                f"--rpn_low {self.rpn_low:g} is above --rpn_high {self.rpn_high:g}: an anchor would be positive and "
                "negative. Cure: 0.3 and 0.7"
            )
