"""Images in rows and columns with a caption under each."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from monai_ext.evaluation.overlay_picture import BACKGROUND, GAP, TEXT

RIGHT, WRONG = (0, 200, 130), (230, 80, 60)
PANEL, FONT_SIZE = 120, 12
Colour = tuple[int, int, int]


def compose_image_grid(
    images: Sequence[np.ndarray],
    captions: Sequence[Sequence[str]],
    colours: Sequence[Colour] | None = None,
    columns: int = 6,
    panel: int = PANEL,
) -> np.ndarray:
    """Images beside and below each other.

    Args:
        images: each `[H, W, 3]` uint8; the longer side becomes `panel` pixels.
        captions: lines of text per image, cut to its width.
        colours: of the first caption line and the frame per image; None: all plain.
        columns: images per row.
        panel: side of an image's place, in pixels.

    Returns:
        `[height, width, 3]` uint8 RGB.

    Raises:
        ValueError: no images, or another number of captions or colours.
    """
    from PIL import Image, ImageDraw, ImageFont

    if not images or len(captions) != len(images) or (colours is not None and len(colours) != len(images)):
        raise ValueError(f"{len(images)} images need as many captions and colours, got {len(captions)} captions")
    font = ImageFont.load_default(FONT_SIZE)
    line = FONT_SIZE + GAP // 2
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    lines = max(len(caption) for caption in captions)
    width, height = panel + GAP, panel + lines * line + GAP
    page = Image.new("RGB", (GAP + columns * width, GAP + rows * height), BACKGROUND)
    draw = ImageDraw.Draw(page)
    for i, (image, caption) in enumerate(zip(images, captions, strict=True)):
        left, top = GAP + i % columns * width, GAP + i // columns * height
        scale = panel / max(image.shape[:2])
        size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
        corner = (left + (panel - size[0]) // 2, top + (panel - size[1]) // 2)
        page.paste(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC), corner)
        colour = TEXT if colours is None else colours[i]
        if colours is not None:
            outer = (corner[0] - 2, corner[1] - 2, corner[0] + size[0] + 1, corner[1] + size[1] + 1)
            draw.rectangle(outer, outline=colour, width=2)
        for k, text in enumerate(caption):
            shown = shortened(text, font, panel)
            draw.text((left, top + panel + 3 + k * line), shown, colour if k == 0 else TEXT, font)
    return np.array(page)


def shortened(text: str, font: object, width: float) -> str:
    """Text cut at its end so that it fits `width` pixels in a Pillow font."""
    length = font.getlength  # type: ignore[attr-defined]
    if length(text) <= width:
        return text
    while text and length(text + "..") > width:
        text = text[:-1]
    return text + ".."


def side_by_side(pictures: Sequence[np.ndarray]) -> np.ndarray:
    """Pictures `[height, width, 3]` uint8 in one row, aligned at the top."""
    height = max(picture.shape[0] for picture in pictures)
    canvas = np.full((height, sum(p.shape[1] for p in pictures), 3), BACKGROUND, dtype=np.uint8)
    left = 0
    for picture in pictures:
        canvas[: picture.shape[0], left : left + picture.shape[1]] = picture
        left += picture.shape[1]
    return canvas


def displayed(image: np.ndarray, mean: Sequence[float], std: Sequence[float]) -> np.ndarray:
    """A normalised image as one can look at it.

    Args:
        image: `[C, H, W]`, `[C, W]` or `[C, D, H, W]` (its middle slice), normalised per channel.
        mean, std: what it was normalised by, of values 0 to 1.

    Returns:
        `[H, W, 3]` uint8: channels 1 to 3 if there are three or more, else the first as grey.
    """
    shape = (-1, *[1] * (image.ndim - 1))
    values = image * np.reshape(std, shape) + np.reshape(mean, shape)
    if values.ndim == 4:
        values = values[:, values.shape[1] // 2]
    elif values.ndim == 2:
        values = np.repeat(values[:, None], max(1, values.shape[1] // 4), axis=1)
    chosen = values[:3] if len(values) >= 3 else np.repeat(values[:1], 3, axis=0)
    return (np.clip(np.nan_to_num(chosen), 0, 1) * 255).round().astype(np.uint8).transpose(1, 2, 0)
