"""How the pictures of the help are laid out: sheets, rows, bars; needs Pillow."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from itertools import accumulate

from mmd_tests.demo.picture import FAINT, INK, PAPER
from mmd_tests.make.sets.fluent import color_of
from PIL import Image, ImageDraw, ImageFont

__all__ = [
    "EDGE",
    "FAINT",
    "INK",
    "PAGE",
    "PAPER",
    "bar",
    "font",
    "rows_of",
    "sheet",
    "side_by_side",
]

COUNTED = {"blue": (32, 110, 235), "pink": (240, 40, 130)}  # colors that bars count
OTHER = (176, 176, 176)
TILE, GAP, EDGE = 64, 4, 20  # pixels
TINY = 32  # pictures up to this size are enlarged without blur
PAGE = 900  # width: help is read in a narrow panel, where all shrinks by half
Pictures = Sequence[Image.Image]


def font(size: float) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    """The font of all pictures."""
    return ImageFont.load_default(size=size)


def sheet(pictures: Pictures, columns: int) -> Image.Image:
    """Pictures in rows."""
    rows = math.ceil(len(pictures) / columns)
    page = Image.new("RGB", [n * (TILE + GAP) - GAP for n in (columns, rows)], PAPER)
    for number, picture in enumerate(pictures):
        row, column = divmod(number, columns)
        page.paste(_tile(picture), (column * (TILE + GAP), row * (TILE + GAP)))
    return page


def _tile(picture: Image.Image) -> Image.Image:
    tiny = picture.width <= TINY
    method = Image.Resampling.NEAREST if tiny else Image.Resampling.LANCZOS
    return picture.resize((TILE, TILE), method)


def bar(pictures: Pictures, width: int, height: int = 30) -> Image.Image:
    """A bar of parts as long as there are pictures of each of `COUNTED` and others, with their numbers."""
    found = Counter(color_of(picture, list(COUNTED)) for picture in pictures)
    counts = [found[color] for color in (*COUNTED, None)]
    page, x = Image.new("RGB", (width, height), PAPER), 0
    write = ImageDraw.Draw(page)
    colors = (*COUNTED.values(), OTHER)
    for color, n, seen in zip(colors, counts, accumulate(counts), strict=True):
        right = round(width * seen / len(pictures))
        if n:
            write.rectangle((x, 0, right - 1, height), color)
            write.text(((x + right) / 2, height / 2 + 1), f"{n}", PAPER, font(20), anchor="mm")
        x = right
    return page


def side_by_side(panels: Sequence[tuple[str, Pictures]], columns: int = 4) -> Image.Image:
    """Sheets beside each other, each under a title and above a bar of what they show."""
    sheets = [sheet(pictures, columns) for _, pictures in panels]
    width, height = sheets[0].size
    gap = (PAGE - 2 * EDGE - len(panels) * width) // (len(panels) - 1)
    top = EDGE + 44
    page = Image.new("RGB", (PAGE, top + height + 10 + 30 + EDGE), PAPER)
    write = ImageDraw.Draw(page)
    for number, ((title, pictures), part) in enumerate(zip(panels, sheets, strict=True)):
        left = EDGE + number * (width + gap)
        page.paste(part, (left, top))
        page.paste(bar(pictures, width), (left, top + height + 10))
        write.text((left + width / 2, EDGE + 26), title, INK, font(28), anchor="ms")
    return page


def rows_of(
    rows: Sequence[tuple[str, Pictures]], columns: int, bars: bool = False, apart: int = 0
) -> Image.Image:
    """Rows of pictures behind their labels, the first `apart` of them a little away from the rest.

    Arguments:
        rows: Labels, and pictures of which `columns` are shown.
        columns: Pictures in a row.
        bars: Whether to show under a row what all its pictures show.
        apart: Rows that stand by themselves.
    """
    width = columns * (TILE + GAP) - GAP
    pitch = TILE + 12 + bars * 34
    left = PAGE - EDGE - width
    page = Image.new("RGB", (PAGE, EDGE + len(rows) * pitch - 10 + 16 * (apart > 0) + EDGE), PAPER)
    write = ImageDraw.Draw(page)
    for number, (label, pictures) in enumerate(rows):
        y = EDGE + number * pitch + 16 * (0 < apart <= number)
        page.paste(sheet(pictures[:columns], columns), (left, y))
        write.text((left - 16, y + TILE / 2), label, INK, font(24), anchor="rm")
        if bars:
            page.paste(bar(pictures, width, 26), (left, y + TILE + 4))
    return page
