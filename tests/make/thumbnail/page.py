"""Lays a thumbnail out: rows of blocks, each a grid of small pictures under a title; needs Pillow and NumPy."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

PAPER, INK, FAINT = "white", (24, 26, 36), (150, 156, 180)
EDGE, GAP, BETWEEN = 20, 4, 24  # around the page, between pictures, between blocks
TYPE = 20
BADGE = 32 / 280  # of the side of a thumbnail: 30 pixels and some, of 280 that a card has
INKED = 235  # what is darker than this is ink
LARGEST = 60_000  # bytes
QUALITIES = (92, 88, 84, 80, 75, 70, 65, 60)


@dataclass(frozen=True)
class Block:
    """Pictures in a grid."""

    title: str
    pictures: Sequence[Image.Image]
    columns: int
    side: int = 64  # of each picture, in pixels
    framed: bool = False
    beside: bool = False  # the title is left of the pictures, not above

    def draw(self) -> Image.Image:
        """The block alone."""
        grid = self._grid()
        if not self.title:
            return grid
        font = _font(TYPE)
        wide = round(font.getlength(self.title))
        if self.beside:
            left = LABEL + GAP
            page = Image.new("RGB", (left + grid.width, grid.height), PAPER)
            place = (LABEL - 8, grid.height // 2)
            ImageDraw.Draw(page).text(place, self.title, INK, font, anchor="rm")
            page.paste(grid, (left, 0))
            return page
        page = Image.new("RGB", (max(wide, grid.width), TYPE + 10 + grid.height), PAPER)
        draw = ImageDraw.Draw(page)
        draw.text((page.width / 2, 0), self.title, INK, font, anchor="ma")
        page.paste(grid, ((page.width - grid.width) // 2, TYPE + 10))
        return page

    def _grid(self) -> Image.Image:
        side = self.side
        tiles = [_enlarged(picture, side) for picture in self.pictures]
        columns, rows = self.columns, -(-len(tiles) // self.columns)
        inset = GAP * 2 if self.framed else 0
        size = [n * (side + GAP) - GAP + 2 * inset for n in (columns, rows)]
        grid = Image.new("RGB", size, PAPER)
        if self.framed:
            ImageDraw.Draw(grid).rounded_rectangle(
                (0, 0, size[0] - 1, size[1] - 1), 8, None, FAINT, 2
            )
        for number, tile in enumerate(tiles):
            row, column = divmod(number, columns)
            place = inset + column * (side + GAP), inset + row * (side + GAP)
            grid.paste(tile, place)
        return grid


LABEL = 56  # pixels for a title beside a block
TINY = 16  # pictures up to this size keep their pixels sharp


def _enlarged(picture: Image.Image, side: int) -> Image.Image:
    tiny = picture.width <= TINY
    return picture.resize((side, side), getattr(Image.Resampling, "NEAREST" if tiny else "LANCZOS"))


def page(rows: Sequence[Sequence[Block | str | Image.Image]], close: bool = False) -> Image.Image:
    """A square with rows of blocks and of signs between them; `close` rows belong together."""
    between = GAP if close else BETWEEN
    drawn = [[_part(part) for part in row] for row in rows]
    wide = max(sum(part.width for part in row) + BETWEEN * (len(row) - 1) for row in drawn)
    high = sum(max(part.height for part in row) for row in drawn) + between * (len(drawn) - 1)
    side = max(wide, high) + 2 * EDGE  # the browser of templates shows squares
    whole, top = Image.new("RGB", (side, side), PAPER), (side - high) // 2
    for row in drawn:
        tall = max(part.height for part in row)
        left = (side - sum(part.width for part in row) - BETWEEN * (len(row) - 1)) // 2
        for part in row:
            whole.paste(part, (left, top + (tall - part.height) // 2))
            left += part.width + BETWEEN
        top += tall + between
    return with_free_corner(whole)


def free_corner(picture: Image.Image) -> float:
    """The side of the largest square at the upper left without ink, as a share of the picture's."""
    ink = np.argwhere(np.asarray(picture.convert("L")) < INKED)
    return min(max(place) for place in ink) / picture.width


def with_free_corner(picture: Image.Image) -> Image.Image:
    """The picture with a wider border, where the badge that the browser of templates shows needs it."""
    while free_corner(picture) < BADGE:
        wider = Image.new("RGB", (picture.width + 8, picture.height + 8), PAPER)
        wider.paste(picture, (4, 4))
        picture = wider
    return picture


def _part(part: Block | str | Image.Image) -> Image.Image:
    if isinstance(part, Block):
        return part.draw()
    if isinstance(part, Image.Image):
        return part
    sign = Image.new("RGB", (32, 32), PAPER)
    draw = ImageDraw.Draw(sign)
    draw.line((16, 2, 16, 30), FAINT, 4)
    if part == "+":
        draw.line((2, 16, 30, 16), FAINT, 4)
    else:  # an arrow that points down
        draw.polygon([(4, 18), (28, 18), (16, 31)], FAINT)
    return sign


def jpeg(picture: Image.Image) -> bytes:
    """The picture as a JPEG with sharp colors, as good as fits into LARGEST bytes."""
    for quality in QUALITIES:
        file = io.BytesIO()
        picture.save(file, "JPEG", quality=quality, subsampling=0, optimize=True)
        if file.tell() <= LARGEST:
            return file.getvalue()
    raise ValueError(f"{len(file.getvalue())} bytes are too many: draw fewer pictures")


def _font(size: int):
    return ImageFont.load_default(size=size)
