"""A line chart: several lines with common axes."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from PIL import Image, ImageDraw

from .lettering import (
    FAINT,
    INK,
    PANEL,
    Color,
    length,
    write,
)

# Similar to the palette of Okabe and Ito, which color-blind people can distinguish; for a dark
# background.
COLORS = (
    (86, 180, 233), (230, 159, 0), (0, 190, 140), (240, 228, 66), (213, 94, 0), (204, 121, 167),
    (160, 170, 255),
)  # fmt: skip
NEUTRAL = (175, 180, 188)  # color of the baseline
SMOOTH = 2  # supersampling factor, for smooth lines
LEFT, RIGHT, TOP, BOTTOM = 74, 20, 46, 52  # margins in pixels
NAMES = 26  # height of the legend in pixels, if any line has a name
GRID = (58, 63, 72)


class Line(NamedTuple):
    """Points `(x, y)` with x in [0, 1], drawn in one color.

    The legend below the title shows `name`, if it is set.
    """

    points: Sequence[tuple[float, float]]
    color: Color
    name: str = ""


class Axis(NamedTuple):
    """The x axis: marks as pairs of a position in [0, 1] and a label, and the title of the axis."""

    marks: Sequence[tuple[float, str]]
    title: str


STEPS = Axis([(share, f"{share:.0%}") for share in (0, 0.25, 0.5, 0.75, 1)], "of the steps")


def color_of(i: int) -> Color:
    """The color of line i. The colors repeat after the last one."""
    return COLORS[i % len(COLORS)]


def ticks(low: float, high: float, logarithmic: bool) -> list[float]:
    """Round numbers from `low` to `high` for the y axis.

    There are at least three, if the candidate steps allow it. If no round number of a logarithmic
    axis lies in the range, the result is `low` and `high`.
    """
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
    """A number as short text, with `digits` significant digits."""
    text = f"{value:.{digits}g}"
    if "e" in text and 1e-5 <= abs(value) < 1e6:
        return f"{value:.10f}".rstrip("0").rstrip(".")
    return text


def labels(values: Sequence[float]) -> list[str]:
    """Numbers as short texts, with enough digits that different numbers have different texts."""
    texts = [label(value) for value in values]
    for digits in range(4, 16):
        if len(set(texts)) == len(values):
            break
        texts = [label(value, digits) for value in values]
    return texts


def bounds(lines: Sequence[Line], logarithmic: bool) -> tuple[float, float]:
    """The lower and upper end of the y axis.

    A linear axis starts at 0; a logarithmic axis ignores values up to 0 and covers at most five
    decades.
    """
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
    """Draws the lines as a chart.

    Arguments:
        title: The title of the chart: what the y axis shows.
        lines: The lines to draw.
        size: Width and height in pixels.
        logarithmic: Whether the y axis is logarithmic.
        percent: Whether to show the values of the y axis as percentages.
        axis: The x axis.
        span: The lower and upper end of the y axis; None computes them with `bounds`.
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
