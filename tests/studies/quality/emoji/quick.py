"""A quick look with what the repository holds: no data to fetch, seconds on one core."""

import numpy as np
import torch
from mmd_tests.demo.emoji.held_out import read_sheet
from mmd_tests.studies.quality.emoji.trial import Shown, Trial
from mmd_tests.support.packages import TESTS
from PIL import Image

FOLDER = TESTS / "demo" / "references" / "emoji"
PROMPTS = (
    "cat face",
    "red heart",
    "green apple",
    "hamburger",
    "soccer ball",
    "bicycle",
    "rose",
    "house",
)
STEPS = 8
METHODS = ["none", "keep-30"]


def read_set() -> Shown:
    """The reference pictures of the demonstration: 64 things in Fluent."""
    files = sorted(FOLDER.glob("*.png"))
    pixels = [np.asarray(Image.open(file).convert("RGB")) for file in files]
    names = tuple(file.with_suffix(".txt").read_text("utf-8").strip() for file in files)
    shown = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).contiguous()
    return Shown(shown, names, ("fluent",) * len(files))


def quick_trial() -> Trial:
    """Eight prompts and the demonstration's set, next to twelve real pictures of other names."""
    sheet = read_sheet()
    pixels = sheet.pictures.add(1).mul(127.5).round().byte()
    held_out = Shown(pixels, tuple(sheet.names), tuple(sheet.styles))
    return Trial("quick", 0, PROMPTS, ("fluent",) * len(PROMPTS), read_set(), held_out)


def quick_names(trial: Trial) -> tuple[str, ...]:
    """The names among which the judge looks."""
    return tuple(dict.fromkeys((*trial.prompts, *trial.held_out.names, *trial.given.names)))
