"""All changes of values that pictures of cells and tissue are trained with, as one transform."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from monai_ext.errors import InputError
from monai_ext.transforms.brightness import RandBrightnessd
from monai_ext.transforms.contrast import RandContrastd
from monai_ext.transforms.drawn_transform import check_probability, check_range, warn_does_nothing
from monai_ext.transforms.fused_chain import FusedCompose
from monai_ext.transforms.gamma import RandGammad
from monai_ext.transforms.gaussian_blur import RandBlurd
from monai_ext.transforms.gaussian_noise import RandNoised
from monai_ext.transforms.invert import RandInvertd
from monai_ext.transforms.stain_jitter import RandStainJitterd


class RandPictureIntensityd(FusedCompose):
    """Stains, inversion, blur, brightness, contrast, gamma and noise, each with its own chance, in this order.

    Channels are changed alike, so that hues stay but for the stains; noise is independent per channel. Parts that are 0
    are left out. Brightness and contrast are factors of [1 - jitter, 1 + jitter], gamma exponents of
    [1 - jitter, 1 / (1 - jitter)]; each is below 1 as often as above.

    Args:
        keys: images `[C, H, W]` float32 of 0 to 1.
        jitter: largest change of brightness, contrast and gamma, in [0, 0.9].
        jitter_prob: chance of each of the three.
        blur_prob: chance of a Gaussian blur.
        blur_sigma: range of its sigma in pixels.
        noise_prob: chance of Gaussian noise.
        noise_std: range of its deviation.
        invert_prob: chance that light and dark change places.
        stain: largest change of stains (`RandStainJitterd`), in [0, 1]; 0 for none.
        stain_prob: its chance.

    Raises:
        InputError: an argument is out of bounds.
    """

    def __init__(
        self,
        keys: str | Sequence[str] = "image",
        jitter: float = 0.3,
        jitter_prob: float = 0.5,
        blur_prob: float = 0.1,
        blur_sigma: Sequence[float] = (0.5, 1.5),
        noise_prob: float = 0.1,
        noise_std: Sequence[float] = (0.0, 0.05),
        invert_prob: float = 0.0,
        stain: float = 0.0,
        stain_prob: float = 0.5,
    ) -> None:
        name = type(self).__name__
        if not 0 <= jitter <= 0.9:
            raise InputError(f"{name}: jitter must be in [0, 0.9], found {jitter}. Cure: 0.3")
        chances = {
            "jitter_prob": jitter_prob,
            "blur_prob": blur_prob,
            "noise_prob": noise_prob,
            "invert_prob": invert_prob,
            "stain_prob": stain_prob,
        }
        for argument, value in chances.items():
            check_probability(name, argument, value)
        check_range(name, "blur_sigma", blur_sigma)
        check_range(name, "noise_std", noise_std)
        parts: list[Callable] = []
        if stain and stain_prob:
            parts.append(RandStainJitterd(keys, stain_prob, stain))
        if invert_prob:
            parts.append(RandInvertd(keys, invert_prob))
        if blur_prob and blur_sigma[1]:
            parts.append(RandBlurd(keys, blur_prob, blur_sigma, per_axis=False))
        if jitter and jitter_prob:
            factor = (1 - jitter, 1 + jitter)
            parts.append(RandBrightnessd(keys, jitter_prob, factor, per_channel=False))
            parts.append(RandContrastd(keys, jitter_prob, factor, per_channel=False))
            gamma = (1 - jitter, 1 / (1 - jitter))
            parts.append(RandGammad(keys, jitter_prob, gamma, keep_stats=False, per_channel=False))
        if noise_prob and noise_std[1]:
            parts.append(RandNoised(keys, noise_prob, noise_std))
        if not parts:
            warn_does_nothing(name, "all parts are 0", "Set jitter to e.g. 0.3")
        super().__init__(parts)
