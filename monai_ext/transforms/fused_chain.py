"""A `Compose` that runs neighbouring intensity transforms as one op."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import torch
from monai.transforms import Compose, MapTransform
from monai.transforms.compose import execute_compose

from monai_ext.transforms.drawn_transform import DrawnTransform, IntensityTransform, OwnState, run_steps


class FusedCompose(Compose, OwnState):  # type: ignore[misc]  # both return themselves
    """MONAI's `Compose`, faster: runs of `IntensityTransform` on one key are drawn one by one and computed at once.

    Every transform draws from its own random state in its turn and shows its `params` afterwards, as it would alone;
    the result is that of `Compose` up to rounding. All other transforms are called as they are, and so is everything
    where transforms are traced one by one (`log_stats`), copied (`threading`) or lazy.

    Args:
        transforms, map_items, unpack_items, log_stats, lazy, overrides: as in `Compose`.
    """

    _fused_from: tuple[Callable, ...] | None = None
    _fused: tuple[Callable, ...] = ()

    def __call__(
        self, input_: Any, start: int = 0, end: int | None = None, threading: bool = False, lazy: bool | None = None
    ) -> Any:
        is_lazy = self._lazy if lazy is None else lazy
        if start or end is not None or threading or is_lazy is not False or self.log_stats:
            return super().__call__(input_, start, end, threading, lazy)
        if self._fused_from is not self.transforms:
            self._fused, self._fused_from = fuse(self.transforms), self.transforms
        return execute_compose(
            input_, transforms=self._fused, map_items=self.map_items, unpack_items=self.unpack_items, lazy=False
        )


class IntensityRun(MapTransform):
    """Neighbouring intensity transforms as one: all are drawn, then one `intensity_chain` runs those that came.

    Args:
        transforms: at least one, all with the same single key.
    """

    def __init__(self, transforms: Sequence[IntensityTransform]) -> None:
        super().__init__(transforms[0].keys, transforms[0].allow_missing_keys)
        self.transforms = tuple(transforms)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(type(t).__name__ for t in self.transforms)})"

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        sample = dict(data)
        for key in self.key_iterator(sample):
            image = torch.as_tensor(sample[key])
            for transform in self.transforms:
                transform.randomize(image)
            steps = [t.step(image, t.params) for t in self.transforms if t.params]
            if steps:
                sample[key] = run_steps(image, steps)
        return sample


def fuse(transforms: Sequence[Callable]) -> tuple[Callable, ...]:
    """Put each run of two or more intensity transforms on the same single key into one `IntensityRun`."""
    runs: list[list[Any]] = []
    for transform in transforms:
        if runs and _joinable(runs[-1][-1], transform):
            runs[-1].append(transform)
        else:
            runs.append([transform])
    return tuple(IntensityRun(run) if len(run) > 1 else run[0] for run in runs)


def _joinable(first: Any, second: Any) -> bool:
    return (
        _is_plain(first)
        and _is_plain(second)
        and first.keys == second.keys
        and first.allow_missing_keys == second.allow_missing_keys
    )


def _is_plain(transform: Any) -> bool:
    """On one key, and all it does is in `randomize` and `step`: a subclass may have replaced another part."""
    kind = type(transform)
    return (
        isinstance(transform, IntensityTransform)
        and len(transform.keys) == 1
        and kind.apply is IntensityTransform.apply
        and kind.apply_to_key is DrawnTransform.apply_to_key
        and kind.__call__ is DrawnTransform.__call__
    )
