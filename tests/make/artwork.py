"""Draws the icon and the banner of the pack: pictures that fill the curve of a distribution.

`python tests/make/artwork.py` writes them to .github; needs only Pillow. The larger hill is made of
days and the smaller one of nights: what guidance keeps is the kinds of pictures and their shares.
"""

from __future__ import annotations

import math
import random
import sys
from pathlib import Path

from PIL import Image, ImageChops, ImageDraw, ImageFont

FOLDER = Path(__file__).absolute().parents[2] / ".github"
FINER = 3  # everything is drawn so many times larger, and reduced at the end

NAME, TAGLINE = "MMD Guidance", "new pictures, distributed like yours"
FLYING = 26  # scattered pictures on the banner
DARK, DARKER, LINE, PALE = (30, 32, 48), (17, 18, 28), (255, 250, 235), (176, 180, 204)
DAYS = (  # sky above, sky below, sun, far hill, near hill
    ((255, 138, 76), (255, 208, 120), (255, 246, 204), (214, 92, 62), (150, 52, 58)),
    ((255, 168, 66), (255, 228, 150), (255, 252, 226), (226, 120, 52), (170, 74, 44)),
    ((240, 96, 92), (255, 184, 120), (255, 238, 180), (186, 60, 84), (128, 38, 76)),
)
NIGHTS = (
    ((62, 84, 200), (124, 156, 255), (240, 246, 255), (44, 58, 150), (30, 38, 104)),
    ((84, 70, 196), (164, 138, 255), (248, 240, 255), (60, 46, 146), (40, 30, 102)),
    ((40, 120, 196), (118, 206, 240), (240, 254, 255), (28, 84, 150), (20, 56, 108)),
)
OTHERS = (  # what a model draws that nobody asked for
    ((96, 176, 96), (190, 226, 140), (250, 255, 220), (60, 130, 84), (38, 92, 70)),
    ((196, 88, 170), (246, 168, 214), (255, 236, 250), (146, 56, 132), (98, 36, 100)),
    ((70, 170, 160), (168, 228, 206), (240, 255, 246), (44, 124, 124), (28, 84, 94)),
    ((150, 156, 170), (214, 218, 226), (250, 250, 250), (108, 114, 130), (74, 78, 96)),
)
HILLS = ((0.34, 0.138, 1.0), (0.765, 0.088, 0.6))  # middle, width and height of each, in 0..1
BETWEEN = 0.59  # of the two


def curve(x: float) -> float:
    """The height of the distribution at x, both in 0..1; 0 at both ends."""
    return _hills(x) - (1 - x) * _hills(0) - x * _hills(1)


def _hills(x: float) -> float:
    return sum(top * math.exp(-(((x - middle) / width) ** 2) / 2) for middle, width, top in HILLS)


def picture(colors, side: int, luck: random.Random) -> Image.Image:
    """A small landscape with rounded corners: sky, sun or moon, two hills."""
    above, below, light, far, near = colors
    ramp = Image.linear_gradient("L").resize((side, side))
    tile = Image.composite(*(Image.new("RGB", (side, side), c) for c in (below, above)), ramp)
    draw = ImageDraw.Draw(tile)
    x, y, r = (side * luck.uniform(*span) for span in ((0.24, 0.76), (0.24, 0.4), (0.12, 0.17)))
    draw.ellipse((x - r, y - r, x + r, y + r), light)
    for color, level, slope in ((far, 0.6, 0.12), (near, 0.78, 0.1)):
        phase = luck.uniform(0, 2 * math.pi)
        edge = [
            (i * side / 24, side * (level + slope * math.sin(phase + i / 24 * 4)))
            for i in range(25)
        ]
        draw.polygon([*edge, (side, side), (0, side)], color)
    mask = Image.new("L", (side, side))
    ImageDraw.Draw(mask).rounded_rectangle((0, 0, side - 1, side - 1), side * 0.14, 255)
    tile.putalpha(mask)
    return tile


