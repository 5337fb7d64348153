"""A line chart: some lines over a common axis."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from PIL import Image, ImageDraw

from .lettering import (
    FAINT,
    INK,
    PANEL,
    length,
    write,
)

# Okabe and Ito's colors, which people with any color vision can tell apart; from light to dark on a dark ground.
COLORS = (
    (86, 180, 233), (230, 159, 0), (0, 190, 140), (240, 228, 66), (213, 94, 0), (204, 121, 167),
    (160, 170, 255),
)  # fmt: skip
NEUTRAL = (175, 180, 188)  # of what others are compared with
SMOOTH = 2  # drawn so many times as large, for smooth lines
LEFT, RIGHT, TOP, BOTTOM = 74, 20, 46, 52  # margins
NAMES = 26  # the height of the names of lines, where they have any
GRID = (58, 63, 72)


class Line(NamedTuple):
    """Points `(x, y)` with x in [0, 1], drawn in one color; its name, if any, stands below the title."""

    points: Sequence[tuple[float, float]]
    color: tuple[int, int, int]
    name: str = ""


class Axis(NamedTuple):
    """The x axis: places in [0, 1] with what is written there, and what they are."""

    marks: Sequence[tuple[float, str]]
    title: str


STEPS = Axis([(share, f"{share:.0%}") for share in (0, 0.25, 0.5, 0.75, 1)], "of the steps")


def color_of(i: int) -> tuple[int, int, int]:
    """The color of the i-th thing that is compared."""
    return COLORS[i % len(COLORS)]


def ticks(low: float, high: float, logarithmic: bool) -> list[float]:
    """Round numbers from `low` to `high`, three to eight of them where there is room for so many."""
    if logarithmic:
        decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        for parts in ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 4, 5, 7)):
            found = [p * 10.0**d for d in decades for p in parts]
            found = [t for t in found if low * (1 - 1e-9) <= t <= high * (1 + 1e-9)]
            if len(found) >= 3:
                return found
        return found or [low, high]
    rough = (high - low) / 4
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(unit * m for m in (1, 2, 2.5, 5, 10) if unit * m >= rough * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    return [i * step for i in range(first, math.floor(high / step + 1e-9) + 1)]


def label(value: float, digits: int = 3) -> str:
    """A number as short as can be."""
    text = f"{value:.{digits}g}"
    if "e" in text and 1e-5 <= abs(value) < 1e6:
        return f"{value:.10f}".rstrip("0").rstrip(".")
    return text


def labels(values: Sequence[float]) -> list[str]:
    """Numbers as short as can be while they differ from each other."""
    texts = [label(value) for value in values]
    for digits in range(4, 16):
        if len(set(texts)) == len(values):
            break
        texts = [label(value, digits) for value in values]
    return texts


def bounds(lines: Sequence[Line], logarithmic: bool) -> tuple[float, float]:
    """The least and the largest value to show."""
    values = [y for line in lines for _, y in line.points if math.isfinite(y)]
    if logarithmic:
        values = [y for y in values if y > 0]
        high = max(values, default=1.0) * 1.25
        low = max(min(values, default=0.1) / 1.25, high * 1e-5)
        return (low, high) if high > 3 * low else (low / 2, high * 2)
    high = max([*values, 0.0])
    return 0.0, high * 1.1 if high > 0 else 1.0


def chart(
    title: str,
    lines: Sequence[Line],
    size: tuple[int, int],
    logarithmic: bool = False,
    percent: bool = False,
    axis: Axis = STEPS,
    span: tuple[float, float] | None = None,
) -> Image.Image:
    """A picture of the lines.

    Arguments:
        title: What the y axis shows.
        size: Width and height in pixels.
        logarithmic: Whether equal distances are equal factors.
        percent: Whether values are shares.
        axis: The x axis.
        span: The ends of the y axis; None takes `bounds`.
    """
    low, high = span or bounds(lines, logarithmic)
    width, height = (SMOOTH * n for n in size)
    named = [line for line in lines if line.name]
    left, top = SMOOTH * LEFT, SMOOTH * (TOP + NAMES * bool(named))
    right, bottom = width - SMOOTH * RIGHT, height - SMOOTH * BOTTOM
    picture = Image.new("RGB", (width, height), PANEL)
    draw = ImageDraw.Draw(picture)

    def across(x: float) -> float:
        return left + min(max(x, 0), 1) * (right - left)

    def up(y: float) -> float:
        y = min(max(y, low), high)
        share = (
            math.log(y / low) / math.log(high / low) if logarithmic else (y - low) / (high - low)
        )
        return bottom - share * (bottom - top)

    small = SMOOTH * 15
    values = ticks(low, high, logarithmic)
    for value, text in zip(values, labels(values), strict=True):
        draw.line([(left, up(value)), (right, up(value))], GRID, SMOOTH)
        text = f"{100 * value:.3g}%" if percent else text
        write(draw, (left - SMOOTH * 8, up(value)), text, small, FAINT, "rm")
    for place, text in axis.marks:
        draw.line([(across(place), bottom), (across(place), bottom + SMOOTH * 5)], GRID, SMOOTH)
        write(draw, (across(place), bottom + SMOOTH * 9), text, small, FAINT, "ma")
    write(draw, ((left + right) / 2, height - SMOOTH * 6), axis.title, small, FAINT, "md")
    write(draw, (left, SMOOTH * 14), title, SMOOTH * 18, INK)
    x, y = left, SMOOTH * (TOP + 2)
    for line in named:
        draw.rounded_rectangle([x, y - SMOOTH * 2, x + SMOOTH * 16, y + SMOOTH * 2], 2, line.color)
        write(draw, (x + SMOOTH * 22, y), line.name, small, FAINT, "lm")
        x += SMOOTH * 22 + length(line.name, small) + SMOOTH * 18
    for line in lines:
        places = [(across(x), up(y)) for x, y in line.points if math.isfinite(y)]
        if len(places) > 1:
            draw.line(places, line.color, SMOOTH * 3, joint="curve")
        r = SMOOTH * 3.5
        for x, y in places:
            draw.ellipse([x - r, y - r, x + r, y + r], line.color)
    return picture.resize(size, Image.Resampling.LANCZOS)
