"""A sheet of pictures with text below each."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from .lettering import (
    BACKGROUND,
    FAINT,
    INK,
    wrapped,
    write,
)
from .picture_rows import to_pillow

GAP, EDGE, CELL = 12, 16, 196  # pixels: gap between cells, outer margin, cell width
HEADING, TEXT = 16, 14  # font sizes
LINES = 2  # maximum for the text of a cell


class Cell(NamedTuple):
    """One cell of the sheet: pictures in a column, each with shape `(H, W, C)` or None, then a heading and a text."""

    images: Sequence[Tensor | None]
    heading: str
    text: str


def captioned_sheet(cells: Sequence[Cell]) -> Tensor:
    """A sheet with all cells in rows, about as high as wide, with shape `(1, H, W, 3)`, float32 in [0, 1]."""
    texts = [wrapped(cell.text, TEXT, CELL, LINES) for cell in cells]
    shapes = [image.shape for cell in cells for image in cell.images if image is not None]
    highest = min(max((h / w for h, w, *_ in shapes), default=1.0), 1.5)
    high, stacked = round(CELL * highest), max(len(cell.images) for cell in cells)
    below = HEADING + 10 + max(map(len, texts)) * (TEXT + 5)
    whole_cell = stacked * (high + 4) + below
    columns = min(len(cells), max(1, round(math.sqrt(len(cells) * whole_cell / CELL))), 12)
    rows = -(-len(cells) // columns)
    size = (
        2 * EDGE + columns * (CELL + GAP) - GAP,
        2 * EDGE + rows * (whole_cell + GAP) - GAP,
    )
    sheet = Image.new("RGB", size, BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    for i, (cell, lines) in enumerate(zip(cells, texts, strict=True)):
        left = EDGE + (i % columns) * (CELL + GAP)
        top = EDGE + (i // columns) * (whole_cell + GAP)
        for image in cell.images:
            if image is None:
                draw.rectangle([left, top, left + CELL - 1, top + high - 1], outline=FAINT)
                middle = left + CELL / 2, top + high / 2
                write(draw, middle, "no picture", TEXT, FAINT, "mm")
            else:
                picture = to_pillow(image, (CELL, high))
                inset = (CELL - picture.width) // 2, (high - picture.height) // 2
                sheet.paste(picture, (left + inset[0], top + inset[1]))
            top += high + 4
        write(draw, (left, top + 3), cell.heading, HEADING, INK)
        for line in lines:
            top += TEXT + 5
            write(draw, (left, top + 5), line, TEXT, FAINT)
    return torch.from_numpy(np.asarray(sheet, np.float32) / 255)[None]
