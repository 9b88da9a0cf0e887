"""Tiles of feature maps in Triton: how the kernels of norms and gates cut tensors, and the pieces that they share.

A tile is `[BLOCK_C, BLOCK_S]`, channels by positions, in both layouts; `LAST` (channels last) says which of the two is
contiguous. Positions are cut into chunks, so that a few channels fill the device as well.
"""
# ruff: noqa: N803 - kernels name sizes as shapes are written

from __future__ import annotations

import torch
import triton
import triton.language as tl

TILE_VALUES = 4096  # 16 values a thread with 8 warps
PROGRAMS = 132 * 8  # wanted: 8 of 8 warps are what a processor of an H200 holds at most


def output_like(x: torch.Tensor) -> torch.Tensor:
    """Where a kernel stores a result: Triton's interpreter would cut bfloat16 off, where a GPU and torch round."""
    return torch.empty_like(x, dtype=torch.float32 if x.device.type == "cpu" else x.dtype)


def cut(batch: int, channels: int, positions: int, last: bool) -> tuple[int, int, int, int, int]:
    """How to cut a tensor `[batch, channels, positions]`, in memory channels last or not.

    Returns:
        BLOCK_C, BLOCK_S, blocks of channels, chunks of the positions, positions of a chunk.
    """
    power_c, power_s = triton.next_power_of_2(channels), triton.next_power_of_2(positions)
    # runs that are not aligned are read value by value, and each address takes registers
    values = TILE_VALUES if (channels if last else positions) % 16 == 0 else TILE_VALUES // 2
    block_c = min(power_c, 64 if last else max(1, values // power_s))
    block_s = min(power_s, max(1, values // block_c))
    blocks = triton.cdiv(channels, block_c)
    wanted = triton.cdiv(PROGRAMS, batch * blocks)
    chunk = triton.cdiv(triton.cdiv(positions, wanted), block_s) * block_s
    return block_c, block_s, blocks, triton.cdiv(positions, chunk), chunk


@triton.jit
def place(program, blocks, width, C, S, splits, chunk, LAST: tl.constexpr):
    """Sample and first channel of a program, its chunk, how many positions that has, and the offset of its first value.

    The grid is `[N, blocks, splits]`; offsets of a tensor take 64 bits, those within a tile 32.
    """
    split = program % splits
    c0 = program // splits % blocks * width
    n = (program // splits // blocks).to(tl.int64)
    first = split.to(tl.int64) * chunk
    base = (n * S + first) * C + c0 if LAST else (n * C + c0) * S + first
    return n, c0, split, tl.minimum(S - first, chunk), base


@triton.jit
def lanes(C, S, BLOCK_C: tl.constexpr, BLOCK_S: tl.constexpr, LAST: tl.constexpr):
    """Channel, position and offset of the values of a tile from its first: `[BLOCK_C]`, `[1, BLOCK_S]`, the tile."""
    c, s = tl.arange(0, BLOCK_C), tl.arange(0, BLOCK_S)[None, :]
    offsets = c[:, None] + s * C if LAST else c[:, None] * S + s
    return c, s, offsets


@triton.jit
def column(pointer, index, valid):
    """`[BLOCK_C, 1]` of a vector; zeros without one."""
    if pointer is None:
        return tl.zeros_like(index)[:, None].to(tl.float32)
    else:
        return tl.load(pointer + index, mask=valid, other=0.0)[:, None]


@triton.jit
def read(pointer, base, offsets, mask):
    """Values of a tile as float32, zeros where it sticks out."""
    return tl.load(pointer + base + offsets, mask=mask, other=0.0).to(tl.float32)


@triton.jit
def write(pointer, base, offsets, value, mask):
    """Store a tile in the type of the tensor."""
    tl.store(pointer + base + offsets, value.to(pointer.dtype.element_ty), mask=mask)
