"""Four emoji sets as one file of 64x64 pictures with words (see LICENCES.md).

    python data.py [--cache DIR]

fetches five npm packages by the npm client and writes `emoji.npz` with one row per picture:

* pictures: uint8 (N, 64, 64, 3), on white
* name: the base emoji's name, short: its other names, tags: keywords, tone: its skin tone
* category, style (noto, twemoji, fluent, openmoji), code: base code point, toned: bool
* split: train, val_name (a name never trained on in any style), val_pair (a picture never trained
  on whose name is known from the other two styles) or style_never_seen (all of OpenMoji)

Flags are left out: their names say nothing of how they look.
"""

import hashlib
import io
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

if not __package__:  # a script: name the packages as tests/conftest.py does
    sys.path.insert(0, str(Path(__file__).absolute().parents[2]))
    import support.packages  # noqa: F401

import numpy as np
import resvg
from mmd_demo.emoji.words import STYLES, UNSEEN
from mmd_tests.demo.emoji.cache import argument_parser
from mmd_tests.demo.emoji.files import write_at_once
from PIL import Image

PACKAGES = (
    "emoji-datasource-google@16",
    "emoji-datasource-twitter@16",
    "@lobehub/fluent-emoji-3d@1.1",
    "openmoji@17",
    "emojilib@3",
)
SIZE = 64
TONES = {
    "1F3FB": "light",
    "1F3FC": "medium light",
    "1F3FD": "medium",
    "1F3FE": "medium dark",
    "1F3FF": "dark",
}
VARIATION = "fe0f"  # the code that asks for a coloured picture; not every package writes it
MISLEADING = {"black", "white", "heavy", "sign", "symbol", "with", "of"}  # of old Unicode names


@dataclass(frozen=True)
class Emoji:
    """One emoji, or one of its skin tones."""

    name: str
    short: str
    tags: str
    category: str
    base: str
    code: str
    tone: str


def fetch_packages(folder: Path) -> Path:
    """Install the packages, unless they are there, and return their folder."""
    modules = folder / "node_modules"
    if not all((modules / package.rsplit("@", 1)[0]).is_dir() for package in PACKAGES):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "package.json").write_text("{}")
        options = ["--ignore-scripts", "--no-audit", "--no-fund"]
        subprocess.run(["npm", "install", *options, *PACKAGES], cwd=folder, check=True)
    return modules


def plain_code(code: str) -> str:
    """A code point sequence in lower case and without variation selectors."""
    return "-".join(part for part in code.lower().split("-") if part != VARIATION)


def read_emoji(modules: Path) -> list[Emoji]:
    """All emoji but flags and bare skin tones, each followed by its skin tones."""
    table = json.loads((modules / "emoji-datasource-google/emoji.json").read_text())
    library = json.loads((modules / "emojilib/dist/emoji-en-US.json").read_text())
    keywords = {
        plain_code("-".join(f"{ord(sign):x}" for sign in signs)): words
        for signs, words in library.items()
    }
    found = []
    for row in sorted(table, key=lambda row: row["sort_order"]):
        if row["category"] in ("Flags", "Component"):
            continue
        base = plain_code(row["unified"])
        old = row["name"].lower()
        name, *tags = keywords.get(base, [old])
        name = name.replace("_", " ").lower()
        kept = [word for word in old.split() if word not in MISLEADING]
        short = " ".join([*row["short_names"], *kept]).replace("_", " ").lower()
        shared = (name, short, " ".join(tags).replace("_", " ").lower(), row["category"], base)
        found.append(Emoji(*shared, base, ""))
        for key, variant in row.get("skin_variations", {}).items():
            tones = " and ".join(dict.fromkeys(TONES[part] for part in key.split("-")))
            found.append(Emoji(*shared, plain_code(variant["unified"]), f"{tones} skin tone"))
    return found


def index_pictures(modules: Path) -> dict[str, dict[str, Path]]:
    """For each style the picture of each code point sequence."""
    folders = {
        "noto": modules / "emoji-datasource-google/img/google/64",
        "twemoji": modules / "emoji-datasource-twitter/img/twitter/64",
        "fluent": modules / "@lobehub/fluent-emoji-3d/assets",
        UNSEEN: modules / "openmoji/color/svg",
    }
    return {
        style: {plain_code(path.stem): path for path in sorted(folder.iterdir())}
        for style, folder in folders.items()
    }


def read_picture(path: Path) -> np.ndarray:
    """A picture as uint8 (64, 64, 3), on white; larger ones are scaled down."""
    if path.suffix == ".svg":
        tree = resvg.usvg.Tree.from_str(path.read_text(), resvg.usvg.Options.default())
        picture = Image.open(io.BytesIO(resvg.render(tree, (4, 0, 0, 0, 4, 0), bg_size=(288, 288))))
    else:
        picture = Image.open(path)
    picture = picture.convert("RGBA")
    white = Image.new("RGBA", picture.size, "white")
    picture = Image.alpha_composite(white, picture).convert("RGB")
    if picture.size != (SIZE, SIZE):
        picture = picture.resize((SIZE, SIZE), Image.Resampling.LANCZOS)
    return np.asarray(picture)


def choose_split(emoji: Emoji, style: str, styles: list[str]) -> str:
    """By a hash of the base name: 6 % of the names, and one style of another 10 %, are held out."""
    if style == UNSEEN:
        return "style_never_seen"
    digest = hashlib.sha256(emoji.name.encode()).digest()
    place = int.from_bytes(digest[:4], "big") / 2**32
    if place < 0.06:
        return "val_name"
    held_out = styles[digest[4] % len(styles)] if len(styles) > 1 else None
    return "val_pair" if place < 0.16 and style == held_out else "train"


def main() -> None:
    """Write the file."""
    cache = argument_parser(__doc__).parse_args().cache
    modules = fetch_packages(cache / "npm")
    pictures, rows = [], []
    index = index_pictures(modules)
    for emoji in read_emoji(modules):
        available = [style for style in STYLES if emoji.base in index[style]]
        for style in (*STYLES, UNSEEN):
            path = index[style].get(emoji.code)
            if path is None:
                continue
            pictures.append(read_picture(path))
            split = choose_split(emoji, style, available)
            texts = (emoji.name, emoji.short, emoji.tags, emoji.tone, emoji.category)
            rows.append((*texts, style, emoji.base, split))
    columns = ("name", "short", "tags", "tone", "category", "style", "code", "split")
    arrays = dict(zip(columns, map(np.array, zip(*rows, strict=True)), strict=True))
    arrays |= {"pictures": np.stack(pictures), "toned": arrays["tone"] != ""}
    write_at_once(cache / "emoji.npz", lambda part: np.savez_compressed(part, **arrays))


if __name__ == "__main__":
    main()
