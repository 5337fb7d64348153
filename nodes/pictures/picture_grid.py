"""Grids of images: a contact sheet, a sheet of captioned cells, and rows with a label each."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageOps
from torch import Tensor

from .lettering import BACKGROUND, FAINT, INK, Color, shortened, wrapped, write

MAX_THUMBNAILS = 64
BORDER = (32, 32, 32)  # color between the thumbnails of a contact sheet
LANCZOS, NEAREST = Image.Resampling.LANCZOS, Image.Resampling.NEAREST

# Captioned sheet, in pixels: gap between cells, outer margin, cell width, font sizes.
CELL_GAP, SHEET_EDGE, CELL, HEADING, TEXT = 12, 16, 196, 16, 14
TEXT_LINES = 2  # maximum for the text of a cell
STACK_GAP = 4  # pixels below each image of a cell

# Rows, in pixels: gap between images, outer margin, width of the label, maximum width of an image.
ROW_GAP, ROW_EDGE, LABEL, MAX_WIDTH = 6, 14, 190, 260
COLUMNS, LINES = 8, 2  # maximum of images per line, and of lines per row


class Cell(NamedTuple):
    """A cell with a caption: images in a column, then a heading and a text.

    Each image has shape `(H, W, C)`, or is None, which is drawn as an empty frame.
    """

    images: Sequence[Tensor | None]
    heading: str
    text: str


class Row(NamedTuple):
    """A row: images with shape `(n, H, W, C)`, a label with notes, and the color of its bar."""

    images: Tensor
    heading: str
    notes: Sequence[str]
    color: Color


def contact_sheet(pictures: Sequence[Tensor], gap: int = 4) -> Tensor:
    """A sheet of up to 64 pictures, chosen at equal intervals, in rows of equal width.

    Arguments:
        pictures: Pictures with shape `(1, h, w, 3)`, in [0, 1].
        gap: Pixels between the pictures.

    Returns:
        The sheet, with shape `(1, H, W, 3)`, float32 in [0, 1].
    """
    n = min(len(pictures), MAX_THUMBNAILS)
    shown = [pictures[i * len(pictures) // n][0] for i in range(n)]
    # Very long pictures are cropped to 2:1, because they would leave no room for the others.
    aspects = np.array([min(max(p.shape[1] / p.shape[0], 0.5), 2.0) for p in shown])
    n_rows = round(math.sqrt(aspects.sum())) or 1  # makes the sheet about as high as wide
    row_of = ((np.cumsum(aspects) - aspects / 2) / aspects.sum() * n_rows).astype(int)
    width = min(1024, round(512 * math.sqrt(aspects.sum())))
    strips = []
    for members in (np.flatnonzero(row_of == row) for row in np.unique(row_of)):
        height = (width - gap * (len(members) - 1)) / aspects[members].sum()
        edges = np.rint(np.cumsum([0, *aspects[members]]) * height).astype(int).tolist()
        strip = Image.new("RGB", (width, round(height) + gap), BORDER)
        for place, i in enumerate(members):
            # A subset of the pixels is enough for a thumbnail.
            step = max(1, min(shown[i].shape[:2]) // 1024)
            size = (edges[place + 1] - edges[place], round(height))
            thumbnail = ImageOps.fit(_pillow(shown[i][::step, ::step]), size, LANCZOS)
            strip.paste(thumbnail, (edges[place] + gap * place, 0))
        strips.append(np.asarray(strip))
    return _tensor(np.concatenate(strips)[:-gap])


def captioned_sheet(cells: Sequence[Cell], on_cell: Callable[[], None] = lambda: None) -> Tensor:
    """A sheet of all cells, about as high as wide.

    Arguments:
        cells: The cells.
        on_cell: Is called before each cell. It may raise an exception to stop.

    Returns:
        The sheet, with shape `(1, H, W, 3)`, float32 in [0, 1].
    """
    texts = []
    for cell in cells:
        on_cell()
        texts.append(wrapped(cell.text, TEXT, CELL, TEXT_LINES))
    shapes = [image.shape for cell in cells for image in cell.images if image is not None]
    tallest = min(max((h / w for h, w, *_ in shapes), default=1.0), 1.5)
    box = CELL, round(CELL * tallest)
    stacked = max(len(cell.images) for cell in cells) * (box[1] + STACK_GAP)
    height = stacked + HEADING + 10 + max(map(len, texts)) * (TEXT + 5)
    columns = min(len(cells), max(1, round(math.sqrt(len(cells) * height / CELL))), 12)
    n_rows = -(-len(cells) // columns)
    size = columns * (CELL + CELL_GAP) - CELL_GAP, n_rows * (height + CELL_GAP) - CELL_GAP
    sheet = Image.new("RGB", (2 * SHEET_EDGE + size[0], 2 * SHEET_EDGE + size[1]), BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    for i, (cell, lines) in enumerate(zip(cells, texts, strict=True)):
        on_cell()
        left, top = _corner(i, (SHEET_EDGE, SHEET_EDGE), columns, (CELL, height), CELL_GAP)
        for image in cell.images:
            _paste(sheet, image, (left, top), box)
            top += box[1] + STACK_GAP
        write(draw, (left, top + 3), cell.heading, HEADING, INK)
        for line in lines:
            top += TEXT + 5
            write(draw, (left, top + 5), line, TEXT, FAINT)
    return _tensor(np.asarray(sheet))


def picture_rows(rows: Sequence[Row], width: int) -> Image.Image:
    """All rows below each other, in a picture of `width` pixels.

    A row shows at most 16 images, on two lines.
    """
    columns = max(min(len(row.images), COLUMNS) for row in rows)
    room = width - 2 * ROW_EDGE - LABEL - ROW_GAP * (columns - 1)
    cell = min(room // columns, MAX_WIDTH)
    # The aspect ratio of the images determines the height of a line.
    tallest = max(row.images.shape[1] / row.images.shape[2] for row in rows)
    box = cell, min(round(cell * tallest), 2 * cell)
    shown = [row.images[: LINES * columns] for row in rows]
    heights = [
        max(math.ceil(len(images) / columns) * (box[1] + ROW_GAP), 30 + 20 * len(row.notes))
        for row, images in zip(rows, shown, strict=True)
    ]
    between = 3 * ROW_GAP
    total = sum(heights) + between * (len(rows) - 1) + 2 * ROW_EDGE
    whole = Image.new("RGB", (width, total), BACKGROUND)
    draw, left, top = ImageDraw.Draw(whole), ROW_EDGE + 14, ROW_EDGE
    for row, images, height in zip(rows, shown, heights, strict=True):
        draw.rectangle([ROW_EDGE, top, ROW_EDGE + 4, top + height - ROW_GAP], row.color)
        write(draw, (left, top), shortened(row.heading, 19, LABEL - 20), 19)
        for i, note in enumerate(row.notes):
            write(draw, (left, top + 28 + 20 * i), shortened(note, 15, LABEL - 20), 15, FAINT)
        for i, image in enumerate(images):
            _paste(whole, image, _corner(i, (ROW_EDGE + LABEL, top), columns, box, ROW_GAP), box)
        top += height + between
    return whole


def _corner(
    i: int, first: tuple[int, int], columns: int, size: tuple[int, int], gap: int
) -> tuple[int, int]:
    """The left top corner of cell i of a grid; `first` is that of cell 0."""
    row, column = divmod(i, columns)
    return first[0] + column * (size[0] + gap), first[1] + row * (size[1] + gap)


def _paste(
    whole: Image.Image, image: Tensor | None, corner: tuple[int, int], box: tuple[int, int]
) -> None:
    """Draws an image with shape `(H, W, C)` into the middle of a box; None is an empty frame.

    The image is scaled to fit into the box. One that is enlarged at least twice keeps sharp pixels
    (nearest neighbor).
    """
    (left, top), (width, height) = corner, box
    if image is None:
        draw = ImageDraw.Draw(whole)
        draw.rectangle([left, top, left + width - 1, top + height - 1], outline=FAINT)
        write(draw, (left + width / 2, top + height / 2), "no picture", TEXT, FAINT, "mm")
        return
    full = _pillow(image)
    scale = min(width / full.width, height / full.height)
    enlarged = full.width * 2 <= width and full.height * 2 <= height
    size = max(1, round(full.width * scale)), max(1, round(full.height * scale))
    fitted = full.resize(size, NEAREST if enlarged else LANCZOS)
    whole.paste(fitted, (left + (width - size[0]) // 2, top + (height - size[1]) // 2))


def _pillow(image: Tensor) -> Image.Image:
    """An image with shape `(H, W, C)`, in [0, 1].

    One channel is grey, those after RGB are ignored.
    """
    pixels = image[..., :3].clamp(0, 1).mul(255).round().byte().cpu()
    if pixels.shape[-1] == 1:
        pixels = pixels.expand(*pixels.shape[:2], 3)
    return Image.fromarray(pixels.contiguous().numpy())


def _tensor(pixels: np.ndarray) -> Tensor:
    """The pixels, with shape `(1, H, W, 3)`, float32 in [0, 1]."""
    return torch.from_numpy(pixels.astype(np.float32) / 255)[None]
