"""A contact sheet: the first images of each method, one row each."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

SCALE, GAP, LEFT, HEADER = 4, 4, 250, 26
SHOWN = {
    "Faster: euler, no prompt": [
        ("euler", "model alone", 5, "model alone, 5 steps"),
        ("euler", "LoRA, latent", 5, "LoRA (latent), 5 steps"),
        ("euler", "LoRA, unet", 5, "LoRA (unet), 5 steps"),
        ("euler", "model alone", 10, "model alone, 10 steps"),
        ("euler", "model alone", 50, "model alone, 50 steps"),
        ("euler", "LoRA, latent", 50, "LoRA (latent), 50 steps"),
    ],
    "Faster: ten prompts in turn": [
        ("prompts", "model alone", 5, "model alone, 5 steps"),
        ("prompts", "LoRA, latent", 5, "LoRA, 5 steps"),
        ("prompts", "model alone", 50, "model alone, 50 steps"),
    ],
    "Faster and different: 3s, 8s and 1s": [
        ("subset", "real digits", 0, "real digits"),
        ("subset", "model alone", 5, "model alone, 5 steps"),
        ("subset", "guidance, 100 real", 5, "guidance, 5 steps"),
        ("subset", "guidance, 100 real", 50, "guidance, 50 steps"),
        ("subset", "LoRA, 100 real", 5, "LoRA of 100 real, 5 steps"),
        ("subset", "LoRA, 1200 drawn", 5, "LoRA of 1200 drawn, 5 steps"),
    ],
}  # fmt: skip


def draw(rows: list[dict], path: Path) -> None:
    """Arguments: rows, some with `given`: latents `(n, 1, 8, 8)`, as lists."""
    seed = rows[0]["seed"]
    sets = {
        (row["study"], row["model"], row["steps"]): np.asarray(row["given"], np.float32)[:, 0]
        for row in rows
        if "given" in row and row["seed"] == seed
    }
    cell = 8 * SCALE + GAP
    count = sum(map(len, SHOWN.values()))
    width = LEFT + cell * max(map(len, sets.values())) + GAP
    page = Image.new("L", (width, count * cell + len(SHOWN) * HEADER + GAP), 255)
    pen, font, y = ImageDraw.Draw(page), ImageFont.load_default(14), GAP
    for title, lines in SHOWN.items():
        pen.text((GAP, y + 4), title, 0, font)
        y += HEADER
        for *key, name in lines:
            pen.text((GAP, y + cell / 2 - GAP / 2), name, 60, font, anchor="lm")
            pictures = ((sets[tuple(key)] / 2 + 0.5).clip(0, 1) * 255).round().astype(np.uint8)
            for i, picture in enumerate(pictures):
                tile = Image.fromarray(picture).resize((8 * SCALE,) * 2, Image.Resampling.NEAREST)
                page.paste(tile, (LEFT + i * cell, y))
            y += cell
    page.save(path, optimize=True)
