"""Collects the emoji of `fluent.py` in one picture: python collect.py [--cache DIR]

The packages with all emoji are fetched by tests/demo/emoji/data.py, with thanks as in LICENCES.md beside it.
"""

from __future__ import annotations

import sys
from pathlib import Path

if not __package__:  # a script: name the packages as tests/conftest.py does
    sys.path.insert(0, str(Path(__file__).absolute().parents[2]))
    import support.packages  # noqa: F401

import numpy as np
from mmd_tests.demo.emoji.cache import argument_parser
from mmd_tests.demo.emoji.pictures import read_pictures, read_table
from mmd_tests.make.sets.fluent import COLUMNS, ORDER, SHEET, SIDE
from PIL import Image

THANKS = "Fluent Emoji (3D) by Microsoft, MIT License"
COPYRIGHT = 0x8298  # of the tags that pictures carry


def main() -> None:
    """Write the file."""
    cache = argument_parser(__doc__).parse_args().cache
    table = read_table(cache)
    plain = (table["style"] == "fluent") & ~table["toned"]
    rows = {table["name"][row]: row for row in np.flatnonzero(plain)}
    chosen = np.array([rows[name] for name in ORDER])
    pictures = read_pictures(cache, chosen).permute(0, 2, 3, 1).numpy()
    sheet = Image.new("RGB", (COLUMNS * SIDE, -(-len(pictures) // COLUMNS) * SIDE), "white")
    for number, picture in enumerate(pictures):
        row, column = divmod(number, COLUMNS)
        sheet.paste(Image.fromarray(picture), (column * SIDE, row * SIDE))
    tags = Image.Exif()
    tags[COPYRIGHT] = THANKS
    sheet.save(SHEET, quality=92, method=6, exif=tags)


if __name__ == "__main__":
    main()
