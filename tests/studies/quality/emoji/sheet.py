"""Pictures to look at: one sheet for each case, drawn at one seed."""

from pathlib import Path

import torch
from mmd_tests.demo.emoji.files import save_pictures
from mmd_tests.demo.emoji.pictures import to_float
from mmd_tests.studies.quality.emoji.cases import CASES
from mmd_tests.studies.quality.emoji.methods import METHODS
from mmd_tests.studies.quality.emoji.tasks import Setup, make_easel, opened


def draw_sheet(setup: Setup, case: str, seed: int, methods: list[str], path: Path) -> list[str]:
    """Write a sheet and return what its rows are; what was drawn before is not drawn again.

    Some of the set, real pictures of the target, then one row for each method.
    """
    atlas, world = opened(setup)
    trial = CASES[case].make(atlas, seed)
    easel = make_easel(world, trial, setup)
    count = len(trial.prompts)
    rows = []
    for shown in (trial.given, trial.held_out):
        some = torch.linspace(0, len(shown) - 1, min(count, len(shown))).round().long()
        rows.append(to_float(shown.pixels[some]))
    labels = ["the set", "real pictures"]
    for name in methods:
        method = METHODS[name]
        if method.fits(trial):
            rows.append(world.decode(method.draw(easel).latents))
            labels.append(method.label)
    white = [torch.ones(count - len(row), *row.shape[1:]) for row in rows]
    save_pictures([torch.cat(pair) for pair in zip(rows, white, strict=True)], path)
    return labels
