"""Lays sets of pictures out side by side, each set under its title; needs only Pillow."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont, ImageOps

SHOWN = 32  # tiles of a panel at most
GAP = 2  # between tiles
BORDER = 24  # around and between panels
TITLE, SMALL, LABEL = 24, 16, 12  # sizes of type
WIDEST = 768  # of a panel of photos
PAPER, FRAME, INK, FAINT = "white", (196, 196, 196), (24, 24, 24), (110, 110, 110)


@dataclass(frozen=True)
class Panel:
    """A set of pictures under a title, with a smaller line below the title."""

    title: str
    pictures: Sequence[Image.Image]
    line: str = ""
    count: int = 0  # of the whole set, where `pictures` are only a part of it


def compose(panels: Sequence[Panel]) -> Image.Image:
    """One picture of all panels, of one size; the last one sets the number and size of tiles.

    Where that is fewer than four, the other panels have tiles of half the size: one or two
    references would tell little.
    """
    count = min(SHOWN, len(panels[-1].pictures))
    columns, rows = grid_shape(count)
    tile = tile_size(panels[-1].pictures[0].size, columns)
    sheets, lines = [], []
    for panel in panels:
        finer = 2 if count < 4 and len(panel.pictures) > columns * rows else 1
        sheets.append(_sheet(panel.pictures, columns * finer, rows * finer, tile, finer))
        lines.append(_line(panel, columns * rows * finer**2))
    texts = [(_font(TITLE), panel.title) for panel in panels]
    texts += [(_font(SMALL), line) for line in lines]
    width = max(sheets[0].width, *(math.ceil(font.getlength(text)) for font, text in texts))
    top = BORDER + TITLE + 14 + (SMALL + 8 if any(lines) else 0)
    page_width = BORDER + len(panels) * (width + BORDER)
    page = Image.new("RGB", (page_width, top + sheets[0].height + BORDER), PAPER)
    draw = ImageDraw.Draw(page)
    for number, panel in enumerate(panels):
        left = BORDER + number * (width + BORDER)
        middle = left + width / 2
        draw.text((middle, BORDER), panel.title, INK, _font(TITLE), anchor="mt")
        draw.text((middle, BORDER + TITLE + 8), lines[number], FAINT, _font(SMALL), anchor="mt")
        page.paste(sheets[number], (left + (width - sheets[0].width) // 2, top))
    return page


def compose_rows(panels: Sequence[Panel], labels: Sequence[str]) -> Image.Image:
    """One picture of all panels, one below the other, with a column for each label.

    The pictures of the last two panels belong to the labels in their order; those of the other
    panels are picked from the whole set. Each panel has two rows at most.
    """
    columns = min(len(labels), len(panels[-1].pictures))
    tile = tile_size(panels[-1].pictures[0].size, columns)
    sheets, lines = [], []
    for number, panel in enumerate(panels):
        rows = min(2, math.ceil(len(panel.pictures) / columns))
        shown = panel.pictures if number < len(panels) - 2 else panel.pictures[: columns * rows]
        sheets.append(_sheet(shown, columns, rows, tile, 1))
        lines.append(_line(panel, columns * rows))
    texts = [label.replace(" ", "\n") for label in labels[:columns]]
    legend = (SMALL + 2) * max(text.count("\n") + 1 for text in texts)
    head = TITLE + 12
    height = BORDER + sum(head + sheet.height + BORDER for sheet in sheets) + legend
    page = Image.new("RGB", (sheets[0].width + 2 * BORDER, height), PAPER)
    draw = ImageDraw.Draw(page)
    top = BORDER
    for panel, line, sheet in zip(panels, lines, sheets, strict=True):
        draw.text((BORDER, top + TITLE), panel.title, INK, _font(TITLE), anchor="ls")
        right = page.width - BORDER
        draw.text((right, top + TITLE), line, FAINT, _font(SMALL), anchor="rs")
        page.paste(sheet, (BORDER, top + head))
        top += head + sheet.height + BORDER
    for column, text in enumerate(texts):
        middle = BORDER + GAP + column * (tile[0] + GAP) + tile[0] / 2
        place = (middle, top - BORDER + 4)
        draw.multiline_text(
            place, text, FAINT, _font(LABEL), anchor="ma", align="center", spacing=2
        )
    return page


def grid_shape(count: int) -> tuple[int, int]:
    """Columns and rows for `count` tiles: about square or wide, the last row full if possible."""
    square = math.ceil(math.sqrt(count))
    columns = next((n for n in range(square, 2 * square) if count % n == 0), square)
    return columns, math.ceil(count / columns)


def tile_size(size: tuple[int, int], columns: int) -> tuple[int, int]:
    """Width and height of a tile: small pictures are enlarged by a whole number, photos shrunk."""
    side = max(size)
    if side <= 64:
        scale = 5 if side <= 8 else max(1, round(64 / side))
        return size[0] * scale, size[1] * scale
    scale = min(1.0, WIDEST / columns / side)
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def spread(pictures: Sequence, count: int) -> list:
    """`count` of the pictures, evenly spaced, because sets are often sorted by what they show."""
    if len(pictures) <= count:
        return list(pictures)
    return [pictures[i * len(pictures) // count] for i in range(count)]


def _line(panel: Panel, shown: int) -> str:
    """The smaller line, which also tells where only some of the pictures are shown."""
    count = panel.count or len(panel.pictures)
    part = f"{shown} of {count} shown" if count > shown else ""
    return " · ".join(text for text in (part, panel.line) if text)


def _sheet(pictures: Sequence, columns: int, rows: int, tile: tuple[int, int], finer: int):
    """Pictures in rows, each cropped to the shape of a tile, as references are.

    `finer` times as many rows and columns take the place of those of tiles of the size `tile`.
    """
    step = [(side + GAP) / finer for side in tile]
    size = [round(n * part) + GAP for n, part in zip((columns, rows), step, strict=True)]
    sheet = Image.new("RGB", size, PAPER)
    for number, picture in enumerate(spread(pictures, columns * rows)):
        row, column = divmod(number, columns)
        x, y = round(column * step[0]), round(row * step[1])
        right, bottom = round((column + 1) * step[0]), round((row + 1) * step[1])
        sheet.paste(FRAME, (x, y, right + GAP, bottom + GAP))
        place = (right - x - GAP, bottom - y - GAP)
        enlarged = max(picture.size) < max(place)
        method = Image.Resampling.NEAREST if enlarged else Image.Resampling.LANCZOS
        sheet.paste(ImageOps.fit(picture.convert("RGB"), place, method), (x + GAP, y + GAP))
    return sheet


def _font(size: int):
    return ImageFont.load_default(size=size)
