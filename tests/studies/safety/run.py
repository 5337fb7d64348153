"""Hostile files on a real ComfyUI, which must go on answering: `python tests/studies/safety/run.py`."""

import argparse
import sys
from pathlib import Path

if not __package__:  # a script: name the packages as tests/conftest.py does
    sys.path.insert(0, str(Path(__file__).absolute().parents[2]))
    import support.packages  # noqa: F401
from mmd_tests.studies.in_comfyui import run_in_comfyui

ABOUT = """\
Gives each reader (sets, LoRAs, memories, pictures, captions) 20 or more hostile files, one at a time, on one ComfyUI,
and five folders of up to 100 000 files. Prints a table in Markdown: what became of them, the longest time and the most
memory that one took, and the longest time in which the server answered GET /queue meanwhile. Returns 1 if a limit is
exceeded, or if the server ended. Needs Linux; about four minutes.
"""


def make_parser(**options: bool) -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=ABOUT, formatter_class=argparse.RawDescriptionHelpFormatter, **options
    )
    parser.add_argument("--readers", nargs="+", help="only these")
    parser.add_argument("--each", action="store_true", help="a line for each file on stderr")
    return parser


if __name__ == "__main__":
    script = Path(__file__).with_name("attack.py")
    sys.exit(run_in_comfyui(script, make_parser(add_help=False), needs=()))
