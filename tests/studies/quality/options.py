"""The command line, which run.py and bench.py share; standard library only."""

import argparse
from pathlib import Path

ABOUT = """Measures how close guided samples come to the truth, in worlds where it is known, next to
what else one could do. On a CPU; the whole of it takes about half an hour on 2 cores, the studies 20 minutes more."""


def names(text: str) -> tuple[str, ...]:
    """The parts between commas."""
    return tuple(name.strip() for name in text.split(",") if name.strip())


def add_usual(parser: argparse.ArgumentParser) -> None:
    """The options that all worlds share."""
    add = parser.add_argument
    add("--worlds", type=names, metavar="A,B", help="only these worlds; or emoji alone")
    add("--targets", default="", metavar="TEXT", help="only targets with this in their name")
    add("--methods", type=names, metavar="A,B", help="only these methods")
    add("--seeds", type=int, default=5, metavar="N", help="how many seeds (default: 5)")
    add("--first-seed", type=int, default=0, metavar="N", help="the first of them (default: 0)")
    add("--jobs", type=int, default=2, metavar="N", help="processes, one thread each (default: 2)")
    add(
        "--out", type=Path, default=Path("quality_output"), metavar="FOLDER", help="for the results"
    )


def make_parser() -> argparse.ArgumentParser:
    """The options, to be a parent of a parser."""
    parser = argparse.ArgumentParser(description=ABOUT, add_help=False)
    add = parser.add_argument
    add("--quick", action="store_true", help="one seed, few methods, nothing tuned: 2 minutes")
    add_usual(parser)
    add(
        "--studies",
        nargs="?",
        type=names,
        const=(),
        metavar="A,B",
        help="the smaller studies as well: all, or those named; with `only` among them nothing else",
    )
    add("--no-plots", action="store_true", help="tables only")
    return parser
