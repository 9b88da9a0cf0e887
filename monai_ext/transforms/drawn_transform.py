"""Bases of the random dictionary transforms: parameters are drawn first, then applied by a pure function."""

from __future__ import annotations

import warnings
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.transforms import MapTransform, Randomizable
from monai.utils import convert_to_dst_type
from monai.utils.misc import MAX_SEED

from monai_ext.errors import InputError
from monai_ext.ops.intensity_chain import Step, intensity_chain

Params = dict[str, Any]


def check_probability(owner: str, name: str, value: float) -> float:
    """Return `value` as float; raise `InputError` unless it is in [0, 1]."""
    if not 0.0 <= value <= 1.0:
        raise InputError(f"{owner}: {name} must be in [0, 1], found {value}. Cure: set {name} to a probability")
    return float(value)


def check_range(owner: str, name: str, value: Sequence[float], lowest: float = 0.0) -> tuple[float, float]:
    """Return `value` as (low, high); raise `InputError` unless `lowest <= low <= high`."""
    if len(value) != 2 or not lowest <= value[0] <= value[1]:
        raise InputError(
            f"{owner}: {name} must be two numbers, {lowest} <= low <= high, found {list(value)}. Cure: set [low, high]"
        )
    return float(value[0]), float(value[1])


def warn_does_nothing(owner: str, why: str, suggestion: str) -> None:
    """Tell the person that a transform as configured never changes anything."""
    warnings.warn(f"{owner} does nothing: {why}. {suggestion}, or remove the transform", UserWarning, stacklevel=3)


class OwnState(Randomizable):
    """Randomizable that seeds its own generator in place: 2 microseconds instead of 90 for a new one."""

    _owns_state = False

    def set_random_state(self, seed: int | None = None, state: np.random.RandomState | None = None) -> OwnState:
        """As in MONAI, with the same draws afterwards; a generator handed over as `state` is never reseeded."""
        if seed is not None and self._owns_state:
            self.R.seed(int(seed) % MAX_SEED)
            return self
        super().set_random_state(seed, state)
        self._owns_state = state is None
        return self


class DrawnTransform(OwnState, MapTransform):
    """Draws once per sample and applies the same parameters to every key.

    `randomize` writes a JSON-able dict to `self.params`, empty if the transform is not drawn; `apply` depends on its
    arguments only and leaves the input tensor as it was. All randomness comes from `self.R`, so `set_random_state`
    before a sample fixes what happens to it, whatever ran before.

    Args:
        keys: entries of the sample to transform, tensors `[C, *spatial]`; their spatial shapes are equal, and where
            parameters are drawn per channel their channel numbers too.
        prob: chance that the transform is drawn.
        allow_missing_keys: skip keys that a sample lacks instead of raising.
    """

    def __init__(self, keys: str | Sequence[str], prob: float, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.prob = check_probability(type(self).__name__, "prob", prob)
        self.params: Params = {}
        if self.prob == 0:
            warn_does_nothing(type(self).__name__, "prob is 0", "Set a prob above 0")

    def draw(self, image: torch.Tensor) -> Params:
        """Draw the parameters for a tensor like `image` (`[C, *spatial]`; shape only); called if the coin says so."""
        raise NotImplementedError

    def apply(self, image: torch.Tensor, params: Params) -> torch.Tensor:
        """Return the transformed `image` (`[C, *spatial]`); a function of its arguments only."""
        raise NotImplementedError

    def apply_to_key(self, key: Hashable, image: torch.Tensor, params: Params) -> torch.Tensor:
        """As `apply`, for transforms that treat keys differently (interpolation of images and labels)."""
        return self.apply(image, params)

    def randomize(self, data: torch.Tensor) -> None:
        """Toss the coin and draw `self.params`."""
        self.params = self.draw(data) if self.R.random_sample() < self.prob else {}

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        sample = dict(data)
        present = {key: _as_tensor(sample[key]) for key in self.key_iterator(sample)}
        if not present:
            return sample
        self.randomize(next(iter(present.values())))
        if self.params:
            sample.update({key: self.apply_to_key(key, image, self.params) for key, image in present.items()})
        return sample


class IntensityTransform(DrawnTransform):
    """Changes values only, by one step of the op `intensity_chain`; `FusedCompose` runs neighbours as one chain."""

    def step(self, image: torch.Tensor, params: Params) -> Step:
        """The step that `params` mean for a tensor like `image` (`[C, *spatial]`; shape only)."""
        raise NotImplementedError

    def apply(self, image: torch.Tensor, params: Params) -> torch.Tensor:
        return run_steps(image, [self.step(image, params)])


def run_steps(image: torch.Tensor, steps: Sequence[Step]) -> torch.Tensor:
    """Run steps of the op `intensity_chain` on one image (`[C, *spatial]` floating point, 2 or 3 axes); a new tensor.

    A subclass such as `MetaTensor` keeps its type and what it carries.
    """
    out = intensity_chain(image.as_subclass(torch.Tensor)[None], [steps])[0]
    return out if type(image) is torch.Tensor else convert_to_dst_type(out, image)[0]


def rows_of_channels(params: Params, name: str, image: torch.Tensor, rest: float) -> list[list[float]]:
    """One row of values (one per axis) for each channel of `image` (`[C, *spatial]`).

    The channels drawn, `params["channels"]`, have those of `params[name]`, the others `rest` throughout.
    """
    drawn = dict(zip(params["channels"], params[name], strict=True))
    return [drawn.get(c, [rest] * (image.ndim - 1)) for c in range(image.shape[0])]


def _as_tensor(value: Any) -> torch.Tensor:
    return value if isinstance(value, torch.Tensor) else torch.as_tensor(value)
