"""Confusion matrix and reliability diagram as pictures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from monai_ext.evaluation.calibration import ReliabilityBins
from monai_ext.evaluation.image_grid import RIGHT, WRONG, Colour, shortened
from monai_ext.evaluation.overlay_picture import BACKGROUND, GAP, TEXT

FONT_SIZE, SMALL_FONT_SIZE = 15, 12
LONGEST_NAME = 150  # pixels
MATRIX_SIDE, LARGEST_CELL, NAMED_CELL, COUNTED_CELL = 480, 64, 13, 26
PLOT, AXIS_SPACE = 320, 34
EMPTY, AXIS = (34, 34, 40), (130, 130, 140)
BEFORE, AFTER = (230, 159, 0), (86, 180, 233)
OUTCOMES = ("found", "missed", "false alarm", "rightly not")


def compose_confusion(
    matrix: np.ndarray, classes: Sequence[str], title: str = "confusion matrix", multi_label: bool = False
) -> np.ndarray:
    """Confusion matrix: rows true classes, columns predicted ones, shaded by the share of the row; right in green.

    Of a multi-label classifier: a row per class with the cases in which it was found, missed, a false alarm, or
    rightly not there; the first two are shaded by their share of the cases with the class, the others of those without.

    Many classes get small cells: counts are left out first, then names.

    Args:
        matrix: `[K, K]` counts, or `[K, 4]` of `label_counts` if `multi_label`.
        classes: names of the K rows.
        title: first line.
        multi_label: which of both.

    Returns:
        `[height, width, 3]` uint8 RGB.

    Raises:
        ValueError: the matrix does not fit the classes.
    """
    from PIL import Image, ImageDraw, ImageFont

    count = len(classes)
    expected = (count, 4 if multi_label else count)
    if matrix.shape != expected:
        raise ValueError(f"matrix must be {list(expected)} for {count} classes, got {list(matrix.shape)}")
    columns: Sequence[str] = OUTCOMES if multi_label else classes
    cell = max(2, min(LARGEST_CELL, MATRIX_SIDE // count))
    named = cell >= NAMED_CELL
    font, small = ImageFont.load_default(FONT_SIZE), ImageFont.load_default(SMALL_FONT_SIZE)
    rows = [shortened(name, small, LONGEST_NAME) for name in classes] if named else []
    tops = [shortened(name, small, LONGEST_NAME) for name in columns] if named or multi_label else []
    row_width = int(max((small.getlength(name) for name in rows), default=0)) + GAP
    cell_width = LARGEST_CELL if multi_label else cell
    longest = int(max((small.getlength(name) for name in tops), default=0))
    upright = longest <= cell_width - 4
    top_height = 4 + (SMALL_FONT_SIZE if upright else longest)
    note = "rows: class, columns: outcome" if multi_label else "rows: true class, columns: predicted"
    left, top = GAP + row_width, GAP + 2 * (FONT_SIZE + GAP // 2) + top_height
    recall_width = int(small.getlength("sensitivity")) + GAP if named else 0
    wide = left + len(columns) * cell_width + GAP + recall_width
    page_width = max(wide, int(max(font.getlength(title), small.getlength(note))) + 2 * GAP)
    page = Image.new("RGB", (page_width, top + count * cell + GAP), BACKGROUND)
    draw = ImageDraw.Draw(page)
    draw.text((GAP, GAP), title, TEXT, font)
    draw.text((GAP, GAP + FONT_SIZE + GAP // 2), note, AXIS, small)
    for i, name in enumerate(tops):
        x = left + i * cell_width
        if upright:
            draw.text((x + cell_width / 2, top - 4), name, TEXT, small, anchor="ms")
        else:
            _draw_vertical(page, name, (x + cell_width // 2, top - 4), small)
    page.paste(Image.fromarray(_cells(matrix, multi_label, cell, cell_width)), (left, top))
    for i in range(count if named else 0):
        y = top + i * cell + cell / 2
        draw.text((left - GAP, y), rows[i], TEXT, small, anchor="rm")
        for j in range(len(columns)):
            text = str(int(matrix[i, j]))
            wanted = matrix[i, j] or (j in (0, 3) if multi_label else i == j)
            if wanted and cell >= COUNTED_CELL and small.getlength(text) <= cell_width - 4:
                draw.text((left + j * cell_width + cell_width / 2, y), text, TEXT, small, anchor="mm")
        present = matrix[i, :2].sum() if multi_label else matrix[i].sum()
        hits = matrix[i, 0] if multi_label else matrix[i, i]
        recall = f"{100 * hits / present:.1f} %" if present else "-"
        draw.text((left + len(columns) * cell_width + GAP, y), recall, TEXT, small, anchor="lm")
    if named:
        draw.text((left + len(columns) * cell_width + GAP, top - 4), "sensitivity", AXIS, small, anchor="ls")
    return np.array(page)


def compose_reliability(
    before: ReliabilityBins, after: ReliabilityBins | None = None, title: str = "reliability"
) -> np.ndarray:
    """Reliability diagram: accuracy over confidence, a point per bin as large as its share of cases.

    Args:
        before: of the probabilities as the network gives them.
        after: of the corrected ones, if any.
        title: first line.

    Returns:
        `[height, width, 3]` uint8 RGB.
    """
    from PIL import Image, ImageDraw, ImageFont

    font, small = ImageFont.load_default(FONT_SIZE), ImageFont.load_default(SMALL_FONT_SIZE)
    line = FONT_SIZE + GAP // 2
    curves = [("as given", before, BEFORE)] + ([("corrected", after, AFTER)] if after is not None else [])
    left, top = AXIS_SPACE + GAP, GAP + (1 + len(curves)) * line + GAP
    page = Image.new("RGB", (left + PLOT + 2 * GAP, top + PLOT + AXIS_SPACE + GAP), BACKGROUND)
    draw = ImageDraw.Draw(page)
    draw.text((GAP, GAP), title, TEXT, font)
    draw.rectangle((left, top, left + PLOT, top + PLOT), fill=EMPTY, outline=AXIS)
    for tick in range(6):
        offset = round(PLOT * tick / 5)
        draw.line((left + offset, top, left + offset, top + PLOT), fill=(52, 52, 60))
        draw.line((left, top + offset, left + PLOT, top + offset), fill=(52, 52, 60))
        draw.text((left + offset, top + PLOT + 4), f"{tick / 5:g}", AXIS, small, anchor="mt")
        draw.text((left - 4, top + PLOT - offset), f"{tick / 5:g}", AXIS, small, anchor="rm")
    draw.line((left, top + PLOT, left + PLOT, top), fill=AXIS)
    draw.text((left + PLOT / 2, top + PLOT + 20), "confidence", AXIS, small, anchor="mt")
    _draw_vertical(page, "accuracy", (SMALL_FONT_SIZE // 2 + 4, top + PLOT // 2 + 24), small, AXIS)
    for k, (name, bins, colour) in enumerate(curves):
        draw.ellipse((GAP, GAP + (k + 1) * line + 4, GAP + 8, GAP + (k + 1) * line + 12), fill=colour)
        text = f"{name}: calibration error {100 * bins.expected_error:.2f} %"
        draw.text((GAP + 16, GAP + (k + 1) * line + 1), text, TEXT, small)
        total = max(1, sum(bins.count))
        points = [
            (left + PLOT * c, top + PLOT * (1 - a), 3 + 9 * (n / total) ** 0.5)
            for n, c, a in zip(bins.count, bins.confidence, bins.accuracy, strict=True)
            if n
        ]
        draw.line([(x, y) for x, y, _ in points], fill=colour, width=2)
        for x, y, radius in points:
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour, outline=BACKGROUND)
    return np.array(page)


def _cells(matrix: np.ndarray, multi_label: bool, height: int, width: int) -> np.ndarray:
    """Shaded cells `[rows * height, columns * width, 3]` uint8."""
    if multi_label:
        halves = [matrix[:, :2], matrix[:, 2:]]
        shares = np.concatenate([half / np.maximum(half.sum(1, keepdims=True), 1) for half in halves], 1)
        right = np.broadcast_to([True, False, False, True], matrix.shape)
    else:
        shares = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
        right = np.eye(len(matrix), dtype=bool)
    strength = 0.85 * np.sqrt(shares)[..., None]  # few errors must still be seen
    colours = EMPTY + strength * (np.where(right[..., None], RIGHT, WRONG) - np.array(EMPTY))
    cells = colours.round().astype(np.uint8).repeat(height, 0).repeat(width, 1)
    if height > 6:
        cells[height - 1 :: height] = BACKGROUND
        cells[:, width - 1 :: width] = BACKGROUND
    return cells


def _draw_vertical(page: Any, text: str, foot: tuple[int, int], font: Any, colour: Colour = TEXT) -> None:
    """Write upwards; `foot` is the middle of the line below the first letter."""
    from PIL import Image, ImageDraw

    size = (int(font.getlength(text)) + 2, SMALL_FONT_SIZE + 4)
    strip = Image.new("L", size, 0)
    ImageDraw.Draw(strip).text((0, 0), text, 255, font)
    turned = strip.rotate(90, expand=True)
    page.paste(colour, (foot[0] - turned.width // 2, foot[1] - turned.height), turned)
