"""The cases: which set, which prompts, and which real pictures they are compared with.

Pictures that the denoiser never saw serve as sets where there are enough of them; where there are
not, the text of the case says so.
"""

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from mmd_demo.emoji.words import STYLES, UNSEEN
from mmd_tests.demo.emoji.pictures import read_pictures, read_table
from mmd_tests.studies.quality.emoji.targets import COLOURED, kinds_of, palette, proportions
from mmd_tests.studies.quality.emoji.trial import Shown, Trial

BATCH = 16
SET = 64


class Atlas:
    """All pictures with their table; `base` are those without a skin tone."""

    def __init__(self, cache: Path) -> None:
        self.table = read_table(cache)
        self.pixels = read_pictures(cache, slice(None))
        self.base = ~self.table["toned"]

    @property
    def names(self) -> tuple[str, ...]:
        """All names, each once."""
        return tuple(dict.fromkeys(self.table["name"].tolist()))

    def rows(self, **wanted: object) -> np.ndarray:
        """Numbers of the rows without skin tone and symbols whose columns have these values."""
        found = self.base & (self.table["category"] != "Symbols")
        for column, values in wanted.items():
            found &= np.isin(self.table[column], values)
        return np.flatnonzero(found)

    def show(self, rows: np.ndarray) -> Shown:
        """The pictures of some rows."""
        columns = (tuple(self.table[column][rows].tolist()) for column in ("name", "style"))
        return Shown(self.pixels[torch.as_tensor(rows)], *columns)

    def of_names(self, names: np.ndarray, style: str) -> Shown:
        """The pictures of some names in one style."""
        rows = {self.table["name"][row]: row for row in self.rows(style=style, name=names)}
        return self.show(np.array([rows[name] for name in names]))

    def names_in(self, rows: np.ndarray) -> np.ndarray:
        """The different names of some rows, sorted."""
        return np.unique(self.table["name"][rows])


def shuffled(items: np.ndarray, *key: object) -> np.ndarray:
    """The items in an order that depends on the key only."""
    return np.random.default_rng(zlib.crc32(repr(key).encode())).permutation(items)


