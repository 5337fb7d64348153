"""The contact sheet of the study on digits."""

from pathlib import Path

import numpy as np
from mmd_tests.studies.contact_sheet import draw_sheet

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
    sections = {
        title: [(name, (sets[tuple(key)] / 2 + 0.5).clip(0, 1)) for *key, name in lines]
        for title, lines in SHOWN.items()
    }
    draw_sheet(sections, path, left=250)
