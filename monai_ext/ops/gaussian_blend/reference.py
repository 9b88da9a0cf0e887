"""Plain torch, on any device; float64 sums are kept in float64. Gradients flow from the sums to the outputs."""

from __future__ import annotations

from collections.abc import Sequence

import torch


def accumulate(
    sums: torch.Tensor,
    outputs: Sequence[torch.Tensor],
    weights: Sequence[torch.Tensor],
    starts: Sequence[Sequence[int]],
    flips: Sequence[Sequence[int]],
    fresh: Sequence[Sequence[int]],
    lines: torch.Tensor | None,
) -> None:
    """See `monai_ext.ops.gaussian_blend.accumulate`."""
    extent = tuple(sums.shape[1:]) if lines is None else (*lines.shape, sums.shape[2])
    for n, (output, start, flip, new) in enumerate(zip(outputs, starts, flips, fresh, strict=True)):
        low = [max(s, 0) for s in start]
        high = [min(s + roi, size) for s, roi, size in zip(start, output.shape[1:], extent, strict=True)]
        if any(stop <= first for first, stop in zip(low, high, strict=True)):
            continue
        inside = [slice(first - s, stop - s) for first, stop, s in zip(low, high, start, strict=True)]
        box = [slice(first, stop) for first, stop in zip(low, high, strict=True)]
        corner = [slice(max(f - first, 0), None) for f, first in zip(new, low, strict=True)]
        vectors = [(w if w.ndim == 1 else w[n])[part] for w, part in zip(weights, inside, strict=True)]
        unflipped = output.flip([axis + 1 for axis in flip]) if flip else output
        value, weight = unflipped[(slice(None), *inside)].to(sums.dtype), outer_weights(vectors, sums.dtype)
        if lines is None:
            place = sums[(slice(None), *box)]
            place[(slice(None), *corner)].zero_()
            place.addcmul_(value, weight)
        else:
            _add_to_lines(sums, lines[box[0], box[1]], box[2], corner, value * weight)


def finalise(
    sums: torch.Tensor,
    reciprocals: Sequence[torch.Tensor] | None,
    mode: str,
    labels: torch.Tensor | None,
    lines: torch.Tensor | None,
) -> None:
    """See `monai_ext.ops.gaussian_blend.finalise`."""
    kept = None
    if lines is not None:
        kept = lines >= 0
        sums = sums[lines.long().clamp_min(0)].permute(2, 0, 1, 3)
    factor = None if reciprocals is None else outer_product([r.to(sums.dtype) for r in reciprocals])
    if mode == "logits":
        if factor is not None:
            sums.mul_(factor)
        return
    scores = sums if factor is None else sums * factor
    if mode == "softmax":
        sums.copy_(scores.softmax(0))
        return
    assert labels is not None
    # on a CPU max is several times faster than argmax; both return the first of equal values
    found = scores.max(0).indices.to(labels.dtype)
    labels.copy_(found if kept is None else torch.where(kept[..., None], found, labels))


def outer_weights(vectors: Sequence[torch.Tensor], dtype: torch.dtype) -> torch.Tensor:
    """Outer product `[*window]` of one vector per axis; products that underflow float32 stay at its smallest normal."""
    return outer_product([vector.to(dtype) for vector in vectors]).clamp_min(torch.finfo(torch.float32).tiny)


def outer_product(vectors: Sequence[torch.Tensor]) -> torch.Tensor:
    """Product of one vector `[n_i]` per axis -> `[n_0, n_1, ...]`."""
    product = vectors[0]
    for vector in vectors[1:]:
        product = product[..., None] * vector
    return product


def _add_to_lines(
    sums: torch.Tensor, rows: torch.Tensor, columns: slice, corner: Sequence[slice], weighted: torch.Tensor
) -> None:
    """Add `[K, d, h, w]` to `columns` of the lines `rows [d, h]`; what `corner` cuts out is overwritten."""
    weighted = weighted.permute(1, 2, 0, 3)
    is_new = torch.zeros((*rows.shape, 1, weighted.shape[3]), dtype=torch.bool, device=sums.device)
    is_new[corner[0], corner[1], :, corner[2]] = True
    kept = rows >= 0
    places = rows[kept].long()
    before = sums[places][..., columns].masked_fill(is_new[kept], 0)
    sums[places, :, columns] = before + weighted[kept]
