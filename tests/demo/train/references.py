"""Write the reference pictures of the demo: python tests/demo/train/references.py"""

import sys
from pathlib import Path

if not __package__:  # a script: name the packages as tests/conftest.py does
    sys.path.insert(0, str(Path(__file__).absolute().parents[2]))
    import support.packages  # noqa: F401

from mmd_demo.digits import digits_draw
from mmd_demo.scenes import shapes_draw
from PIL import Image

REFERENCES = Path(__file__).absolute().parents[1] / "references"


def write(folder: Path, pictures, captions: list[str], mode: str) -> None:
    """Numbered PNG files, each with a text file that holds its caption."""
    folder.mkdir(parents=True, exist_ok=True)
    for index, (picture, caption) in enumerate(zip(pictures, captions, strict=True)):
        pixels = (picture * 255).round().byte().numpy()
        Image.fromarray(pixels).convert(mode).save(folder / f"{index:03}.png", optimize=True)
        (folder / f"{index:03}.txt").write_text(caption + "\n", encoding="utf-8")


def main() -> None:
    shapes = shapes_draw("a blue triangle", 64, seed=0)
    write(REFERENCES / "shapes", shapes, ["a blue triangle"] * len(shapes), "RGB")
    counts = {3: 50, 8: 30, 1: 20}
    digits, _ = digits_draw({digit: n / 100 for digit, n in counts.items()}, 100, seed=0)
    captions = [str(digit) for digit, n in counts.items() for _ in range(n)]
    write(REFERENCES / "digits", digits, captions, "L")


if __name__ == "__main__":
    main()
