"""Which sizes a U-Net of unpadded convolutions takes, and which it gives."""

from __future__ import annotations

from monai_ext.errors import InputError


def valid_output_size(size: int, levels: int = 4) -> int:
    """Output pixels along an axis of `size` input pixels; 0 if the arithmetic does not allow that size.

    Every level takes 4 pixels for its two 3x3 convolutions and halves the rest, which must be even; the way back
    doubles and takes 4 again.
    """
    for _ in range(levels):
        size -= 4
        if size < 2 or size % 2:
            return 0
        size //= 2
    size -= 4
    for _ in range(levels):
        if size < 1:
            return 0
        size = size * 2 - 4
    return max(0, size)


def smallest_input_size(levels: int = 4) -> int:
    """Fewest input pixels along an axis that leave an output; all legal sizes are this plus a multiple of 2^levels."""
    size = 1
    while not valid_output_size(size, levels):
        size += 1
    return size


def border(levels: int = 4) -> int:
    """Input pixels beyond the output on every side, 92 for four levels, whatever the size."""
    size = smallest_input_size(levels)
    return (size - valid_output_size(size, levels)) // 2


def input_size_for(output: int, levels: int = 4) -> int:
    """Smallest legal input size whose output has at least `output` pixels."""
    smallest = smallest_input_size(levels)
    step = 2**levels
    missing = max(0, output - valid_output_size(smallest, levels))
    return smallest + -(-missing // step) * step


def check_input_size(height: int, width: int, levels: int = 4, where: str = "input") -> None:
    """Raise `InputError` with the nearest legal sizes if an axis does not fit the arithmetic."""
    wrong = [size for size in (height, width) if not valid_output_size(size, levels)]
    if not wrong:
        return
    smallest, step = smallest_input_size(levels), 2**levels
    near = []
    for size in dict.fromkeys(wrong):
        below = smallest + max(0, size - smallest) // step * step
        near.append(f"{size}: {below}" if size < smallest else f"{size}: {below} or {below + step}")
    rule = f"sizes must be {smallest} plus a multiple of {step} for {levels} levels of unpadded convolutions"
    raise InputError(f"{where}: {height} x {width} pixels; {rule}. Cure: the nearest legal sizes, {', '.join(near)}")
