"""Draws text into pictures, with one font, and defines the colors of this pack's pictures."""

from PIL import ImageDraw, ImageFont

Color = tuple[int, int, int]  # RGB, 0 to 255

BACKGROUND, PANEL = (24, 26, 30), (32, 35, 41)
INK, FAINT = (232, 234, 237), (150, 156, 166)  # of important and of less important text


def font(size: float) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's default font; `size` is in pixels."""
    return ImageFont.load_default(size)


def length(text: str, size: float) -> float:
    """The width in pixels of `text` as `write` draws it."""
    return sum(font(s).getlength(part) for part, s, _ in _parts(text, size))


def _parts(text: str, size: float) -> list[tuple[str, float, float]]:
    """Splits `text` at each ² into parts: text, font size and vertical offset.

    The font has no ². A small 2 replaces it.
    """
    before, *rest = text.split("²")
    parts = [(before, size, 0.0)]
    for after in rest:
        parts += [("2", 0.62 * size, 0.38 * size), (after, size, 0.0)]
    return parts


def shortened(text: str, size: float, width: float) -> str:
    """`text` on one line of at most `width` pixels; "…" marks a cut."""
    text = " ".join(text.split())
    if length(text, size) <= width:
        return text
    while text and length(text + "…", size) > width:
        text = text[:-1]
    return text.rstrip() + "…"


def wrapped(text: str, size: float, width: float, lines: int) -> list[str]:
    """`text` on at most `lines` lines of at most `width` pixels each; "…" marks a cut."""
    words, found = text.split(), []
    while words and len(found) < lines - 1:
        n = 1
        while n < len(words) and length(" ".join(words[: n + 1]), size) <= width:
            n += 1
        found.append(shortened(" ".join(words[:n]), size, width))
        words = words[n:]
    return [*found, shortened(" ".join(words), size, width)] if words else found


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
    for part, part_size, higher in _parts(text, size):
        letters = font(part_size)
        if isinstance(letters, ImageFont.FreeTypeFont):
            draw.text((x, y - higher), part, fill=color, font=letters, anchor="ls")
        else:  # Pillow without FreeType has only one small ASCII font
            plain = part.encode("ascii", "replace").decode()
            draw.text((x, y - higher - 11), plain, fill=color, font=letters)
        x += letters.getlength(part)
