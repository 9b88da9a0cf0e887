"""Picture of a case: slices with the outlines of reference and prediction side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from monai_ext.atomic_files import replacing

if TYPE_CHECKING:
    from PIL import ImageDraw, ImageFont

# Bright hues that differ in lightness too, so that they stay apart on grey and for most colour-blind readers
# (after Okabe and Ito); from the ninth class on they repeat.
COLOURS = (
    (240, 228, 66),
    (86, 180, 233),
    (230, 80, 60),
    (0, 200, 130),
    (224, 130, 200),
    (230, 159, 0),
    (60, 110, 230),
    (250, 250, 250),
)
BACKGROUND = (18, 18, 22)
TEXT = (235, 235, 235)
PANEL_SIZE = 360
COLUMNS = ("image", "reference", "prediction")
GAP = 8
FONT_SIZE = 16


def draw_overlay(
    path: Path,
    image: np.ndarray,
    reference: np.ndarray,
    prediction: np.ndarray,
    classes: Mapping[str, int],
    spacing: Sequence[float],
    title: str = "",
    num_slices: int = 3,
) -> None:
    """Write the picture of `compose_overlay` as a PNG file, whole or not at all; `title` defaults to the file name."""
    path = Path(path)
    save_picture(path, compose_overlay(image, reference, prediction, classes, spacing, title or path.stem, num_slices))


def save_picture(path: Path, picture: np.ndarray) -> None:
    """Write `[height, width, 3]` uint8 RGB as a PNG file, whole or not at all."""
    from PIL import Image

    with replacing(path) as partial:
        Image.fromarray(picture).save(partial, format="PNG")


def compose_overlay(
    image: np.ndarray,
    reference: np.ndarray,
    prediction: np.ndarray,
    classes: Mapping[str, int],
    spacing: Sequence[float],
    title: str = "",
    num_slices: int = 3,
) -> np.ndarray:
    """Rows of slices along axis 0; columns image, image with reference outlines, image with prediction outlines.

    Slices are those with the most foreground in reference or prediction, kept a little apart. In arrays of canonical
    orientation (axes z, y, x towards superior, anterior, right) anterior is up and the patient's right is on the left,
    as radiologists are used to.

    Args:
        image: `[D, H, W]`, any real dtype; grey values from the 0.5th to the 99.5th percentile of the shown slices.
        reference: `[D, H, W]` integer labels.
        prediction: `[D, H, W]` integer labels.
        classes: class name to value; background 0 is skipped. The legend follows this order.
        spacing: voxel size per array axis (z, y, x); slices keep their true proportions.
        title: first line of the picture.
        num_slices: rows, fewer if the volume has fewer slices.

    Returns:
        `[height, width, 3]` uint8 RGB; for TensorBoard use `add_image(..., dataformats="HWC")`.

    Raises:
        ValueError: the arrays are not three-dimensional and of one shape, or `num_slices` is below 1.
    """
    from PIL import Image, ImageDraw

    shapes = {image.shape, reference.shape, prediction.shape}
    if len(shapes) != 1 or image.ndim != 3:
        raise ValueError(
            f"image, reference and prediction must be [D, H, W] of one shape, got {image.shape}, {reference.shape}, "
            f"{prediction.shape}"
        )
    if num_slices < 1:
        raise ValueError(f"num_slices must be at least 1, got {num_slices}")
    foreground = {name: value for name, value in classes.items() if value != 0}
    colours = {value: COLOURS[i % len(COLOURS)] for i, value in enumerate(foreground.values())}
    rows = choose_slices(reference, prediction, list(colours), num_slices)
    height, width = _panel_size(image.shape[1:], spacing[1:])
    grey = _grey(image[rows])

    font = _font()
    line = FONT_SIZE + GAP
    left = int(font.getlength(f"slice {image.shape[0]}")) + 2 * GAP
    top = GAP + (line if title else 0) + line
    page_width = left + 3 * (width + GAP)
    legend = _legend_lines(list(foreground), font, page_width - left - GAP)
    page_height = top + len(rows) * (height + GAP) + len(legend) * line + GAP
    page = Image.new("RGB", (page_width, page_height), BACKGROUND)
    draw = ImageDraw.Draw(page)
    if title:
        draw.text((left, GAP), _shortened(title, font, page_width - left - GAP), TEXT, font)
    for column, name in enumerate(COLUMNS):
        draw.text((left + column * (width + GAP), top - line), name, TEXT, font)
    for i, row in enumerate(rows):
        y = top + i * (height + GAP)
        draw.text((GAP, y), f"slice {row}", TEXT, font)
        panel = Image.fromarray(_upright(grey[i])).resize((width, height), Image.Resampling.BICUBIC)
        base = np.repeat(np.asarray(panel)[..., None], 3, axis=-1)
        for column, labels in enumerate((None, reference[row], prediction[row])):
            shown = base if labels is None else _with_outlines(base, _upright(labels), colours)
            page.paste(Image.fromarray(shown), (left + column * (width + GAP), y))
    _draw_legend(draw, legend, foreground, colours, (left, page_height - GAP - len(legend) * line), font)
    return np.array(page)


def choose_slices(reference: np.ndarray, prediction: np.ndarray, values: Sequence[int], count: int) -> list[int]:
    """Indices along axis 0 with the most voxels of `values` in either map, a little apart from each other, ascending.

    Without any foreground they are spread evenly.
    """
    depth = reference.shape[0]
    count = min(count, depth)
    area = np.array(
        [np.count_nonzero(np.isin(reference[z], values) | np.isin(prediction[z], values)) for z in range(depth)]
    )
    if not area.any():
        return (
            [int(z) for z in np.linspace(0, depth - 1, count + 2).round()[1:-1]]
            if count < depth
            else list(range(depth))
        )
    # neighbouring slices look alike: ask for a distance, and give way if the foreground is too thin for it
    distance = max(1, int(np.count_nonzero(area)) // (2 * count))
    order = [int(z) for z in np.argsort(-area, kind="stable")]
    chosen: list[int] = []
    while len(chosen) < count:
        for z in order:
            if len(chosen) < count and all(abs(z - other) >= distance for other in chosen):
                chosen.append(z)
        distance = max(1, distance // 2)
    return sorted(chosen)


def _panel_size(shape: Sequence[int], spacing: Sequence[float]) -> tuple[int, int]:
    """Height and width in pixels, in true proportions, the longer one `PANEL_SIZE`."""
    extent = [n * s for n, s in zip(shape, spacing, strict=True)]
    height, width = (max(1, round(PANEL_SIZE * e / max(extent))) for e in extent)
    return height, width


def _grey(slices: np.ndarray) -> np.ndarray:
    """uint8 grey values between the outer half percents."""
    slices = np.nan_to_num(slices.astype(np.float32), posinf=0.0, neginf=0.0)
    low, high = np.percentile(slices, [0.5, 99.5])
    return (np.clip((slices - low) / max(high - low, 1e-6), 0, 1) * 255).astype(np.uint8)


def _upright(plane: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(plane[::-1, ::-1])


def _with_outlines(base: np.ndarray, labels: np.ndarray, colours: Mapping[int, tuple[int, int, int]]) -> np.ndarray:
    """`base` `[h, w, 3]` with the two-pixel inner border of every class of `labels` `[H, W]` in its colour.

    Between two classes only the later one draws: a tumour in an organ gets one line, not two.
    """
    height, width = base.shape[:2]
    rows = (np.arange(height) + 0.5) * labels.shape[0] / height
    columns = (np.arange(width) + 0.5) * labels.shape[1] / width
    enlarged = labels[rows.astype(int)[:, None], columns.astype(int)]
    shown = base.copy()
    solid = np.zeros(enlarged.shape, dtype=bool)
    for value, colour in reversed(list(colours.items())):
        mask = enlarged == value
        solid |= mask
        inner = solid
        for _ in range(2):
            padded = np.pad(inner, 1)
            inner = inner & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
        shown[mask & ~inner] = colour
    return shown


def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    from PIL import ImageFont

    try:
        return ImageFont.load_default(FONT_SIZE)
    except (ImportError, TypeError, OSError):  # a Pillow without FreeType, or older than 10.1
        return ImageFont.load_default()


def _shortened(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "...") > width:
        text = text[:-1]
    return text + "..."


def _legend_lines(
    names: Sequence[str], font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int
) -> list[list[tuple[str, int]]]:
    """Names with their horizontal offset, broken into lines that fit `width`."""
    lines: list[list[tuple[str, int]]] = []
    offset = 0
    for name in names:
        needed = FONT_SIZE + GAP + int(font.getlength(name)) + 2 * GAP
        if not lines or offset + needed > width:
            lines.append([])
            offset = 0
        lines[-1].append((name, offset))
        offset += needed
    return lines


def _draw_legend(
    draw: ImageDraw.ImageDraw,
    lines: Sequence[Sequence[tuple[str, int]]],
    classes: Mapping[str, int],
    colours: Mapping[int, tuple[int, int, int]],
    corner: tuple[int, int],
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
) -> None:
    left, top = corner
    for i, names in enumerate(lines):
        y = top + i * (FONT_SIZE + GAP)
        for name, offset in names:
            x = left + offset
            draw.rectangle((x, y + 2, x + FONT_SIZE - 2, y + FONT_SIZE), fill=colours[classes[name]])
            draw.text((x + FONT_SIZE + GAP // 2, y), name, TEXT, font)
