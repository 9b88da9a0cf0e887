"""Triton form: x is read once for its moments and once for y; backward the same.

Tiles are those of `monai_ext.ops.tiles`. Between the two passes small kernels merge chunks and compute the gate. Sums
are float32 in a chunk, float64 across them, in a fixed order: equal inputs give equal bits.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import torch
import triton

from monai_ext.ops.se_gate import cuda_gate, cuda_passes
from monai_ext.ops.tiles import cut, output_like

LAYER_VALUES = 4096  # of a tile of the gate's layers


def forward(
    x: torch.Tensor,
    w1: torch.Tensor,
    b1: torch.Tensor,
    w2: torch.Tensor,
    b2: torch.Tensor,
    residual: torch.Tensor | None,
    norm_weight: torch.Tensor | None,
    norm_bias: torch.Tensor | None,
    mean: torch.Tensor | None,
    var: torch.Tensor | None,
    eps: float,
    training: bool,
    relu: bool,
) -> tuple[torch.Tensor, ...]:
    """y, batch mean and variance, centre, hidden, gate; x contiguous or channels last, the residual laid out alike."""
    w1, b1, w2, b2 = (t.to(torch.float32).contiguous() for t in (w1, b1, w2, b2))
    norm_weight, norm_bias, mean, var = map(_plain, (norm_weight, norm_bias, mean, var))
    residual = None if residual is None else residual.to(x.dtype)
    training = training and norm_weight is not None
    plan = _plan(x, w1.shape[0])
    batch, channels, hidden_size = x.shape[0], x.shape[1], w1.shape[0]
    batch_mean, batch_var = _buffers(x, 2, channels if training else 0)
    centre, gate = _buffers(x, 2, batch, channels)
    (hidden,) = _buffers(x, 1, batch, hidden_size)
    means, squares = _buffers(x, 2, batch, channels, plan.splits)
    cuda_passes.moments[(plan.programs,)](x, means, squares, *plan.sizes, *plan.chunks, SQUARES=training, **plan.tile)
    if training:
        mean, var = batch_mean, batch_var
    merge = {"BLOCK_N": plan.block_n, "BLOCK_K": plan.block_k, "TRAINING": training}
    cuda_gate.merge_moments[(channels,)](means, squares, mean, var, centre, batch, *plan.sizes, *plan.chunks, **merge)
    norm = (norm_weight, norm_bias, var)
    squeezed, scale, offset = _buffers(x, 3, batch, channels)
    cuda_gate.squeeze[(channels,)](centre, *norm, squeezed, batch, channels, eps, plan.block_n, training)
    layer = {"BLOCK_C": plan.layer_c, "BLOCK_H": plan.layer_h}
    blocks_h, blocks_c = triton.cdiv(hidden_size, plan.layer_h), triton.cdiv(channels, plan.layer_c)
    cuda_gate.hidden_values[(batch * blocks_h,)](squeezed, w1, b1, hidden, channels, hidden_size, **layer)
    cuda_gate.gate_values[(batch * blocks_c,)](
        hidden, w2, b2, squeezed, centre, *norm, gate, scale, offset, channels, hidden_size, eps, **layer
    )
    y = output_like(x)
    cuda_passes.apply[(plan.programs,)](
        x, residual, mean, scale, offset, y, *plan.sizes, *plan.chunks, RELU=relu, **plan.tile
    )
    return y.to(x.dtype), batch_mean, batch_var, centre, hidden, gate


def backward(
    dy: torch.Tensor,
    x: torch.Tensor,
    y: torch.Tensor | None,
    w1: torch.Tensor,
    w2: torch.Tensor,
    norm_weight: torch.Tensor | None,
    norm_bias: torch.Tensor | None,
    mean: torch.Tensor | None,
    var: torch.Tensor | None,
    centre: torch.Tensor,
    hidden: torch.Tensor,
    gate: torch.Tensor,
    eps: float,
    training: bool,
) -> tuple[torch.Tensor, ...]:
    """Gradients of x, residual (empty without `y`), w1, b1, w2, b2, and of weight and bias (empty without a norm)."""
    w1, w2 = w1.to(torch.float32).contiguous(), w2.to(torch.float32).contiguous()
    norm_weight, norm_bias, mean, var = map(_plain, (norm_weight, norm_bias, mean, var))
    training = training and norm_weight is not None
    plan = _plan(x, w1.shape[0])
    batch, channels, hidden_size = x.shape[0], x.shape[1], w1.shape[0]
    added = None if y is None else output_like(x)
    sums, products = _buffers(x, 2, batch, channels, plan.splits)
    cuda_passes.gradient_sums[(plan.programs,)](
        dy, y, x, mean, added, sums, products, *plan.sizes, *plan.chunks, **plan.tile
    )
    norm = (norm_weight, norm_bias, var)
    squeezed, dz, total, product, scale, flat = _buffers(x, 6, batch, channels)
    lost, slope = _buffers(x, 2, channels)
    merge = {"BLOCK_N": plan.block_n, "BLOCK_K": plan.block_k, "TRAINING": training}
    cuda_gate.merge_sums[(channels,)](
        sums, products, centre, gate, *norm, squeezed, dz, total, product, lost, batch, channels, plan.splits, eps,
        **merge,
    )  # fmt: skip
    dhidden = torch.empty_like(hidden)
    layer = {"BLOCK_C": plan.layer_c, "BLOCK_H": plan.layer_h}
    cuda_gate.hidden_gradient[(batch * triton.cdiv(hidden_size, plan.layer_h),)](
        dz, w2, hidden, dhidden, channels, hidden_size, **layer
    )
    (dsqueezed,) = _buffers(x, 1, batch, channels)
    cuda_gate.squeezed_gradient[(batch * triton.cdiv(channels, plan.layer_c),)](
        dhidden, w1, dsqueezed, channels, hidden_size, **layer
    )
    dweight, dbias = _buffers(x, 2, channels if norm_weight is not None else 0)
    cuda_gate.norm_gradient[(channels,)](
        total, product, dsqueezed, centre, gate, lost, *norm, scale, flat, slope, dweight, dbias,
        batch, channels, plan.sizes[1], eps, BLOCK_N=plan.block_n, TRAINING=training,
    )  # fmt: skip
    dw1, db1 = _layer_gradient(dhidden, squeezed, plan)
    dw2, db2 = _layer_gradient(dz, hidden, plan)
    dx = output_like(x)
    given = dy if added is None else added
    cuda_passes.apply_gradient[(plan.programs,)](
        given, x, mean, scale, flat, slope, dx, *plan.sizes, *plan.chunks, SLOPE=training, **plan.tile
    )
    none = x.new_empty(0) if added is None else added.to(x.dtype)
    return dx.to(x.dtype), none, dw1, db1, dw2, db2, dweight, dbias


def _layer_gradient(after: torch.Tensor, before: torch.Tensor, plan: _Plan) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradients `[I, J]` and `[I]` of a layer: sums over the batch of outer products, and of `after` `[B, I]`."""
    rows, columns = after.shape[1], before.shape[1]
    dw, db = after.new_empty((rows, columns)), after.new_empty(rows)
    block = min(64, triton.next_power_of_2(columns))
    grid = (triton.cdiv(rows, 16), triton.cdiv(columns, block))
    cuda_gate.outer_products[grid](after, before, dw, db, after.shape[0], rows, columns, BLOCK_I=16, BLOCK_J=block)
    return dw, db


