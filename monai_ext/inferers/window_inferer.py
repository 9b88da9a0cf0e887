"""Sliding-window prediction: even windows, Gaussian blending, mirrored copies, labels slab by slab."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import chain, combinations
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from monai.data.meta_tensor import MetaTensor
from monai.inferers import Inferer

from monai_ext.errors import InputError
from monai_ext.inferers.batched_calls import BatchedCalls, Cut
from monai_ext.inferers.bfloat16_inferer import BFloat16Inferer
from monai_ext.inferers.even_windows import EvenWindows, Value
from monai_ext.inferers.logit_blend import LogitBlend
from monai_ext.inferers.memory_fallback import MemoryFallback
from monai_ext.inferers.resampled_slabs import ResampledSlabs, resampled_block
from monai_ext.inferers.slab_argmax import SlabArgmax
from monai_ext.inferers.slice_stacks import slices_of, stacked, with_meta_of
from monai_ext.inferers.window_grid import Place, WindowCopy, WindowGrid
from monai_ext.inferers.window_positions import check_overlap

BLENDS = ("gaussian", "constant")


class WindowInferer(Inferer):
    """Predicts a volume window by window and blends the logits.

    Windows are evenly spread with the last one flush (`window_positions`). A volume smaller than the window is padded
    with 0, centred, and the padding is undone. With `mirror_axes` every window is also predicted in all flipped
    versions (`2^k` of them) and the logits are averaged; the copies share the batches of size `sw_batch_size` with
    the windows.

    A volume with one spatial axis more than the window is a stack of slices along its first axis, each of which is
    predicted by itself; windows of several slices share a call of the network.

    Gradients are not switched off here (the evaluator does that), nor is the network put into evaluation mode.

    Where a device runs out of memory, fewer windows share a call of the network, half as many each time; where a single
    one is too much, or the sums do not fit, these are kept on the CPU. A warning says so, once per size. Nothing that
    has been predicted is lost.

    Args:
        roi_size: window size per spatial axis, in voxels; 1 to 3 axes.
        sw_batch_size: windows, or mirrored copies of them, per call of the network.
        overlap: shared fraction of neighbouring windows, in [0, 1).
        blend: `gaussian` (borders of a window count less) or `constant`.
        mirror_axes: spatial axes (0 is the first) to mirror for test-time augmentation; empty for none.
        device: where the sums are kept; None: where the input is. `cpu` saves device memory for large volumes.
        progress: show a progress bar over the calls of the network.
        cpu_bfloat16: call the network in mixed precision on a CPU.
        skip_even: windows of one value throughout (air around a patient, what was cropped away) share one call of the
            network per value. Only without gradients.

    Raises:
        InputError: overlap outside [0, 1), unknown blend.
        ValueError: any other argument out of range.
    """

    def __init__(
        self,
        roi_size: Sequence[int],
        sw_batch_size: int = 4,
        overlap: float = 0.5,
        blend: str = "gaussian",
        mirror_axes: Sequence[int] = (),
        device: torch.device | str | None = None,
        progress: bool = False,
        cpu_bfloat16: bool = False,
        skip_even: bool = True,
    ) -> None:
        super().__init__()
        check_overlap(overlap)
        if blend not in BLENDS:
            raise InputError(f"blend: unknown value {blend!r}. Cure: use one of {', '.join(BLENDS)}")
        self.roi_size = tuple(int(size) for size in roi_size)
        if not 1 <= len(self.roi_size) <= 3 or min(self.roi_size) < 1:
            raise ValueError(f"roi_size must hold 1 to 3 positive sizes, got {tuple(roi_size)}")
        if sw_batch_size < 1:
            raise ValueError(f"sw_batch_size must be at least 1, got {sw_batch_size}")
        self.mirror_axes = tuple(int(axis) for axis in mirror_axes)
        if len(set(self.mirror_axes)) != len(self.mirror_axes) or any(
            not 0 <= axis < len(self.roi_size) for axis in self.mirror_axes
        ):
            raise ValueError(
                f"mirror_axes must be different axes from 0 to {len(self.roi_size) - 1}, got {tuple(mirror_axes)}"
            )
        self.sw_batch_size = int(sw_batch_size)
        self.overlap = float(overlap)
        self.blend = blend
        self.device = None if device is None else torch.device(device)
        self.progress = progress
        self.skip_even = skip_even
        self._call = BFloat16Inferer(cpu_bfloat16)
        self._fallback = MemoryFallback()
        axes = self.mirror_axes
        self._flips = list(chain.from_iterable(combinations(axes, n) for n in range(len(axes) + 1)))

    def __call__(self, inputs: torch.Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> torch.Tensor:
        """Blended logits of the whole volume.

        Args:
            inputs: `[B, C, *S]`, or a stack of slices `[B, C, D, *S]`; other dtypes than floating point are converted
                to float32.
            network: maps `[N, C, *roi_size]` to `[N, K, *roi_size]`, or to a list or tuple that starts with that
                (deep supervision). Half-precision outputs are summed in float32.
            args: passed on to the network, as are `kwargs`.

        Returns:
            `[B, K, *S]` float32 on `device`, or on the CPU if it did not fit there; a `MetaTensor` with the meta data
            of the input if that was one.

        Raises:
            ValueError: the input has other axes than the window, or the network returns another size.
            torch.OutOfMemoryError: one window by itself is too much for the device.
        """
        if self._is_stack(inputs):
            return stacked(self(slices_of(inputs), network, *args, **kwargs), inputs)
        grid, padded = self._prepared(inputs)
        blend = LogitBlend(grid, padded.shape[0], self.device or padded.device, self._fallback)
        self._predict(padded, grid, network, args, kwargs, blend)
        return with_meta_of(inputs, blend.result())

    def segment(self, inputs: torch.Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> torch.Tensor:
        """Labels of the whole volume: `__call__(...).argmax(1)` without holding its logits.

        Less than the logits of one window height along the first axis is kept (`SlabArgmax`), instead of the whole
        volume times the number of classes. Where two classes agree to the last bits of float32, the label may differ
        from that of `__call__`, whose sums may be rounded otherwise.

        Args:
            inputs: `[B, C, *S]`, as in `__call__`, like the other arguments.
            network: at least two output channels.
            args: passed on to the network, as are `kwargs`.

        Returns:
            `[B, 1, *S]` uint8, or int16 if there are more than 255 classes.

        Raises:
            ValueError: as `__call__`, or the network has one output channel, whose argmax says nothing.
        """
        if self._is_stack(inputs):
            return stacked(self.segment(slices_of(inputs), network, *args, **kwargs), inputs)
        grid, padded = self._prepared(inputs)
        slabs = SlabArgmax(grid, padded.shape[0], self.device or padded.device, self._fallback)
        self._predict(padded, grid, network, args, kwargs, slabs)
        return with_meta_of(inputs, slabs.result().unsqueeze(1))

    def segment_resampled(
        self,
        inputs: torch.Tensor,
        network: Callable[..., Any],
        shape: Sequence[int],
        separate_axis: int | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> torch.Tensor:
        """Labels of one volume on another grid: logits resampled and then labelled, without holding those of all of it.

        The logits of one window height along the first axis are kept (`ResampledSlabs`), of a stack those of as many
        slices as share a call of the network.

        Args:
            inputs: `[1, C, d, h, w]`.
            network: at least two output channels.
            shape: size `(D, H, W)` of the labels; of a stack D is d.
            separate_axis: axis of order 0, as in `monai_ext.ops.spline_resample.resample_logits_argmax`.
            args: passed on to the network, as are `kwargs`.

        Returns:
            `[1, 1, D, H, W]` uint8, or int16 if there are more than 255 classes.

        Raises:
            ValueError: as `segment`; more than one volume, or not three axes.
        """
        if inputs.ndim != 5 or inputs.shape[0] != 1:
            raise ValueError(f"inputs must be one volume [1, C, d, h, w], got shape {tuple(inputs.shape)}")
        if self._is_stack(inputs):
            blocks = inputs.split(self.sw_batch_size, 2)
            parts = [
                resampled_block(self(block, network, *args, **kwargs)[0], shape, separate_axis) for block in blocks
            ]
            return torch.cat(parts)[None, None]
        grid, padded = self._prepared(inputs)
        slabs = ResampledSlabs(grid, shape, separate_axis, self.device or padded.device, self._fallback)
        self._predict(padded, grid, network, args, kwargs, slabs)
        return slabs.result()[None, None]

    def _is_stack(self, inputs: torch.Tensor) -> bool:
        return inputs.ndim == len(self.roi_size) + 3

    def _prepared(self, inputs: torch.Tensor) -> tuple[WindowGrid, torch.Tensor]:
        """Windows, and a plain floating-point tensor of at least their size."""
        if inputs.ndim != len(self.roi_size) + 2 or 0 in inputs.shape:
            raise ValueError(
                f"inputs must be non-empty [B, C, *S] with {len(self.roi_size)} spatial axes for roi_size "
                f"{self.roi_size}, got shape {tuple(inputs.shape)}"
            )
        plain = inputs.as_tensor() if isinstance(inputs, MetaTensor) else inputs
        if not plain.is_floating_point():
            plain = plain.float()
        grid = WindowGrid(plain.shape[2:], self.roi_size, self.overlap, self.blend, len(self._flips))
        if any(grid.missing):
            plain = F.pad(plain, [side for n in reversed(grid.missing) for side in (n // 2, n - n // 2)])
        return grid, plain

    def _predict(
        self,
        padded: torch.Tensor,
        grid: WindowGrid,
        network: Callable[..., Any],
        args: Sequence[Any],
        kwargs: dict[str, Any],
        target: LogitBlend | SlabArgmax | ResampledSlabs,
    ) -> None:
        """Give `target` the outputs of all window copies, in the order of the grid."""

        def release() -> bool:
            moved = target.move_to_host()
            if moved:
                self._fallback.report(f"out of memory on {padded.device} with single windows: sums move to the CPU")
            return moved

        # autograd needs every batch to stay as it was; without it one buffer spares an allocation per call
        without_gradients = not torch.is_grad_enabled()
        calls = BatchedCalls(
            lambda windows: self._call(windows, network, *args, **kwargs),
            min(self.sw_batch_size, padded.shape[0] * grid.num_windows * len(self._flips)),
            without_gradients,
            release,
            self._fallback,
        )
        even = EvenWindows(padded, grid.positions, self.roi_size) if self.skip_even and without_gradients else None
        bar = _bar(padded.shape[0] * grid.num_windows * len(self._flips)) if self.progress else None
        for group in self._groups(padded, grid, even):
            copies = [copy for copy, _ in group]
            # no name for the outputs: their memory, still in the cache, is free for those of the next call
            target.add(copies, self._outputs(group, padded, grid, calls, even))
            if bar is not None:
                bar.update(len(copies))
        if bar is not None:
            bar.close()

    def _groups(
        self, padded: torch.Tensor, grid: WindowGrid, even: EvenWindows | None
    ) -> Iterator[list[tuple[WindowCopy, Value | None]]]:
        """Copies in order with their value if they are even, in groups of which `sw_batch_size` need the network."""
        group: list[tuple[WindowCopy, Value | None]] = []
        needed = 0
        for item in range(padded.shape[0]):
            for place in grid.places:
                known = None if even is None else even.value(item, place)
                for flip in self._flips:
                    group.append((WindowCopy(item, place, flip, flip == ()), known))
                    needed += known is None
                    if needed == self.sw_batch_size:
                        yield group
                        group, needed = [], 0
        if group:
            yield group

    def _outputs(
        self,
        group: Sequence[tuple[WindowCopy, Value | None]],
        padded: torch.Tensor,
        grid: WindowGrid,
        calls: BatchedCalls,
        even: EvenWindows | None,
    ) -> list[torch.Tensor]:
        """Output `[K, *roi]` of every copy, mirrored as it is."""

        def cut(copy: WindowCopy) -> Cut:
            return self._window(padded, grid, copy.item, copy.place), copy.flip

        kept: dict[Value, torch.Tensor] = {}
        if even is not None:
            # even windows first: a network may return its input, whose buffer the next call fills anew
            for copy, known in group:
                if known is not None and known not in kept:
                    kept[known] = even.output(known, lambda copy=copy: calls([cut(copy)])[0])  # type: ignore[misc]
        cuts = [cut(copy) for copy, known in group if known is None]
        found = iter(calls(cuts) if cuts else ())
        return [next(found) if known is None else kept[known] for _, known in group]

    def _window(self, padded: torch.Tensor, grid: WindowGrid, item: int, place: Place) -> torch.Tensor:
        """View `[C, *roi]` of a window."""
        start = grid.padded_start(place)
        box = [slice(s, s + n) for s, n in zip(start, self.roi_size, strict=True)]
        index: tuple[Any, ...] = (item, slice(None), *box)
        return padded[index]


def _bar(total: int) -> Any:
    from tqdm import tqdm

    return tqdm(total=total, desc="windows", leave=False)
