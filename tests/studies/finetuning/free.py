"""Tries every sampler and schedule of a real ComfyUI at few calls of the digits model, with all the set-up that takes."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

if not __package__:  # a script: name the packages as tests/conftest.py does
    sys.path.insert(0, str(Path(__file__).absolute().parents[2]))
    import support.packages  # noqa: F401
from mmd_tests.studies.in_comfyui import run_in_comfyui

ABOUT = """Draws digits with 2, 3, 4, 5 and 8 calls of the model, with every sampler and every schedule of ComfyUI; nothing is
trained. On a CPU; about 15 minutes on one free core. Writes FREE.md, and best_free.json with what is best."""


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=ABOUT, add_help=False)
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("quality_output/finetuning"),
        metavar="FOLDER",
        help="for all figures as JSON",
    )
    return parser


if __name__ == "__main__":
    script = Path(__file__).absolute().with_name("free_bench.py")
    sys.exit(run_in_comfyui(script, make_parser(), OMP_NUM_THREADS="1"))
