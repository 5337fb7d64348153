"""Two situations: one prompt for the whole batch, and a prompt of its own for each image."""

from dataclasses import dataclass

import numpy as np
import torch
from mmd_demo.emoji.words import STYLES
from mmd_tests.studies.quality.emoji.cases import BATCH, SET, Atlas, own_prompts, shuffled
from mmd_tests.studies.quality.emoji.trial import Shown

FIRST_TUNING = 1000
"""Seeds from here on are for choosing strengths."""


@dataclass(frozen=True)
class Theme:
    """A prompt that leaves much open, which the model draws well and much alike.

    Attributes:
        prompt: What the user writes.
        variations: What the user writes four more times, as the template asks.
        names: The names of pictures that show it.
    """

    prompt: str
    variations: tuple[str, str, str, str]
    names: tuple[str, ...]


THEMES = (
    Theme(
        "cat face",
        ("twemoji grinning cat", "noto weary cat", "fluent black cat", "smiling cat heart eyes"),
        (
            *("cat", "cat face", "black cat", "crying cat", "grinning cat", "kissing cat"),
            *("cat with tears of joy", "cat with wry smile", "grinning cat with smiling eyes"),
            *("pouting cat", "smiling cat with heart eyes", "weary cat"),
        ),
    ),
    Theme(
        "house",
        ("twemoji derelict house", "noto house with garden", "fluent hut", "houses"),
        ("derelict house", "house", "house with garden", "houses", "hut"),
    ),
    Theme(
        "grinning face",
        (
            *("twemoji beaming face", "noto grinning face with sweat"),
            *("fluent grinning squinting face", "smiling face with smiling eyes"),
        ),
        (
            *("beaming face with smiling eyes", "grinning face", "grinning face with big eyes"),
            *("grinning face with smiling eyes", "grinning face with sweat", "smiling face"),
            *("grinning squinting face", "smiling face with smiling eyes"),
        ),
    ),
)
"""One for each seed, in turn."""


@dataclass(frozen=True)
class Scene:
    """What is to be drawn at one seed.

    Attributes:
        prompts: One for each image.
        right: For each image, the names that are right.
        variations: Prompts to draw references for; none where each image has a prompt of its own.
        folder: Real pictures as references; None where there are variations.
        real: Other real pictures of the prompts, in all styles.
    """

    situation: str
    seed: int
    prompts: tuple[str, ...]
    right: tuple[tuple[str, ...], ...]
    variations: tuple[str, ...]
    folder: Shown | None
    real: Shown


def one_prompt(atlas: Atlas, seed: int) -> Scene:
    """The same prompt for all images."""
    theme = THEMES[seed % len(THEMES)]
    rows = np.concatenate([atlas.rows(style=style, name=theme.names) for style in STYLES])
    same = ((theme.prompt,) * BATCH, (theme.names,) * BATCH)
    return Scene("one prompt", seed, *same, theme.variations, None, atlas.show(rows))


def prompts_of_their_own(atlas: Atlas, seed: int) -> Scene:
    """Sixteen names; the folder has varied things in all styles, none of which the model has seen."""
    names = own_prompts(atlas, "fluent", seed)
    pool = np.concatenate([atlas.rows(style=style, split="val_name") for style in STYLES])
    folder = atlas.show(shuffled(pool, "folder", seed)[:SET])
    real = atlas.show(np.concatenate([atlas.rows(style=s, name=names) for s in STYLES]))
    prompts = tuple(names.tolist())
    return Scene("own prompts", seed, prompts, tuple((p,) for p in prompts), (), folder, real)


SITUATIONS = {"one prompt": one_prompt, "own prompts": prompts_of_their_own}


def noise_of(seed: int, count: int) -> torch.Tensor:
    """The noise (count, 4, 16, 16) with which images begin."""
    generator = torch.Generator().manual_seed(1000 * seed)
    return torch.randn(count, 4, 16, 16, generator=generator)
