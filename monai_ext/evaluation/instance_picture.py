"""Pictures of objects: each in a colour of its own, or reference and prediction with what is right and what is not."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from monai_ext.evaluation.image_grid import shortened
from monai_ext.evaluation.instance_scores import THRESHOLDS, overlap_table
from monai_ext.evaluation.overlay_picture import BACKGROUND, GAP, TEXT

RIGHT, MISSED, WRONG = (0, 215, 130), (255, 170, 0), (240, 70, 60)
PANEL, FONT_SIZE = 340, 14
NUM_COLOURS = 97
GOLDEN = 0.618034  # neighbours in number are far apart in hue
Colour = tuple[int, int, int]


@dataclass(frozen=True, eq=False)
class DrawnImage:
    """An image with its objects.

    Attributes:
        image: `[H, W, 3]` uint8.
        reference: `[H, W]` integer label map, 0 for none; None: unknown.
        prediction: `[H, W]` integer label map.
        caption: line above it.
        crowd: `[H, W]` bool, regions that do not count; None: nowhere.
        reference_labels, prediction_labels: `[G]`, `[P]` classes of the objects; None: all the same.
    """

    image: np.ndarray
    reference: np.ndarray | None
    prediction: np.ndarray
    caption: str = ""
    crowd: np.ndarray | None = None
    reference_labels: np.ndarray | None = None
    prediction_labels: np.ndarray | None = None


def instance_overlay(image: np.ndarray, label_map: np.ndarray, fill: float = 0.3) -> np.ndarray:
    """Every object filled and outlined in a colour of its own.

    Args:
        image: `[H, W, 3]` uint8.
        label_map: `[H, W]` integer, 0 for none.
        fill: share of the colour inside of the outline, 0 to 1.

    Returns:
        `[H, W, 3]` uint8.

    Raises:
        ValueError: the sizes differ.
    """
    if image.shape != (*label_map.shape, 3):
        raise ValueError(f"image must be {(*label_map.shape, 3)} as the label map, got {image.shape}")
    colours = np.array([_hue(i) for i in range(NUM_COLOURS)], dtype=np.float32)
    shown = image.copy()
    rows, columns = np.nonzero(label_map)
    own = colours[label_map[rows, columns] % NUM_COLOURS]
    shown[rows, columns] = ((1 - fill) * image[rows, columns] + fill * own).round().astype(np.uint8)
    edge = outlines(label_map)
    shown[edge] = colours[label_map[edge] % NUM_COLOURS].astype(np.uint8)
    return shown


def outlines(label_map: np.ndarray, width: int = 1) -> np.ndarray:
    """`[H, W]` bool: pixels of objects at most `width` pixels from another object or none, along rows or columns."""
    edge = np.zeros(label_map.shape, dtype=bool)
    for distance in range(1, width + 1):
        for axis in (0, 1):
            before = np.moveaxis(label_map, axis, 0)[:-distance]
            after = np.moveaxis(label_map, axis, 0)[distance:]
            turned = np.moveaxis(edge, axis, 0)
            turned[:-distance] |= before != after
            turned[distance:] |= before != after
    return edge & (label_map != 0)


def picture_of(values: np.ndarray) -> np.ndarray:
    """An image of any range of values as one can look at it: from its 0.5th to its 99.5th percentile.

    Args:
        values: `[C, H, W]`; channels 1 to 3 are shown if there are three or more, else the first.

    Returns:
        `[H, W, 3]` uint8.
    """
    chosen = values[:3] if len(values) >= 3 else np.repeat(values[:1], 3, axis=0)
    chosen = np.nan_to_num(chosen.astype(np.float32), posinf=0.0, neginf=0.0)
    low, high = np.percentile(chosen, [0.5, 99.5]) if chosen.size else (0.0, 1.0)
    scaled = np.clip((chosen - low) / max(float(high - low), 1e-6), 0, 1)
    return np.asarray((255 * scaled).round().astype(np.uint8).transpose(1, 2, 0))


def compose_instances(rows: Sequence[DrawnImage], title: str = "", panel: int = PANEL) -> np.ndarray:
    """A row per image: the image, the reference (green found, orange missed), the prediction (green right, red wrong).

    Right is what overlaps an annotated object of the same class by an intersection over union above 0.5.

    Args:
        rows: images; without reference the prediction is drawn in colours.
        title: first line.
        panel: longer side of an image in the picture, pixels.

    Returns:
        `[height, width, 3]` uint8 RGB.

    Raises:
        ValueError: no rows.
    """
    from PIL import Image, ImageDraw, ImageFont

    if not rows:
        raise ValueError("there must be at least one image to draw")
    font = ImageFont.load_default(FONT_SIZE)
    line = FONT_SIZE + GAP
    sizes = [_panel_size(row.image.shape[:2], panel) for row in rows]
    columns = 3 if any(row.reference is not None for row in rows) else 2
    width = GAP + columns * (max(size[1] for size in sizes) + GAP)
    top = GAP + (line if title else 0)
    page = Image.new("RGB", (width, top + sum(size[0] + 2 * line + GAP for size in sizes)), BACKGROUND)
    draw = ImageDraw.Draw(page)
    if title:
        draw.text((GAP, GAP), shortened(title, font, width - 2 * GAP), TEXT, font)
    for row, size in zip(rows, sizes, strict=True):
        draw.text((GAP, top), shortened(row.caption, font, width - 2 * GAP), TEXT, font)
        left = GAP
        for shown, lines in _panels(row, size):
            offset = left
            for text, colour in lines:
                draw.text((offset, top + line), text, colour, font)
                offset += int(font.getlength(text)) + GAP
            page.paste(Image.fromarray(shown), (left, top + 2 * line))
            left += (width - GAP) // columns
        top += size[0] + 2 * line + GAP
    return np.array(page)


Line = list[tuple[str, Colour]]


def _panels(row: DrawnImage, size: tuple[int, int]) -> list[tuple[np.ndarray, Line]]:
    """Pictures of an image side by side, and what is written above each."""
    from PIL import Image

    base = np.array(Image.fromarray(row.image).resize(size[::-1], Image.Resampling.BICUBIC))
    plain: Line = [("image", TEXT)]
    if row.reference is None:
        count = len(np.unique(row.prediction[row.prediction > 0]))
        coloured = instance_overlay(base, _enlarged(row.prediction, size))
        return [(base, plain), (coloured, [(f"prediction: {count} objects", TEXT)])]
    found, right, ignored = judged(row)
    width = 2 if size[0] >= row.image.shape[0] else 1
    both = [np.where(found, 1, 2), np.where(right, 1, np.where(ignored, 0, 3))]
    pictures = [
        _with_outlines(base, _enlarged(labels, size), kinds, width)
        for labels, kinds in zip((row.reference, row.prediction), both, strict=True)
    ]
    missed, wrong = int((~found).sum()), int((~right & ~ignored).sum())
    reference: Line = [
        (f"reference: {int(found.sum())} found", RIGHT),
        (f"{missed} missed", MISSED if missed else TEXT),
    ]
    prediction: Line = [
        (f"prediction: {int(right.sum())} right", RIGHT),
        (f"{wrong} wrong", WRONG if wrong else TEXT),
    ]
    return [(base, plain), (pictures[0], reference), (pictures[1], prediction)]


def judged(row: DrawnImage) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Which annotated objects are found `[G]`, which predicted ones are right `[P]`, and which do not count `[P]`."""
    if row.reference is None:
        raise ValueError(f"{row.caption}: without a reference nothing is right or wrong")
    count = int(row.prediction.max(initial=0)) if row.prediction_labels is None else len(row.prediction_labels)
    # the score carries the number of an object through the choice of those that count
    numbers = np.arange(count, dtype=np.float64)
    overlaps = overlap_table(
        row.reference, row.prediction, row.reference_labels, row.prediction_labels, numbers, row.crowd
    )
    places = overlaps.found_scores.astype(np.int64)
    unions = overlaps.reference_areas[overlaps.reference] + overlaps.found_areas[overlaps.found] - overlaps.counts
    same = overlaps.reference_labels[overlaps.reference] == overlaps.found_labels[overlaps.found]
    matched = same & (overlaps.counts > THRESHOLDS[0] * unions)
    found = np.zeros(len(overlaps.reference_areas), dtype=bool)
    found[overlaps.reference[matched]] = True
    right = np.zeros(count, dtype=bool)
    right[places[overlaps.found[matched]]] = True
    ignored = np.ones(count, dtype=bool)
    ignored[places] = False
    return found, right, ignored


