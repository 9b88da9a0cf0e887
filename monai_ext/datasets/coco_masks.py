"""Masks of objects as COCO stores them: polygons, run lengths, and run lengths packed into a string.

COCO counts pixels down the columns: pixel (row y, column x) of an image of height H has the position `x * H + y`. All
three forms become runs of positions here, so that the cost of an object is that of its outline and not of its image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

# COCO's rasteriser walks along outlines on a grid five times as fine as the pixels; a pixel's centre is its third line
GRID = 5
CENTRE = GRID // 2
FIRST_CHARACTER = 48
CHARACTER_BITS, MORE, SIGN = 5, 32, 16
FEWEST_POINTS = 3
PAIRS_AT_ONCE = 2**20  # of sides, so that outlines of thousands of points need little memory


@dataclass(frozen=True, eq=False)
class PixelRuns:
    """A mask as runs of pixels, positions counted down the columns.

    Attributes:
        starts, ends: `[N]` int64, ascending, half open, neither empty nor touching each other.
        height, width: of the image.
    """

    starts: np.ndarray
    ends: np.ndarray
    height: int
    width: int

    @classmethod
    def from_edges(cls, edges: np.ndarray, height: int, width: int) -> PixelRuns:
        """From ascending positions (an even number) at which the mask turns from 0 to 1 and back."""
        return cls.from_intervals(edges[0::2], edges[1::2], height, width)

    @classmethod
    def from_intervals(cls, starts: np.ndarray, ends: np.ndarray, height: int, width: int) -> PixelRuns:
        """The union of half-open intervals of positions, in any order; they may be empty or overlap."""
        kept = ends > starts
        starts, ends = starts[kept].astype(np.int64), ends[kept].astype(np.int64)
        if len(starts) > 1:
            order = np.argsort(starts, kind="stable")
            starts, reach = starts[order], np.maximum.accumulate(ends[order])
            first = np.concatenate([[True], starts[1:] > reach[:-1]])
            starts, ends = starts[first], reach[np.concatenate([first[1:], [True]])]
        return cls(starts, ends, height, width)

    @classmethod
    def from_counts(cls, counts: Sequence[int] | np.ndarray, height: int, width: int) -> PixelRuns:
        """From run lengths, those of 0 and 1 in turn, 0 first.

        Raises:
            ValueError: a length is negative, or together they are not the pixels of the image.
        """
        lengths = np.asarray(counts, dtype=np.int64)
        check_counts(lengths, height, width)
        edges = np.cumsum(lengths)
        return cls.from_edges(edges if len(edges) % 2 == 0 else edges[:-1], height, width)

    @classmethod
    def from_mask(cls, mask: np.ndarray) -> PixelRuns:
        """From a mask `[H, W]`, true inside."""
        inside = np.concatenate([[0], np.asarray(mask, dtype=bool).ravel(order="F").view(np.int8), [0]])
        return cls.from_edges(np.flatnonzero(np.diff(inside)), *mask.shape)

    @classmethod
    def from_polygons(cls, polygons: Sequence[Sequence[float] | np.ndarray], height: int, width: int) -> PixelRuns:
        """The union of polygons (x0, y0, x1, y1, ...) in pixels, (0, 0) being the corner of the first pixel.

        Each is filled by the even-odd rule with the rounding of COCO's own tools, so areas and AP agree with theirs: a
        rectangle with whole-number corners holds exactly its pixels.
        """
        crossings = [polygon_edges(polygon, height, width) for polygon in polygons]
        starts = np.concatenate([found[0::2] for found in crossings] or [np.zeros(0, np.int64)])
        ends = np.concatenate([found[1::2] for found in crossings] or [np.zeros(0, np.int64)])
        return cls.from_intervals(starts, ends, height, width)

    @property
    def area(self) -> int:
        """Pixels."""
        return int((self.ends - self.starts).sum())

    def box(self) -> tuple[int, int, int, int]:
        """(x0, y0, x1, y1) of the pixels, half open; zeros for an empty mask."""
        if not len(self.starts):
            return 0, 0, 0, 0
        last = self.ends - 1
        first_columns, last_columns = self.starts // self.height, last // self.height
        rows = (0, self.height)  # a run over the end of a column holds its last row and the first of the next
        if (first_columns == last_columns).all():
            rows = int((self.starts % self.height).min()), int((last % self.height).max()) + 1
        return int(first_columns[0]), rows[0], int(last_columns[-1]) + 1, rows[1]

    def positions(self) -> np.ndarray:
        """`[area]` int64, the position of every pixel, ascending."""
        lengths = self.ends - self.starts
        before = np.cumsum(lengths) - lengths
        return np.arange(self.area) + np.repeat(self.starts - before, lengths)

    def mask(self) -> np.ndarray:
        """`[H, W]` bool."""
        flat = np.zeros(self.height * self.width, dtype=bool)
        flat[self.positions()] = True
        return flat.reshape(self.width, self.height).T

    def counts(self) -> np.ndarray:
        """Run lengths of 0 and 1 in turn, 0 first, int64; they sum to height * width."""
        edges = np.stack([self.starts, self.ends], axis=1).ravel()
        size = self.height * self.width
        closed = [] if len(edges) and edges[-1] == size else [size]
        return np.diff(np.concatenate([[0], edges, closed])).astype(np.int64)

    def to_coco(self) -> dict[str, Any]:
        """`{"size": [H, W], "counts": string}` as results files have it."""
        return {"size": [self.height, self.width], "counts": pack_counts(self.counts())}


def runs_of_label_map(label_map: np.ndarray) -> list[PixelRuns]:
    """Masks of all objects of a label map `[H, W]`, object i + 1 at place i, without a plane for each.

    Numbers that do not occur give empty masks.
    """
    height, width = label_map.shape
    flat = label_map.ravel(order="F")
    edges = np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1, [flat.size]])
    starts, ends = edges[:-1], edges[1:]
    values = flat[starts] if flat.size else flat
    inside = np.flatnonzero(values)
    order = inside[np.argsort(values[inside], kind="stable")]
    last = int(values.max(initial=0))
    bounds = np.searchsorted(values[order], np.arange(1, last + 2))
    groups = [order[first:end] for first, end in pairwise(bounds)]
    return [PixelRuns(starts[group], ends[group], height, width) for group in groups]


def unpack_counts(text: str | bytes) -> np.ndarray:
    """Run lengths out of COCO's string.

    Each number is split into groups of 5 bits, lowest first, one character each; from the fourth number on it is the
    difference to the number two before.

    Returns:
        `[N]` int64.

    Raises:
        ValueError: a character that cannot occur, or the string ends within a number.
    """
    try:
        codes = np.frombuffer(text.encode("ascii") if isinstance(text, str) else text, dtype=np.uint8)
    except UnicodeEncodeError:
        raise ValueError("holds characters that are no run lengths") from None
    values = codes.astype(np.int64) - FIRST_CHARACTER
    if values.size and (values.min() < 0 or values.max() >= 2 * MORE):
        raise ValueError("holds characters that are no run lengths")
    if not values.size:
        return values
    is_last = values & MORE == 0
    if not is_last[-1]:
        raise ValueError("is cut off within a number")
    lasts = np.flatnonzero(is_last)
    firsts = np.concatenate([[0], lasts[:-1] + 1])
    places = np.arange(len(values)) - np.repeat(firsts, lasts - firsts + 1)
    if places.max() * CHARACTER_BITS >= 60:
        raise ValueError("holds a number beyond all image sizes")
    numbers = np.add.reduceat((values & (MORE - 1)) << (CHARACTER_BITS * places), firsts)
    negative = values[lasts] & SIGN != 0
    numbers -= np.where(negative, 1 << (CHARACTER_BITS * (lasts - firsts + 1)), 0)
    numbers[1::2] = np.cumsum(numbers[1::2])
    numbers[2::2] = np.cumsum(numbers[2::2])
    return numbers


def check_counts(counts: np.ndarray, height: int, width: int) -> None:
    """Require run lengths of the pixels of an image.

    Raises:
        ValueError: a length is negative, or together they are not the pixels of the image.
    """
    if counts.size and counts.min() < 0:
        raise ValueError(f"holds a run of length {counts.min()}")
    total = int(counts.sum())
    if total != height * width:
        raise ValueError(f"covers {total} pixels, an image of {height}x{width} has {height * width}")


def pack_counts(counts: Sequence[int] | np.ndarray) -> str:
    """The string of run lengths, see `unpack_counts`."""
    numbers = np.array(counts, dtype=np.int64)
    numbers[3:] -= np.asarray(counts, dtype=np.int64)[1:-2]
    characters = bytearray()
    for number in numbers.tolist():
        more = True
        while more:
            group = number & (MORE - 1)
            number >>= CHARACTER_BITS
            # the rest is all sign, and the sign shows in this group
            more = number != (-1 if group & SIGN else 0)
            characters.append(FIRST_CHARACTER + group + (MORE if more else 0))
    return characters.decode("ascii")


def polygon_edges(polygon: Sequence[float] | np.ndarray, height: int, width: int) -> np.ndarray:
    """Positions at which the outline of a polygon crosses the centre lines of columns, ascending, in pairs.

    Args:
        polygon: (x0, y0, x1, y1, ...), at least three points.
        height, width: of the image; what lies outside is cut off.
    """
    # C's conversion to whole numbers, which COCO's tools use, rounds towards zero: so does astype
    points = (GRID * np.asarray(polygon, dtype=np.float64).reshape(-1, 2) + 0.5).astype(np.int64)
    x0, y0 = points.T
    x1, y1 = np.roll(points, -1, axis=0).T
    run, rise = np.abs(x1 - x0), np.abs(y1 - y0)
    flat = run >= rise
    # lines are walked from left to right (top to bottom if steep) whichever way the polygon goes
    swapped = np.where(flat, x0 > x1, y0 > y1)
    x0, x1 = np.where(swapped, x1, x0), np.where(swapped, x0, x1)
    y0, y1 = np.where(swapped, y1, y0), np.where(swapped, y0, y1)
    steps = np.maximum(run, rise)
    slope = np.where(flat, y1 - y0, x1 - x0) / np.maximum(steps, 1)
    side = np.repeat(np.arange(len(steps)), steps)
    step = np.arange(len(side)) - np.repeat(np.cumsum(steps) - steps, steps)
    beginning = np.where(flat, y0, x0)[side]
    before = (beginning + slope[side] * step + 0.5).astype(np.int64)
    after = (beginning + slope[side] * (step + 1) + 0.5).astype(np.int64)
    along = np.where(flat, x0, y0)[side] + step
    is_flat = flat[side]
    left = np.where(is_flat, along, np.minimum(before, after))
    right = np.where(is_flat, along + 1, np.maximum(before, after))
    top = np.where(is_flat, np.minimum(before, after), along)
    column, line = np.divmod(left, GRID)
    crossing = (left != right) & (line == CENTRE) & (column >= 0) & (column < width)
    rows = np.ceil(np.clip((top[crossing] + 0.5) / GRID - 0.5, 0, height)).astype(np.int64)
    return np.sort(column[crossing] * height + rows)


def crosses_itself(polygon: Sequence[float] | np.ndarray) -> bool:
    """Whether two sides of a polygon cross properly; sides that only touch do not count."""
    points = np.asarray(polygon, dtype=np.float64).reshape(-1, 2)
    if len(points) <= FEWEST_POINTS:
        return False
    closed = np.concatenate([points, points[:1]])
    block = max(1, PAIRS_AT_ONCE // len(points))
    for first in range(0, len(points), block):
        some = closed[first : first + block + 1]
        parted = _parted(some, closed)
        # a side crosses another if each has the ends of the other on different hands
        parting = parted if len(some) == len(closed) else _parted(closed, some)
        if (parted & parting.T).any():
            return True
    return False


def _parted(path: np.ndarray, other: np.ndarray) -> np.ndarray:
    """`[sides of path, sides of other]`: whether the line of the one has the ends of the other on different hands."""
    x, y = np.diff(path, axis=0).T[:, :, None]
    hand = x * (other[:, 1] - path[:-1, 1:]) - y * (other[:, 0] - path[:-1, :1])
    return hand[:, 1:] * hand[:, :-1] < 0
