"""Fuzzes the readers of this pack on a real ComfyUI, with all the set-up that takes."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

if not __package__:  # a script: name the packages as tests/conftest.py does
    sys.path.insert(0, str(Path(__file__).absolute().parents[1]))
    import support.packages  # noqa: F401
from mmd_tests.support.launcher import add_comfyui, engine_or_exit, go_on

FUZZ = Path(__file__).absolute().parent

NEEDS = ("hypothesis>=6.100,<7",)
ABOUT = """\
Changes picture, caption and reference files and those of the cache, and hands them to the readers. Each must be
refused, or read as an independent decoder reads it. Prints a table in Markdown and returns 1 if anything else
happened; then the smallest file that shows it lies in the folder OUT.
"""


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(usage="python tests/fuzz/run.py [options]", description=ABOUT)
    parser.add_argument(
        "--examples", type=int, default=12000, help="changed files (default: %(default)s)"
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="draws other files (default: %(default)s)"
    )
    parser.add_argument(
        "--targets", nargs="+", metavar="TARGET", help="only these rows of the table"
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path(tempfile.gettempdir()) / "mmd_guidance_fuzz",
        help="where faulty files go (default: %(default)s)",
    )
    add_comfyui(parser)
    return parser


def main() -> int:
    """Get ComfyUI, run campaign.py with its Python, and return its exit code."""
    options = make_parser().parse_args()
    engine = engine_or_exit(options.comfyui, NEEDS)
    code = go_on(engine, [FUZZ / "campaign.py", *sys.argv[1:]])
    if code not in (0, 1):
        sys.stderr.write(f"The process died ({code}) of the file in {options.out / 'last'}.\n")
    return code


if __name__ == "__main__":
    sys.exit(main())
