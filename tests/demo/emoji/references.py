"""Write the reference pictures of the demo: python references.py [--cache DIR] [--style fluent]

They are 64 pictures of one style whose names no network was trained on in any style.
"""

import sys
from pathlib import Path

if not __package__:  # a script: name the packages as tests/conftest.py does
    sys.path.insert(0, str(Path(__file__).absolute().parents[2]))
    import support.packages  # noqa: F401

import numpy as np
from mmd_tests.demo.emoji.cache import argument_parser
from mmd_tests.demo.emoji.pictures import read_pictures, read_table
from PIL import Image

COUNT = 64
FOLDER = Path(__file__).resolve().parents[1] / "references" / "emoji"


def choose(table: dict[str, np.ndarray], style: str) -> np.ndarray:
    """Numbers of the rows, evenly spaced; symbols say little of a style and are left out."""
    held_out = (table["split"] == "val_name") & (table["style"] == style) & ~table["toned"]
    rows = np.flatnonzero(held_out & (table["category"] != "Symbols"))
    return rows[np.arange(COUNT) * len(rows) // COUNT]


def main() -> None:
    """Write numbered PNG files, each with a text file that holds its name."""
    parser = argument_parser(__doc__)
    parser.add_argument("--style", default="fluent")
    arguments = parser.parse_args()
    table = read_table(arguments.cache)
    rows = choose(table, arguments.style)
    pictures = read_pictures(arguments.cache, rows).permute(0, 2, 3, 1).numpy()
    FOLDER.mkdir(parents=True, exist_ok=True)
    for number, (row, picture) in enumerate(zip(rows, pictures, strict=True)):
        Image.fromarray(picture).save(FOLDER / f"{number:03}.png", optimize=True)
        (FOLDER / f"{number:03}.txt").write_text(f"{table['name'][row]}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
