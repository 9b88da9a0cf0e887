"""Sliding-window prediction: even windows, Gaussian blending, mirrored copies, labels slab by slab."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, combinations, product
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from monai.data.meta_tensor import MetaTensor
from monai.inferers import Inferer

from monai_ext.errors import InputError
from monai_ext.inferers.bfloat16_inferer import BFloat16Inferer
from monai_ext.inferers.even_windows import EvenWindows, WindowCopy
from monai_ext.inferers.slab_argmax import SlabArgmax
from monai_ext.inferers.slice_stacks import slices_of, stacked, with_meta_of
from monai_ext.inferers.windows import (
    check_overlap,
    constant_weights,
    gaussian_axis,
    gaussian_weights,
    outer_product,
    window_positions,
)

BLENDS = ("gaussian", "constant")
CACHED_MAPS = 2


class WindowInferer(Inferer):
    """Predicts a volume window by window and blends the logits.

    Windows are evenly spread with the last one flush (`window_positions`). A volume smaller than the window is padded
    with 0, centred, and the padding is undone. With `mirror_axes` every window is also predicted in all flipped
    versions (`2^k` of them) and the logits are averaged; the copies share the batches of size `sw_batch_size` with
    the windows.

    A volume with one spatial axis more than the window is a stack of slices along its first axis, each of which is
    predicted by itself; windows of several slices share a call of the network.

    Gradients are not switched off here (the evaluator does that), nor is the network put into evaluation mode.

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
        # flips of a window [C, *roi]: axis 0 there is the channel
        axes = [axis + 1 for axis in self.mirror_axes]
        self._flips = list(chain.from_iterable(combinations(axes, n) for n in range(len(axes) + 1)))
        self._weights: dict[torch.device, torch.Tensor] = {}
        self._reciprocals: OrderedDict[tuple[tuple[int, ...], torch.device], torch.Tensor] = OrderedDict()

    def __call__(self, inputs: torch.Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> torch.Tensor:
        """Blended logits of the whole volume.

        Args:
            inputs: `[B, C, *S]`, or a stack of slices `[B, C, D, *S]`; other dtypes than floating point are converted
                to float32.
            network: maps `[N, C, *roi_size]` to `[N, K, *roi_size]`, or to a list or tuple that starts with that
                (deep supervision). Half-precision outputs are summed in float32.
            args: passed on to the network, as are `kwargs`.

        Returns:
            `[B, K, *S]` float32 on `device`; a `MetaTensor` with the meta data of the input if that was one.

        Raises:
            ValueError: the input has other axes than the window, or the network returns another size.
        """
        if self._is_stack(inputs):
            return stacked(self(slices_of(inputs), network, *args, **kwargs), inputs)
        padded, inside = self._pad(inputs)
        shape = tuple(padded.shape[2:])
        sums: torch.Tensor | None = None
        for item, start, output in self._outputs(padded, network, args, kwargs):
            if sums is None:
                size = (padded.shape[0], output.shape[0], *shape)
                sums = torch.zeros(size, dtype=torch.float32, device=output.device)
                weights = self._window_weights(output.device)
            window = tuple(slice(s, s + n) for s, n in zip(start, self.roi_size, strict=True))
            sums[item][(slice(None), *window)].addcmul_(output, weights)
        assert sums is not None
        logits = sums.mul_(self._reciprocal(shape, sums.device))[inside].contiguous()
        return with_meta_of(inputs, logits)

    def segment(self, inputs: torch.Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> torch.Tensor:
        """Labels of the whole volume: `__call__(...).argmax(1)` without holding its logits.

        Only the logits of one window height along the first axis are kept (`SlabArgmax`), instead of the whole volume
        times the number of classes. Where two classes agree to the last bits of float32, the label may differ from
        that of `__call__`, whose logits have been rounded once more.

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
        padded, inside = self._pad(inputs)
        labels: torch.Tensor | None = None
        slabs: SlabArgmax | None = None
        current = -1
        for item, start, output in self._outputs(padded, network, args, kwargs):
            if labels is None:
                num_classes = output.shape[0]
                if num_classes < 2:
                    raise ValueError("segment needs a network with two or more output channels, got 1")
                dtype = torch.uint8 if num_classes <= 255 else torch.int16
                size = (padded.shape[0], *padded.shape[2:])
                labels = torch.zeros(size, dtype=dtype, device=output.device)
                weights = self._window_weights(output.device)
            if item != current:
                if slabs is not None:
                    slabs.finish()
                slabs = SlabArgmax(labels[item], self.roi_size[0])
                current = item
            assert slabs is not None
            slabs.add(start, output.detach(), weights)
        assert labels is not None
        assert slabs is not None
        slabs.finish()
        return with_meta_of(inputs, labels.unsqueeze(1)[inside].contiguous())

    def _is_stack(self, inputs: torch.Tensor) -> bool:
        return inputs.ndim == len(self.roi_size) + 3

    def _pad(self, inputs: torch.Tensor) -> tuple[torch.Tensor, tuple[slice, ...]]:
        """Plain floating-point tensor of at least window size, and where the input lies in it (one slice per axis)."""
        if inputs.ndim != len(self.roi_size) + 2 or 0 in inputs.shape:
            raise ValueError(
                f"inputs must be non-empty [B, C, *S] with {len(self.roi_size)} spatial axes for roi_size "
                f"{self.roi_size}, got shape {tuple(inputs.shape)}"
            )
        plain = inputs.as_tensor() if isinstance(inputs, MetaTensor) else inputs
        if not plain.is_floating_point():
            plain = plain.float()
        missing = [max(roi - size, 0) for roi, size in zip(self.roi_size, plain.shape[2:], strict=True)]
        spatial = (slice(n // 2, n // 2 + size) for n, size in zip(missing, plain.shape[2:], strict=True))
        inside = (slice(None), slice(None), *spatial)
        if any(missing):
            before_after = [side for n in reversed(missing) for side in (n // 2, n - n // 2)]
            plain = F.pad(plain, before_after)
        return plain, inside

    def _outputs(
        self, padded: torch.Tensor, network: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]
    ) -> Iterator[tuple[int, tuple[int, ...], torch.Tensor]]:
        """Batch item, start and unflipped output `[K, *roi]` of every window copy; by item, then start, ascending."""
        device = self.device or padded.device
        starts = list(product(*window_positions(padded.shape[2:], self.roi_size, self.overlap)))
        copies = product(range(padded.shape[0]), starts, self._flips)
        num_copies = padded.shape[0] * len(starts) * len(self._flips)
        bar = _bar(num_copies) if self.progress else None
        # autograd needs every batch to stay as it was; without it one buffer spares an allocation per call
        buffer = None
        if not torch.is_grad_enabled():
            size = (min(self.sw_batch_size, num_copies), padded.shape[1], *self.roi_size)
            buffer = torch.empty(size, dtype=padded.dtype, device=padded.device)
        even = EvenWindows() if self.skip_even and buffer is not None else None

        def call(cuts: Sequence[torch.Tensor]) -> torch.Tensor:
            # stacking copies: the network can neither overwrite the volume nor see strides that vary with its size
            windows = torch.stack(list(cuts), out=None if buffer is None else buffer[: len(cuts)])
            outputs = self._call(windows, network, *args, **kwargs)
            if isinstance(outputs, (list, tuple)):
                outputs = outputs[0]
            if outputs.ndim != padded.ndim or (outputs.shape[0], *outputs.shape[2:]) != (len(cuts), *self.roi_size):
                raise ValueError(
                    f"the network must return [{len(cuts)}, K, {', '.join(map(str, self.roi_size))}] for an input of "
                    f"shape {tuple(windows.shape)}, got {tuple(outputs.shape)}"
                )
            outputs = outputs.as_tensor() if isinstance(outputs, MetaTensor) else outputs
            return outputs.to(device)

        for group in self._groups(copies, padded, even):
            # even windows first: a network may return its input, whose buffer the next call fills anew
            kept = {known: even.output(known, call) for *_, known in group if even is not None and known is not None}
            cuts = [cut for *_, cut, known in group if known is None]
            outputs = iter(call(cuts) if cuts else ())
            for item, start, flip, _, known in group:
                output = next(outputs) if known is None else kept[known]
                yield item, start, torch.flip(output, flip) if flip else output
            if bar is not None:
                bar.update(len(group))
        if bar is not None:
            bar.close()

    def _groups(
        self,
        copies: Iterable[tuple[int, tuple[int, ...], tuple[int, ...]]],
        padded: torch.Tensor,
        even: EvenWindows | None,
    ) -> Iterator[list[WindowCopy]]:
        """Copies in their order, in groups of which `sw_batch_size` need a call of the network."""
        group: list[WindowCopy] = []
        needed = 0
        for item, start, flip in copies:
            cut = self._cut(padded[item], start, flip)
            known = even.value(item, start, cut) if even is not None else None
            group.append((item, start, flip, cut, known))
            needed += known is None
            if needed == self.sw_batch_size:
                yield group
                group, needed = [], 0
        if group:
            yield group

    def _cut(self, volume: torch.Tensor, start: Sequence[int], flip: tuple[int, ...]) -> torch.Tensor:
        """Window `[C, *roi]` of the volume `[C, *S]`, flipped; a view if there is nothing to flip."""
        window = volume[(slice(None), *(slice(s, s + n) for s, n in zip(start, self.roi_size, strict=True)))]
        return torch.flip(window, flip) if flip else window

    def _window_weights(self, device: torch.device) -> torch.Tensor:
        if device not in self._weights:
            make = gaussian_weights if self.blend == "gaussian" else constant_weights
            with torch.inference_mode(False):  # a tensor made in inference mode would be barred from autograd later
                self._weights[device] = make(self.roi_size).to(device)
        return self._weights[device]

    def _reciprocal(self, shape: tuple[int, ...], device: torch.device) -> torch.Tensor:
        """1 over the summed weights of all window copies, `[*shape]` float32; the last few maps are kept.

        Windows form a grid and the weights are a product of one vector per axis, so their sum over all windows is the
        product of the sums per axis.
        """
        key = (shape, device)
        if key in self._reciprocals:
            self._reciprocals.move_to_end(key)
            return self._reciprocals[key]
        with torch.inference_mode(False):
            vectors = []
            positions = window_positions(shape, self.roi_size, self.overlap)
            for size, roi, starts in zip(shape, self.roi_size, positions, strict=True):
                axis = gaussian_axis(roi) if self.blend == "gaussian" else torch.ones(roi, dtype=torch.float64)
                total = torch.zeros(size, dtype=torch.float64)
                for start in starts:
                    total[start : start + roi] += axis
                vectors.append(total.reciprocal().float())
            vectors[0] /= len(self._flips)
            self._reciprocals[key] = outer_product([vector.to(device) for vector in vectors])
        if len(self._reciprocals) > CACHED_MAPS:
            self._reciprocals.popitem(last=False)
        return self._reciprocals[key]


def _bar(total: int) -> Any:
    from tqdm import tqdm

    return tqdm(total=total, desc="windows", leave=False)
