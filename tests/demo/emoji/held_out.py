"""Twelve real pictures that nothing was trained on, as one small file with their names.

    python held_out.py [--cache DIR]

writes `held_out.png` beside this script (see LICENCES.md): pictures side by side, and their names,
styles and categories as text inside the file.
"""

import json
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

if not __package__:  # a script: name the packages as tests/conftest.py does
    sys.path.insert(0, str(Path(__file__).absolute().parents[2]))
    import support.packages  # noqa: F401

import numpy as np
import torch
from mmd_demo.emoji.words import STYLES, split_words
from mmd_tests.demo.emoji.cache import argument_parser
from mmd_tests.demo.emoji.captions import read_vocabulary
from mmd_tests.demo.emoji.files import write_at_once
from mmd_tests.demo.emoji.pictures import read_pictures, read_table, to_float
from PIL import Image
from PIL.PngImagePlugin import PngInfo

SHEET = Path(__file__).absolute().parent / "held_out.png"
THANKS = (
    "Noto Emoji by Google (Apache License 2.0), Twemoji by Twitter and contributors (CC BY 4.0),"
    " Fluent Emoji by Microsoft (MIT)"
)


@dataclass(frozen=True)
class Sheet:
    """Pictures (N, 3, 64, 64) in -1 to 1 with what they are."""

    pictures: torch.Tensor
    names: list[str]
    styles: list[str]
    categories: list[str]


def known_names(table: dict[str, np.ndarray]) -> np.ndarray:
    """Whether all words of a row's name are taught by other names."""
    taught = set(read_vocabulary(table))
    known = {name: taught.issuperset(split_words(name)) for name in set(table["name"].tolist())}
    return np.array([known[name] for name in table["name"].tolist()])


def choose_rows(table: dict[str, np.ndarray]) -> list[int]:
    """Held-out names of known words: each style four times, no name twice, categories in turn."""
    wanted = (table["split"] == "val_name") & ~table["toned"] & known_names(table)
    rows: list[int] = []
    for number in range(12):
        free = wanted & ~np.isin(table["name"], table["name"][rows])
        found = np.flatnonzero(free & (table["style"] == STYLES[number % 3]))
        used = Counter(table["category"][rows].tolist())
        rarest = min(used[category] for category in table["category"][found].tolist())
        found = [row for row in found.tolist() if used[str(table["category"][row])] == rarest]
        rows.append(found[len(found) // 2])
    return rows


def read_sheet(path: Path = SHEET) -> Sheet:
    """The pictures of the file with what they are."""
    with Image.open(path) as image:
        texts = json.loads(image.text["pictures"])
        pixels = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)
    pictures = to_float(torch.stack(pixels.split(pixels.shape[1], 2)))
    return Sheet(pictures, texts["names"], texts["styles"], texts["categories"])


def main() -> None:
    """Write the file."""
    cache = argument_parser(__doc__).parse_args().cache
    table = read_table(cache)
    rows = choose_rows(table)
    columns = (("names", "name"), ("styles", "style"), ("categories", "category"))
    info = PngInfo()
    texts = {key: table[name][rows].tolist() for key, name in columns}
    info.add_text("pictures", json.dumps(texts))
    info.add_text("Copyright", THANKS)
    pixels = torch.cat(list(read_pictures(cache, np.array(rows))), 2)
    sheet = Image.fromarray(pixels.permute(1, 2, 0).numpy())
    write_at_once(SHEET, lambda part: sheet.save(part, pnginfo=info, optimize=True))


if __name__ == "__main__":
    main()