def distribution(size: tuple[int, int], columns: int, thick: float, luck: random.Random):
    """The curve on its base line, filled with pictures; transparent around."""
    width, height = size
    pitch, base, top = width / columns, height - thick / 2, height - thick
    span = width - thick
    outline = [(thick / 2 + x / 400 * span, base - top * curve(x / 400)) for x in range(401)]
    tiles = Image.new("RGBA", size)
    for column in range(columns):
        middle = (column + 0.5) / columns
        kinds = DAYS if middle < BETWEEN else NIGHTS
        for row in range(math.ceil(height / pitch)):
            tile = picture(luck.choice(kinds), round(pitch * 0.9), luck)
            place = column * pitch + 0.05 * pitch, base - thick / 2 - (row + 0.95) * pitch
            if place[1] >= 0 and place[1] > base - top * highest(column, columns) - pitch:
                tiles.alpha_composite(tile, (round(place[0]), round(place[1])))
    mask = Image.new("L", size)
    ImageDraw.Draw(mask).polygon([*outline, (width, base), (0, base)], 255)
    tiles.putalpha(ImageChops.multiply(tiles.getchannel("A"), mask))
    draw = ImageDraw.Draw(tiles)
    draw.line(outline, LINE, round(thick))
    for x, y in outline:
        draw.ellipse((x - thick / 2, y - thick / 2, x + thick / 2, y + thick / 2), LINE)
    return tiles


def highest(column: int, columns: int) -> float:
    """How high the curve is above a column."""
    return max(curve((column + i / 20) / columns) for i in range(21))


def backdrop(size: tuple[int, int]) -> Image.Image:
    """Dark, a little lighter towards the top."""
    ramp = Image.linear_gradient("L").resize(size)
    return Image.composite(*(Image.new("RGB", size, c) for c in (DARKER, DARK)), ramp)


def icon() -> Image.Image:
    """400 x 400, with rounded corners."""
    n = FINER
    side, luck = 400 * n, random.Random(2)
    page = backdrop((side, side)).convert("RGBA")
    layer = distribution((372 * n, 296 * n), 8, 10 * n, luck)
    page.alpha_composite(layer, (14 * n, 46 * n))
    mask = Image.new("L", page.size)
    ImageDraw.Draw(mask).rounded_rectangle((0, 0, side - 1, side - 1), 72 * n, 255)
    page.putalpha(mask)
    return page.resize((400, 400), Image.Resampling.LANCZOS)


def banner() -> Image.Image:
    """1260 x 540: scattered pictures on their way into the distribution, and the name."""
    n = FINER
    luck = random.Random(5)
    page = backdrop((1260 * n, 540 * n)).convert("RGBA")
    for number in range(FLYING):
        along = number / (FLYING - 1)  # 0 far from the distribution, 1 at it
        kinds = OTHERS if luck.random() > along else (DAYS, DAYS, NIGHTS)[number % 3]
        side = round((30 + 14 * along) * n)
        tile = picture(luck.choice(kinds), side, luck)
        tile.putalpha(tile.getchannel("A").point(lambda a, s=0.25 + 0.75 * along: round(a * s)))
        tile = tile.rotate(luck.uniform(-40, 40) * (1.2 - along), Image.Resampling.BICUBIC, True)
        x = 46 + 670 * along
        lane = (-1) ** number * luck.uniform(0.35, 1)  # above and below by turns: fewer overlap
        y = 150 - 70 * math.sin(math.pi * along) + 75 * lane * (1.25 - along)
        page.alpha_composite(tile, (round(x * n), round(y * n)))
    layer = distribution((600 * n, 436 * n), 12, 11 * n, luck)
    page.alpha_composite(layer, (632 * n, 52 * n))
    draw = ImageDraw.Draw(page)
    for text, size, x, y, color in ((NAME, 80, 54, 330, LINE), (TAGLINE, 34, 60, 428, PALE)):
        draw.text((x * n, y * n), text, color, ImageFont.load_default(size * n), stroke_width=n)
    page = page.convert("RGB").resize((1260, 540), Image.Resampling.LANCZOS)
    return page.quantize(256, kmeans=3, dither=Image.Dither.NONE)


def main() -> int:
    """Write both."""
    FOLDER.mkdir(exist_ok=True)
    icon().save(FOLDER / "icon.png", optimize=True)
    banner().save(FOLDER / "banner.png", optimize=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
