"""Draws text into pictures, and defines the colors of this pack's pictures."""

import unicodedata
from bisect import bisect_left
from collections.abc import Sequence

from PIL import ImageDraw, ImageFont

from .fonts import Font, font, font_for

NARROW = 8  # letters of this width are counted per size of the font: no text has so many
Color = tuple[int, int, int]  # RGB, 0 to 255

BACKGROUND, PANEL = (24, 26, 30), (32, 35, 41)
INK, FAINT = (232, 234, 237), (150, 156, 166)  # of important and of less important text


def length(text: str, size: float) -> float:
    """The width in pixels of `text` as `write` draws it."""
    return sum(letters.getlength(part) for part, letters, _ in _parts(text, size))


def _parts(text: str, size: float) -> list[tuple[str, Font, float]]:
    """Splits `text` at each ² into parts: text, font and vertical offset.

    Pillow's font has no ². A small 2 replaces it.
    """
    before, *rest = text.split("²")
    plain = font_for("".join([before, *rest]), size)
    parts = [(before, plain, 0.0)]
    for after in rest:
        parts += [("2", font(0.62 * size), 0.38 * size), (after, plain, 0.0)]
    return parts


def _cut(text: str, size: float, width: float) -> str:
    """The text in one line, without what certainly finds no place in `width` pixels."""
    text = " ".join(text.split())
    most = int(NARROW * width / size) + 1
    return text if len(text) <= most else text[:most] + "…"


def _fitting(pieces: Sequence[str], between: str, end: str, size: float, width: float) -> int:
    """How many of the pieces fit into `width` pixels, with `between` and `end`."""
    return bisect_left(
        range(1, len(pieces) + 1),
        True,
        key=lambda n: length(between.join(pieces[:n]) + end, size) > width,
    )


def shortened(text: str, size: float, width: float) -> str:
    """`text` on one line of at most `width` pixels; "…" marks a cut."""
    text = _cut(text, size, width)
    if length(text, size) <= width:
        return text
    return text[: _fitting(text, "", "…", size, width)].rstrip() + "…"


def wrapped(text: str, size: float, width: float, lines: int) -> list[str]:
    """`text` on at most `lines` lines of at most `width` pixels each; "…" marks a cut.

    Lines end between words, or between the letters of scripts that have no spaces.
    """
    words, found = _cut(text, size, width * lines).split(), []
    while words and len(found) < lines - 1:
        n, first = _fitting(words, " ", "", size, width), words[0]
        if n == 0 and any(map(_is_wide, first)):
            n = max(1, _fitting(first, "", "", size, width))
            found.append(first[:n])
            words = [first[n:], *words[1:]]
            continue
        found.append(shortened(" ".join(words[: max(1, n)]), size, width))
        words = words[max(1, n) :]
    return [*found, shortened(" ".join(words), size, width)] if words else found


def _is_wide(letter: str) -> bool:
    """Whether the letter is of a script without spaces, such as Chinese."""
    return unicodedata.east_asian_width(letter) in "WF"


def write(
    draw: ImageDraw.ImageDraw,
    place: tuple[float, float],
    text: str,
    size: float,
    color: Color = INK,
    anchor: str = "la",
) -> None:
    """Draws one line of text.

    `anchor` is as in Pillow ("la": `place` is the left top corner of the text).
    """
    x, y = place
    x -= {"l": 0, "m": 0.5, "r": 1}[anchor[0]] * length(text, size)
    # All parts share one baseline. Its position follows from the height of the letters.
    y += {"a": 0.95, "m": 0.35, "d": -0.22}[anchor[1]] * size
    for part, letters, higher in _parts(text, size):
        if isinstance(letters, ImageFont.FreeTypeFont):
            draw.text((x, y - higher), part, fill=color, font=letters, anchor="ls")
        else:  # Pillow without FreeType has only one small ASCII font
            plain = part.encode("ascii", "replace").decode()
            draw.text((x, y - higher - 11), plain, fill=color, font=letters)
        x += letters.getlength(part)
