"""A large image that is enlarged tile by tile: as a whole, its network pixels may not fit into memory."""

from __future__ import annotations

from collections.abc import Callable

import torch


class EnlargedImage:
    """An image as its file has it, of which parts are made in network pixels.

    Parts are those of the whole image after bilinear interpolation between pixel centres (`torch.nn.functional.
    interpolate` with `align_corners=False`). Of an 8-bit image enlarged twice it needs a sixteenth of the memory.

    Args:
        values: `[C, H, W]` of any type.
        size: (height, width) in network pixels, not below H and W.
        before: called with parts of `values`, gives `[C, *, *]` float32; pixel by pixel.
        after: the same with interpolated parts.

    Raises:
        ValueError: the image would be made smaller, which needs more than neighbouring pixels.
    """

    def __init__(
        self,
        values: torch.Tensor,
        size: tuple[int, int],
        before: Callable[[torch.Tensor], torch.Tensor],
        after: Callable[[torch.Tensor], torch.Tensor],
    ) -> None:
        if values.ndim != 3 or size[0] < values.shape[1] or size[1] < values.shape[2]:
            raise ValueError(f"an image {tuple(values.shape)} cannot be enlarged to {size}")
        self.values = values
        self.shape = (1, int(values.shape[0]), *size)
        self.before, self.after = before, after

    def __len__(self) -> int:
        """One image."""
        return 1

    def part(self, top: int, left: int, height: int, width: int) -> torch.Tensor:
        """`[C, height, width]` float32, on the device of the values."""
        rows, columns = self._places(top, height, 0), self._places(left, width, 1)
        (y, down), (x, across) = rows, columns
        y0, y1, x0, x1 = int(y[0]), int(y[-1]) + 2, int(x[0]), int(x[-1]) + 2
        known = self.before(self.values[:, y0:y1, x0:x1])
        lines, pixels = known.shape[1:]
        y, x = y - y0, x - x0
        upper, lower = known[:, y], known[:, (y + 1).clamp_max(lines - 1)]
        strip = torch.lerp(upper, lower, down[:, None])
        return self.after(torch.lerp(strip[..., x], strip[..., (x + 1).clamp_max(pixels - 1)], across))

    def _places(self, first: int, length: int, axis: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Pixel before each network pixel, and the fraction of the way to the next."""
        full, size = self.values.shape[axis + 1], self.shape[axis + 2]
        at = (torch.arange(first, first + length, dtype=torch.float64) + 0.5) * (full / size) - 0.5
        at = at.clamp(0, full - 1)
        before = at.floor()
        return before.long(), (at - before).float()