def turn(items: np.ndarray, count: int, seed: int, key: str) -> np.ndarray:
    """`count` of the items; seeds that follow each other get different ones while there are any."""
    rounds, place = divmod(seed, len(items) // count)
    return shuffled(items, key, rounds)[place * count : (place + 1) * count]


def own_prompts(atlas: Atlas, style: str, seed: int) -> np.ndarray:
    """Names whose picture in this style nothing was trained on; other styles taught them."""
    names = atlas.names_in(atlas.rows(split="val_pair", style=style))
    return turn(names, BATCH, seed, f"prompts {style}")


def varied(atlas: Atlas, style: str, seed: int) -> Trial:
    """A set of varied things in one style; prompts of one's own."""
    names = own_prompts(atlas, style, seed)
    pool = atlas.rows(split="val_name", style=style)
    given = atlas.show(shuffled(pool, "set", style, seed)[:SET])
    prompts, wanted = tuple(names.tolist()), (style,) * BATCH
    return Trial(f"a {style}", seed, prompts, wanted, given, atlas.of_names(names, style))


def unseen(atlas: Atlas, seed: int) -> Trial:
    """As `varied`, in a style that no denoiser saw."""
    known = atlas.names_in(atlas.rows(style=UNSEEN))
    names = own_prompts(atlas, "fluent", seed)
    names = np.concatenate([names[np.isin(names, known)], names[~np.isin(names, known)]])
    missing = int((~np.isin(names, known)).sum())
    if missing:  # none so far: OpenMoji has all names
        raise ValueError(f"{missing} names have no picture in {UNSEEN}: {names[-missing:]}")
    pool = atlas.rows(style=UNSEEN, split="style_never_seen")
    pool = pool[~np.isin(atlas.table["name"][pool], names)]
    given = atlas.show(shuffled(pool, "set", UNSEEN, seed)[:SET])
    prompts, wanted = tuple(names.tolist()), (UNSEEN,) * BATCH
    return Trial("b openmoji", seed, prompts, wanted, given, atlas.of_names(names, UNSEEN))


def faces_in(atlas: Atlas, style: str) -> np.ndarray:
    """Names of smileys with a picture in this style."""
    names = atlas.names_in(atlas.rows(category="Smileys & Emotion", style=style))
    return names[["face" in name.split() for name in names]]


def animals_in(atlas: Atlas, style: str) -> np.ndarray:
    """Names of animals and plants with a picture in this style."""
    return atlas.names_in(atlas.rows(category="Animals & Nature", style=style))


def split_names(names: np.ndarray, count: int, size: int, seed: int, key: str) -> tuple:
    """`count` names to prompt with, and up to `size` others."""
    prompts = turn(names, count, seed, key)
    others = names[~np.isin(names, prompts)]
    return prompts, shuffled(others, key, "set", seed)[:size]


def smileys(atlas: Atlas, style: str, seed: int) -> Trial:
    """Smileys, and a set of other smileys in one style."""
    names, others = split_names(faces_in(atlas, style), BATCH, SET, seed, "smileys")
    held_out, given = (atlas.of_names(each, style) for each in (names, others))
    return Trial("c smileys", seed, tuple(names.tolist()), (style,) * BATCH, given, held_out)


def cats_and_dogs(atlas: Atlas, seed: int) -> Trial:
    """A set of 70 % cats and 30 % dogs in all styles; one prompt."""
    rows = atlas.rows(style=STYLES)
    kinds = kinds_of(atlas.table["name"][rows].tolist())
    cats, dogs = (shuffled(rows[kinds == kind], "cats", seed) for kind in (0, 1))
    given = atlas.show(np.concatenate([cats[:19], dogs[:8]]))
    held_out = atlas.show(np.concatenate([cats[19:35], dogs[8:15]]))
    judged = proportions(atlas.names, (0.7, 0.3, 0.0))
    prompts = ("animal face",) * BATCH
    return Trial("d proportions", seed, prompts, ("",) * BATCH, given, held_out, extras=judged)


def blue_things(atlas: Atlas, seed: int) -> Trial:
    """A set of blue and violet things in all styles; prompts of one's own."""
    names = own_prompts(atlas, "fluent", seed)
    rows = atlas.rows(style=STYLES)
    rows = rows[~np.isin(atlas.table["name"][rows], names)]
    blue = palette(atlas.pixels[torch.as_tensor(rows)].float() / 127.5 - 1) > COLOURED
    pool = shuffled(rows[blue.numpy()], "palette", seed)
    given, held_out = (atlas.show(each) for each in (pool[:SET], pool[SET : 2 * SET]))

    def extras(pictures: torch.Tensor, scores: torch.Tensor) -> dict[str, float]:
        return {"palette": palette(pictures).mean().item()}

    prompts, none = tuple(names.tolist()), ("",) * BATCH
    return Trial("e palette", seed, prompts, none, given, held_out, extras=extras)


def faces_and_animals(atlas: Atlas, seed: int) -> Trial:
    """Faces as in one style, animals as in another; the kernel compares prompts with names."""
    shown, half = [], BATCH // 2
    for key, names, style in (
        ("faces", faces_in(atlas, "fluent"), "fluent"),
        ("animals", animals_in(atlas, "twemoji"), "twemoji"),
    ):
        chosen = split_names(names, half, SET // 2, seed, key)
        shown.append([atlas.of_names(each, style) for each in chosen])
    (faces, given_faces), (animals, given_animals) = shown
    held_out, given = faces.followed_by(animals), given_faces.followed_by(given_animals)
    return Trial(
        "f prompt-aware",
        seed,
        held_out.names,
        held_out.styles,
        given,
        held_out,
        parts=(0,) * half + (1,) * half,
        given_parts=(0,) * len(given_faces) + (1,) * len(given_animals),
        aware=True,
    )


def no_prompt(atlas: Atlas, style: str, seed: int) -> Trial:
    """The set of `varied`, without words and at cfg 1."""
    given = varied(atlas, style, seed).given
    rest = atlas.rows(split=["val_name", "val_pair"], style=style)
    held_out = atlas.show(rest[~np.isin(atlas.table["name"][rest], given.names)])
    return Trial("g no prompt", seed, ("",) * BATCH, (style,) * BATCH, given, held_out, cfg=1.0)


@dataclass(frozen=True)
class Case:
    """How a case is made of the pictures and a seed, and what to say of it."""

    make: Callable[[Atlas, int], Trial]
    about: str


def _varied(style: str) -> Case:
    about = (
        f"A set of {SET} varied things in {style}, none of which the model has seen; prompts that"
        " are no names of the set and whose pictures in this style the model has not seen either."
    )
    return Case(lambda atlas, seed: varied(atlas, style, seed), about)


CASES = {
    "a fluent": _varied("fluent"),
    "a twemoji": _varied("twemoji"),
    "a noto": _varied("noto"),
    "b openmoji": Case(
        unseen,
        "The same with OpenMoji, a style the model has never seen. The judge has learned to tell it"
        " from the others, from some of these pictures too.",
    ),
    "c smileys": Case(
        lambda atlas, seed: smileys(atlas, "fluent", seed),
        "Smileys towards other smileys in Fluent. Model and judge have learned from most of these"
        " pictures.",
    ),
    "d proportions": Case(
        cats_and_dogs,
        'The prompt "animal face", and a set of 19 cats and 8 dogs in three styles, most of which'
        " the model has seen. Cats, dogs: share of images whose best name of all animals is one.",
    ),
    "e palette": Case(
        blue_things,
        "The prompts of a fluent, and a set of blue and violet things in three styles. Palette: the"
        " share of an image's colour that is blue or violet. The real pictures beside it are other"
        " such things, not those of the prompts: FD and MMD² count contents too.",
    ),
    "f prompt-aware": Case(
        faces_and_animals,
        "Faces and animals in one batch, and a set of other faces in Fluent and other animals in"
        " Twemoji with their names; prompt kernel cosine. Model and judge know most of these.",
    ),
    "g no prompt": Case(
        lambda atlas, seed: no_prompt(atlas, "fluent", seed),
        "The set of a fluent, no words, cfg 1. The real pictures beside it are other things.",
    ),
}
