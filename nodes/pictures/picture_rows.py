"""Rows of pictures, each with a few lines of text beside it."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from PIL import Image, ImageDraw
from torch import Tensor

from .lettering import (
    BACKGROUND,
    FAINT,
    shortened,
    write,
)

GAP, EDGE, BESIDE = 6, 14, 190  # pixels: gap between pictures, outer margin, width of the text
COLUMNS, LINES = 8, 2  # maximum of pictures per line, and of lines per row


class Row(NamedTuple):
    """One row: pictures with shape `(n, H, W, C)`, the text beside them, and the color of the bar at the left."""

    images: Tensor
    heading: str
    notes: Sequence[str]
    color: tuple[int, int, int]


def to_pillow(image: Tensor, size: tuple[int, int]) -> Image.Image:
    """One IMAGE, with shape `(H, W, C)`, as a Pillow image, scaled to fit into `size` (width and height in pixels).

    An image that is enlarged at least twice keeps sharp pixels (nearest neighbor).
    """
    pixels = image[..., :3].clamp(0, 1).mul(255).round().byte().cpu()
    if pixels.shape[-1] == 1:
        pixels = pixels.expand(*pixels.shape[:2], 3)
    picture = Image.fromarray(pixels.contiguous().numpy())
    scale = min(size[0] / picture.width, size[1] / picture.height)
    grown = picture.width * 2 <= size[0] and picture.height * 2 <= size[1]
    way = Image.Resampling.NEAREST if grown else Image.Resampling.LANCZOS
    return picture.resize(
        (max(1, round(picture.width * scale)), max(1, round(picture.height * scale))), way
    )


def picture_rows(rows: Sequence[Row], width: int) -> Image.Image:
    """All rows below each other, in a picture of `width` pixels. A row shows at most 16 pictures, on two lines."""
    columns = max(min(len(row.images), COLUMNS) for row in rows)
    cell = (width - 2 * EDGE - BESIDE - GAP * (columns - 1)) // columns
    cell = min(cell, 260)
    # The aspect ratio of the pictures determines the height of a line.
    highest = max(row.images.shape[1] / row.images.shape[2] for row in rows)
    high = min(round(cell * highest), 2 * cell)
    lines = [min(LINES, math.ceil(len(row.images) / columns)) for row in rows]
    heights = [
        max(n * (high + GAP), 30 + 20 * len(r.notes)) for n, r in zip(lines, rows, strict=True)
    ]
    between = 3 * GAP
    whole = Image.new(
        "RGB", (width, sum(heights) + between * (len(rows) - 1) + 2 * EDGE), BACKGROUND
    )
    draw, top = ImageDraw.Draw(whole), EDGE
    for row, n, height in zip(rows, lines, heights, strict=True):
        draw.rectangle([EDGE, top, EDGE + 4, top + height - GAP], row.color)
        left = EDGE + 14
        write(draw, (left, top), shortened(row.heading, 19, BESIDE - 20), 19)
        for i, note in enumerate(row.notes):
            write(draw, (left, top + 28 + 20 * i), shortened(note, 15, BESIDE - 20), 15, FAINT)
        for i, image in enumerate(row.images[: n * columns]):
            picture = to_pillow(image, (cell, high))
            x = EDGE + BESIDE + (i % columns) * (cell + GAP) + (cell - picture.width) // 2
            y = top + (i // columns) * (high + GAP) + (high - picture.height) // 2
            whole.paste(picture, (x, y))
        top += height + between
    return whole
