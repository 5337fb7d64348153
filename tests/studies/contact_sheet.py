"""A contact sheet: the first images of each method, one row each."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

SCALE, GAP, HEADER = 4, 4, 26


def draw_sheet(
    sections: Mapping[str, Sequence[tuple[str, np.ndarray]]], path: Path, left: int
) -> None:
    """Draws rows of images under titles.

    Arguments:
        sections: By title, the rows: what is written on the left, and images `(n, 8, 8)` in [0, 1].
        left: The width of what is written, in pixels.
    """
    cell, rows = 8 * SCALE + GAP, [row for rows in sections.values() for row in rows]
    width = left + cell * max(len(images) for _, images in rows) + GAP
    page = Image.new("L", (width, len(rows) * cell + len(sections) * HEADER + GAP), 255)
    pen, font, y = ImageDraw.Draw(page), ImageFont.load_default(14), GAP
    for title, lines in sections.items():
        pen.text((GAP, y + 4), title, 0, font)
        y += HEADER
        for name, images in lines:
            pen.text((GAP, y + cell / 2 - GAP / 2), name, 60, font, anchor="lm")
            for i, image in enumerate((images * 255).round().astype(np.uint8)):
                tile = Image.fromarray(image).resize((8 * SCALE,) * 2, Image.Resampling.NEAREST)
                page.paste(tile, (left + i * cell, y))
            y += cell
    page.save(path, optimize=True)
