"""Draws pictures with and without MMD guidance on a real ComfyUI, and shows them side by side."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

if not __package__:  # a script: name the packages as tests/conftest.py does
    sys.path.insert(0, str(Path(__file__).absolute().parents[1]))
    import support.packages  # noqa: F401
from mmd_tests.support.engine import Engine
from mmd_tests.support.launcher import ABOUT as ENGINE
from mmd_tests.support.launcher import add_comfyui, engine_or_exit, go_on

DEMO = Path(__file__).absolute().parent

WORLDS = ("emoji", "shapes", "digits")
IMAGES = ("png", "jpg", "jpeg", "jfif", "webp", "bmp", "gif", "tif", "tiff", "avif", "heic", "jxl")
SMALL = 4 * 2**30  # bytes; checkpoints up to this size are taken for SD1.5
ABOUT = f"""\
Three small worlds need no checkpoint and no graphics card:
  emoji    a text-to-image model draws 16 prompts; the references are other pictures of one style
  shapes   discs, squares and triangles of all colors; the references are blue triangles
  digits   handwritten digits; the references are mostly a few of them

With a checkpoint of yours, its own pictures and yours are compared:
  python tests/demo/run.py --checkpoint sd15.safetensors --references my_images --prompt "a cat"

{ENGINE}"""


def find_files(folder: Path, endings: Iterable[str]) -> list[Path]:
    """The files with these endings in a folder and all folders in it, sorted, no hidden ones."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower()[1:] in endings
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        usage="python tests/demo/run.py [options]",
        description=__doc__,
        epilog=ABOUT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--world", choices=WORLDS, help="the demo world (default: emoji)")
    add("--checkpoint", type=Path, metavar="FILE", help="a checkpoint of yours, not a world")
    add("--references", type=Path, metavar="FOLDER", help="your reference images")
    add("--prompt", metavar="TEXT", help="what the pictures should show")
    add("--negative", metavar="TEXT", help="what they should not show")
    sizes = "512x512 for checkpoints up to 4 GiB, else 1024x1024"
    add("--size", type=_size, metavar="WxH", help=f"of the pictures (default: {sizes})")
    add("--batch", type=_count, metavar="N", help="how many pictures are drawn together")
    add("--strength", type=float, metavar="X", help="of the guidance; 0 is off")
    add("--steps", type=_count, metavar="N", help="denoising steps")
    add("--cfg", type=float, metavar="X", help="how closely the prompt is followed")
    add("--seed", type=int, metavar="N", help="of the noise, the same with and without guidance")
    add("--out", type=Path, metavar="FOLDER", default=Path("demo_output"), help="for the results")
    add_comfyui(parser)
    return parser


def _size(text: str) -> tuple[int, int]:
    parts = [int(part) if part.isdigit() else 0 for part in text.lower().split("x")]
    if len(parts) != 2 or any(side < 64 or side % 8 for side in parts):
        message = f"{text!r} is not a size such as 768x512, in multiples of 8 from 64 on"
        raise argparse.ArgumentTypeError(message)
    return parts[0], parts[1]


def _count(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 1 or more")
    return int(text)


def read_options(arguments: list[str] | None = None) -> dict:
    """What draw.py is to do; ends the program with one sentence where that cannot be done."""
    given = make_parser().parse_args(arguments)
    own = {"--references": given.references, "--prompt": given.prompt}
    own_too = {"--negative": given.negative, "--size": given.size}
    sampler = {"strength": given.strength, "steps": given.steps, "cfg": given.cfg}
    options = {
        "world": given.world or "emoji",
        "batch": given.batch,
        "seed": given.seed,
        "sampler": {name: value for name, value in sampler.items() if value is not None},
        "out": str(given.out.absolute()),
        "comfyui": given.comfyui,
    }
    if given.checkpoint is None:
        for name, value in (own | own_too).items():
            if value is not None:
                sys.exit(f"{name} goes with --checkpoint: the demo worlds have their own.")
        return options
    if given.world:
        sys.exit("Give either --world or --checkpoint, not both.")
    for name, value in own.items():
        if value is None:
            sys.exit(f"--checkpoint needs {name} too.")
    if not given.checkpoint.is_file():
        sys.exit(f"There is no checkpoint {given.checkpoint}: give the path of a file.")
    if not given.references.is_dir():
        sys.exit(f"There is no folder {given.references}: give one with reference images.")
    if not find_files(given.references, IMAGES):
        sys.exit(f"{given.references} has no images ({', '.join(IMAGES)}): add some.")
    side = 512 if given.checkpoint.stat().st_size <= SMALL else 1024
    width, height = given.size or (side, side)
    return options | {
        "world": "",
        "checkpoint": str(given.checkpoint.absolute()),
        "references": str(given.references.absolute()),
        "positive": given.prompt,
        "negative": given.negative,
        "width": width,
        "height": height,
    }


def start(options: dict, engine: Engine) -> int:
    """Run draw.py with the Python of `engine`, and return its exit code."""
    told = {**options, "engine": {key: str(value) for key, value in asdict(engine).items()}}
    return go_on(engine, [DEMO / "draw.py", json.dumps(told)])


def main() -> int:
    """Get ComfyUI, then draw."""
    options = read_options()
    return start(options, engine_or_exit(options["comfyui"]))


if __name__ == "__main__":
    sys.exit(main())
