"""Gamma curves on the image or its negative."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from monai_ext.transforms.drawn_transform import DrawnTransform, Params, check_range, warn_does_nothing
from monai_ext.transforms.factor_law import check_law, draw_factors

_TINY = 1e-7  # keeps a constant channel constant


def gamma_curve(channel: torch.Tensor, gamma: float, invert: bool, keep_stats: bool) -> torch.Tensor:
    """Map `channel` (`[*spatial]`) to `t ** gamma`, t running from 0 to 1 between its minimum and maximum.

    With `invert`, t runs from 1 to 0, so that the bright end is spread instead of the dark one. Afterwards the old
    range is restored, or with `keep_stats` the old mean and standard deviation.
    """
    low, high = (float(x) for x in torch.aminmax(channel))
    span = max(high - low, _TINY)
    start, sign = (high, -1.0) if invert else (low, 1.0)
    # rounding may give a t of -1e-8, whose logarithm is NaN; 0 stays 0 through -inf
    curve = ((channel - start).mul_(sign / span)).clamp_(0, 1).log_().mul_(gamma).exp_()
    if not keep_stats:
        return curve.mul_(sign * (high - low)).add_(start)
    mean, new_mean = float(channel.mean()), float(curve.mean())
    # norms of the centred values: eight times faster than torch.std on a CPU
    new_std = float(torch.linalg.vector_norm(curve.sub_(new_mean)))
    ratio = float(torch.linalg.vector_norm(channel - mean)) / max(new_std, _TINY)
    return curve.mul_(sign * ratio).add_(mean)


class RandGammad(DrawnTransform):
    """Apply a random gamma curve to every channel.

    Args:
        keys: images `[C, *spatial]`.
        prob: chance per sample.
        gamma: range of the exponent.
        law: `coin_flip` (below or above 1 with equal chance, nnU-Net v2) or `uniform`.
        invert: work on the negative of the image.
        keep_stats: restore mean and standard deviation of each channel instead of its range.
        per_channel: another exponent for every channel.
        allow_missing_keys: skip keys that a sample lacks.

    Raises:
        InputError: an argument is out of bounds.
    """

    def __init__(
        self,
        keys: str | Sequence[str] = "image",
        prob: float = 0.3,
        gamma: Sequence[float] = (0.7, 1.5),
        law: str = "coin_flip",
        invert: bool = False,
        keep_stats: bool = True,
        per_channel: bool = True,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, prob, allow_missing_keys)
        self.gamma = check_range("RandGammad", "gamma", gamma, lowest=1e-3)
        self.law = check_law("RandGammad", law)
        self.invert = invert
        self.keep_stats = keep_stats
        self.per_channel = per_channel
        if self.gamma == (1.0, 1.0):
            warn_does_nothing("RandGammad", "gamma is 1", "Set gamma to e.g. [0.7, 1.5]")

    def draw(self, image: torch.Tensor) -> Params:
        gammas = draw_factors(self.R, *self.gamma, self.law, image.shape[0], self.per_channel)
        return {"gammas": gammas, "invert": self.invert, "keep_stats": self.keep_stats}

    def apply(self, image: torch.Tensor, params: Params) -> torch.Tensor:
        invert, keep = params["invert"], params["keep_stats"]
        return torch.stack([gamma_curve(x, g, invert, keep) for x, g in zip(image, params["gammas"], strict=True)])