def _with_outlines(base: np.ndarray, label_map: np.ndarray, kinds: np.ndarray, width: int) -> np.ndarray:
    """`base` with the outlines of objects; `kinds` `[N]` holds 1 right, 2 missed, 3 wrong, 0 not drawn, per object."""
    colours = np.array([(0, 0, 0), RIGHT, MISSED, WRONG], dtype=np.uint8)
    edge = outlines(label_map, width)
    kind = np.concatenate([[0], kinds])[label_map]
    edge &= kind > 0
    shown = base.copy()
    shown[edge] = colours[kind[edge]]
    return shown


def _enlarged(label_map: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    rows = ((np.arange(size[0]) + 0.5) * label_map.shape[0] / size[0]).astype(int)
    columns = ((np.arange(size[1]) + 0.5) * label_map.shape[1] / size[1]).astype(int)
    return np.asarray(label_map[rows[:, None], columns])


def _panel_size(shape: Sequence[int], panel: int) -> tuple[int, int]:
    height, width = (max(1, round(panel * n / max(1, *shape))) for n in shape)
    return height, width


def _hue(number: int) -> Colour:
    red, green, blue = colorsys.hsv_to_rgb(number * GOLDEN % 1, 0.55 + 0.4 * (number % 2), 1.0)
    return round(255 * red), round(255 * green), round(255 * blue)
