"""Fluent emoji that help and thumbnails are drawn with, in any color; needs Pillow.

They lie side by side in fluent.webp, which `collect.py` writes.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

from PIL import Image

SHEET = Path(__file__).absolute().with_name("fluent.webp")
SIDE, COLUMNS = 64, 12  # of a picture, and of the sheet
NAMES = {
    "faces": (
        "grinning face",
        "grinning face with big eyes",
        "grinning face with smiling eyes",
        "beaming face with smiling eyes",
        "grinning squinting face",
        "face with tears of joy",
        "slightly smiling face",
        "winking face",
        "smiling face with smiling eyes",
        "smiling face with heart eyes",
        "kissing face",
        "smiling face",
        "smiling face with tear",
        "face savoring food",
        "face with tongue",
        "winking face with tongue",
        "zany face",
        "squinting face with tongue",
        "face with raised eyebrow",
        "neutral face",
        "expressionless face",
        "smirking face",
        "unamused face",
        "face with rolling eyes",
        "relieved face",
        "pensive face",
        "smiling face with sunglasses",
        "nerd face",
        "face with monocle",
        "confused face",
        "worried face",
        "slightly frowning face",
        "face with open mouth",
        "hushed face",
        "astonished face",
        "flushed face",
        "pleading face",
        "anguished face",
        "crying face",
        "angry face",
    ),
    "animals": (
        "monkey face",
        "dog face",
        "wolf",
        "fox",
        "raccoon",
        "cat face",
        "lion",
        "tiger face",
        "cow face",
        "pig face",
        "mouse face",
        "hamster",
        "rabbit face",
        "bear",
        "polar bear",
        "koala",
        "panda",
        "owl",
        "frog",
        "unicorn",
    ),
    "cats": (
        "grinning cat",
        "grinning cat with smiling eyes",
        "cat with tears of joy",
        "smiling cat with heart eyes",
        "cat with wry smile",
        "kissing cat",
        "crying cat",
        "pouting cat",
    ),
    "hearts": (
        "red heart",
        "orange heart",
        "yellow heart",
        "green heart",
        "blue heart",
        "purple heart",
        "pink heart",
        "brown heart",
    ),
}
ORDER = [name for names in NAMES.values() for name in names]
HUES = {"red": 0.985, "gold": 0.12, "green": 0.36, "blue": 0.6, "purple": 0.76, "pink": 0.92}
OWN = 0.11  # the hue of faces
KEPT = 0.12  # of the differences in hue within a picture
RICHER = 1.3  # colors than before


class Named(NamedTuple):
    """A picture, and what it shows."""

    picture: Image.Image
    name: str


@cache
def _sheet() -> Image.Image:
    return Image.open(SHEET).convert("RGB")


def emoji(kind: str) -> list[Named]:
    """The pictures of one of `NAMES`."""
    return [Named(_tile(ORDER.index(name)), name) for name in NAMES[kind]]


def _tile(number: int) -> Image.Image:
    y, x = (SIDE * place for place in divmod(number, COLUMNS))
    return _sheet().crop((x, y, x + SIDE, y + SIDE))


def colored(pictures: Sequence[Named], *colors: str) -> list[Named]:
    """The pictures in these colors by turns."""
    return [
        Named(in_hue(picture, HUES[colors[number % len(colors)]]), name)
        for number, (picture, name) in enumerate(pictures)
    ]


def in_hue(picture: Image.Image, hue: float) -> Image.Image:
    """The picture with its yellow turned to `hue` (0 to 1), and other colors near to it."""

    def turned(own: int) -> int:
        apart = (own / 255 - OWN + 0.5) % 1 - 0.5
        return round((hue + KEPT * apart) % 1 * 255)

    hues, richness, light = picture.convert("HSV").split()
    richness = richness.point([min(255, round(RICHER * value)) for value in range(256)])
    bands = (hues.point([turned(own) for own in range(256)]), richness, light)
    return Image.merge("HSV", bands).convert("RGB")


def color_of(picture: Image.Image, colors: Sequence[str], reach: float = 0.09) -> str | None:
    """Which of `colors` most of the colored pixels of a picture have, or None."""
    hues, richness, _ = picture.convert("HSV").split()
    counts = dict.fromkeys(colors, 0)
    others = 0
    for hue, rich in zip(hues.getdata(), richness.getdata(), strict=True):
        if rich < 100:  # white, black, gray
            continue
        apart = {c: abs((hue / 255 - HUES[c] + 0.5) % 1 - 0.5) for c in colors}
        nearest = min(apart, key=apart.get)
        if apart[nearest] <= reach:
            counts[nearest] += 1
        else:
            others += 1
    most = max(counts, key=counts.get)
    return most if counts[most] > others else None