def _buffers(x: torch.Tensor, count: int, *shape: int) -> list[torch.Tensor]:
    """Float32 tensors beside `x`, each with its own memory, as an operator's outputs must have."""
    return [x.new_empty(shape, dtype=torch.float32) for _ in range(count)]


def _plain(value: torch.Tensor | None) -> torch.Tensor | None:
    return None if value is None else value.to(torch.float32).contiguous()


@dataclass(frozen=True)
class _Plan:
    """How a tensor is cut and its kernels are called.

    Attributes:
        programs: how many work on it.
        splits: chunks that the positions of a channel are cut into.
        sizes: channels, positions.
        chunks: `splits`, and positions of a chunk.
        tile: constants of the kernels that read it.
        block_n, block_k: samples and chunks that are merged at a time.
        layer_c, layer_h: of a tile of the gate's layers.
    """

    programs: int
    splits: int
    sizes: tuple[int, int]
    chunks: tuple[int, int]
    tile: dict[str, int | bool]
    block_n: int
    block_k: int
    layer_c: int
    layer_h: int


def _plan(x: torch.Tensor, hidden: int) -> _Plan:
    batch, channels, positions, last = x.shape[0], x.shape[1], prod(x.shape[2:]), not x.is_contiguous()
    block_c, block_s, blocks, splits, chunk = cut(batch, channels, positions, last)
    tile: dict[str, int | bool] = {"BLOCK_C": block_c, "BLOCK_S": block_s, "LAST": last}
    tile["num_warps"] = max(1, min(8, block_c * block_s // 256))
    block_k = min(128, triton.next_power_of_2(splits))
    block_n = max(1, min(triton.next_power_of_2(batch), 1024 // block_k))
    layer_c = min(triton.next_power_of_2(channels), 64)
    layer_h = max(1, min(triton.next_power_of_2(hidden), 16, LAYER_VALUES // layer_c))
    sizes, chunks = (channels, positions), (splits, chunk)
    return _Plan(batch * blocks * splits, splits, sizes, chunks, tile, block_n, block_k, layer_c, layer_h)
