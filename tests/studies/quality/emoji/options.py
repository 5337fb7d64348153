"""The command line of the benchmark in the emoji world; standard library only."""

import argparse
from pathlib import Path

from mmd_tests.studies.quality.emoji import LEARNED
from mmd_tests.studies.quality.options import make_parser as usual_parser

from cache import default_cache  # isort: skip

WEIGHTS = LEARNED / "weights"
ABOUT = "Measures guidance in the emoji world: prompts, cfg, and sets of real pictures."


def make_parser(add_help: bool = True) -> argparse.ArgumentParser:
    """The options of the quality benchmark, and some more."""
    parents = [usual_parser()]
    parser = argparse.ArgumentParser(parents=parents, description=ABOUT, add_help=add_help)
    add = parser.add_argument
    add("--cache", type=Path, default=default_cache(), help="folder for all data")
    add("--denoiser", type=Path, default=WEIGHTS / "denoiser.safetensors", help="weights that draw")
    add("--judge", type=Path, default=WEIGHTS / "judge.safetensors", help="weights that judge")
    add("--steps", type=int, default=25, metavar="N", help="sampling steps (default: 25)")
    add("--sweep", action="store_true", help="further strengths of the published modes as well")
    return parser
