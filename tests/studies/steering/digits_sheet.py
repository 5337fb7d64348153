"""A contact sheet: the images that each method handed out, one row each."""

from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

SCALE, GAP, LEFT, HEADER = 4, 4, 220, 26
SHOWN = {
    "unsteered": "unsteered",
    "best of 64: best": "best of 64",
    "FK steering: resample": "FK steering",
    "TRI-TSMC: best": "TRI-TSMC, best",
    "TRI-TSMC: resample": "TRI-TSMC, resample",
    "tilted model": "the tilted model itself",
}
TITLES = {"class": "Reward: log-probability of 5", "witness": "Reward: MMD witness of 3/8/1"}


def draw(rows, case, path: Path) -> None:
    """Arguments: rows of (reward, method, samples `(16, 1, 8, 8)`)."""
    chosen = [(world, SHOWN[m], s) for world, m, s in rows if m in SHOWN]
    worlds = list(dict.fromkeys(world for world, _, _ in chosen))
    cell = 8 * SCALE + GAP
    width = LEFT + cell * max(len(s) for _, _, s in chosen) + GAP
    page = Image.new("L", (width, len(chosen) * cell + len(worlds) * HEADER + GAP), 255)
    pen, font, y = ImageDraw.Draw(page), ImageFont.load_default(14), GAP
    for world in worlds:
        pen.text((GAP, y + 4), TITLES[world], 0, font)
        y += HEADER
        for _, name, samples in (row for row in chosen if row[0] == world):
            pen.text((GAP, y + cell / 2 - GAP / 2), name, 60, font, anchor="lm")
            pictures = (case.pictures(case.samples(samples))[..., 0] * 255).round().byte().numpy()
            for i, picture in enumerate(pictures):
                tile = Image.fromarray(picture).resize((8 * SCALE,) * 2, Image.Resampling.NEAREST)
                page.paste(tile, (LEFT + i * cell, y))
            y += cell
    page.save(path, optimize=True)
