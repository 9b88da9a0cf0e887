"""Picture of EM slices: image, reference and predicted membranes drawn over it, probability."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from monai_ext.evaluation.overlay_picture import save_picture

MISSED, FOUND, INVENTED = (86, 180, 233), (0, 200, 130), (230, 80, 60)
COLUMNS = ("image", "reference membranes", "found green, missed blue, invented red", "probability of background")
PANEL, GAP, FONT_SIZE = 360, 8, 15
BACKGROUND, TEXT = (18, 18, 22), (235, 235, 235)


def draw_membranes(
    path: Path,
    images: np.ndarray,
    labels: np.ndarray,
    probabilities: np.ndarray,
    names: Sequence[str],
    num_slices: int = 2,
) -> None:
    """Write the picture of `compose_membranes` as a PNG file, whole or not at all."""
    save_picture(Path(path), compose_membranes(images, labels, probabilities, names, num_slices))


def compose_membranes(
    images: np.ndarray, labels: np.ndarray, probabilities: np.ndarray, names: Sequence[str], num_slices: int = 2
) -> np.ndarray:
    """Rows of slices, evenly chosen; columns image, reference, comparison at probability 0.5, probability.

    Args:
        images: `[N, H, W]` grey values of any scale.
        labels: `[N, H, W]`, 0 membrane, 1 background.
        probabilities: `[N, H, W]` of class 1.
        names: of the slices.
        num_slices: rows, fewer if there are fewer slices.

    Returns:
        `[height, width, 3]` uint8 RGB.

    Raises:
        ValueError: the arrays are not `[N, H, W]` of one shape.
    """
    from PIL import Image, ImageDraw, ImageFont

    if images.ndim != 3 or not images.shape == labels.shape == probabilities.shape:
        shapes = f"{images.shape}, {labels.shape}, {probabilities.shape}"
        raise ValueError(f"images, labels and probabilities must be [N, H, W] of one shape, got {shapes}")
    count = min(num_slices, len(images))
    rows = np.linspace(0, len(images) - 1, 2 * count + 1).round().astype(int)[1::2]
    scale = PANEL / max(images.shape[1:])
    size = (round(images.shape[2] * scale), round(images.shape[1] * scale))
    line = FONT_SIZE + GAP
    page = Image.new("RGB", (GAP + 4 * (size[0] + GAP), line + count * (line + size[1] + GAP)), BACKGROUND)
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(FONT_SIZE)
    for column, title in enumerate(COLUMNS):
        draw.text((GAP + column * (size[0] + GAP), GAP // 2), title, TEXT, font)
    for i, row in enumerate(rows):
        top = line + i * (line + size[1] + GAP)
        draw.text((GAP, top), names[row], TEXT, font)
        for column, panel in enumerate(_panels(images[row], labels[row], probabilities[row])):
            resample = Image.Resampling.BICUBIC if min(panel.shape[:2]) < PANEL else Image.Resampling.BOX
            shown = Image.fromarray(panel).resize(size, resample)
            page.paste(shown, (GAP + column * (size[0] + GAP), top + line))
    return np.array(page)


def _panels(image: np.ndarray, label: np.ndarray, probability: np.ndarray) -> list[np.ndarray]:
    low, high = np.percentile(image, [0.5, 99.5])
    grey = (np.clip((image - low) / max(high - low, 1e-6), 0, 1) * 255).astype(np.uint8)
    base = np.repeat(grey[..., None], 3, axis=-1)
    reference, predicted = label == 0, probability < 0.5
    drawn = _tinted(base, reference, FOUND)
    compared = _tinted(base, reference & predicted, FOUND)
    compared = _tinted(compared, reference & ~predicted, MISSED)
    compared = _tinted(compared, predicted & ~reference, INVENTED)
    shade = (np.clip(np.nan_to_num(probability), 0, 1) * 255).astype(np.uint8)
    return [base, drawn, compared, np.repeat(shade[..., None], 3, axis=-1)]


def _tinted(base: np.ndarray, mask: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    shown = base.copy()
    shown[mask] = (0.45 * base[mask] + 0.55 * np.array(colour)).astype(np.uint8)
    return shown
