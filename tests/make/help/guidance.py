"""Guidance in pictures: emoji without and with it, at several strengths, by shares."""

from __future__ import annotations

from functools import cache

from mmd_pack.mmd_core import References
from mmd_pack.mmd_core.references.merge import merge
from mmd_tests.make.help.drawing import Drawn, drawn, encoded, faces, guided, prompts
from mmd_tests.make.help.sheets import rows_of, side_by_side
from PIL import Image

SHOWN = 10  # pictures in a row
SWEEP = (0, 3, 10, 30, 100)
MIXTURE = ("blue", "blue", "blue", "pink")


def mixture() -> list[Image.Image]:
    """References of which three quarters are blue."""
    return [picture for picture, _ in faces(*MIXTURE)]


def with_and_without() -> Image.Image:
    """A set that is three quarters blue; a batch without guidance, and with it."""
    references, texts = mixture(), prompts(20)
    return side_by_side(
        [
            ("your pictures", references),
            ("without guidance", guided(references, texts, 0.0)),
            ("with guidance", guided(references, texts)),
        ]
    )


@cache
def swept(strength: float) -> Drawn:
    """The same noise at one of several strengths."""
    return drawn(mixture(), prompts(SHOWN), strength)


def strengths() -> Image.Image:
    """The same noise at several strengths."""
    rows = [("your pictures", mixture())]
    for strength in SWEEP:
        label = f"{strength}" if strength else "strength 0"
        rows.append((label, swept(strength).pictures))
    return rows_of(rows, SHOWN, apart=1)


def shares() -> Image.Image:
    """Two sets, mixed by share."""
    sets = [References(encoded([each for each, _ in faces(color)])) for color in ("blue", "pink")]
    rows = []
    for a, b in ((1, 0), (0.7, 0.3), (0.3, 0.7), (0, 1)):
        pictures = guided(merge(sets, (a, b)), prompts(SHOWN))
        rows.append((f"{a:g} : {b:g}", pictures))
    return rows_of(rows, SHOWN, bars=True)
