"""The command line of the benchmark in the emoji world; standard library only."""

import argparse
from pathlib import Path

from mmd_demo.emoji import DENOISER_WEIGHTS
from mmd_tests.demo.emoji import JUDGE_WEIGHTS
from mmd_tests.demo.emoji.cache import default_cache
from mmd_tests.studies.quality.options import add_usual, names

ABOUT = """Measures guidance in the emoji world: prompts, cfg, and sets of real pictures. --targets may
name several parts of names: "fluent,smileys,no prompt"."""


def make_parser(add_help: bool = True) -> argparse.ArgumentParser:
    """The options that all worlds share, and some more."""
    parser = argparse.ArgumentParser(description=ABOUT, add_help=add_help)
    add = parser.add_argument
    add("--quick", action="store_true", help="eight images of pictures of the repository: seconds")
    add_usual(parser)
    add("--cache", type=Path, default=default_cache(), help="folder for all data")
    add("--denoiser", type=Path, default=DENOISER_WEIGHTS, help="weights that draw")
    add("--judge", type=Path, default=JUDGE_WEIGHTS, help="weights that judge")
    add("--steps", type=int, default=25, metavar="N", help="sampling steps (default: 25)")
    add("--family", choices=("flow", "eps"), default="flow", help="of the model (default: flow)")
    about = "one setting after the other, by names or all of them, instead of the tables"
    add("--sweep", type=names, default=(), metavar="A,B", help=about)
    add("--sheets", action="store_true", help="pictures of the first seed beside the tables")
    return parser
