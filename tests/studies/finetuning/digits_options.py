"""The command line of the study on digits; standard library only."""

import argparse
from pathlib import Path

ABOUT = """Trains LoRAs for 5 steps on a learned model of digits in a real ComfyUI, and compares what is drawn with them to
the model alone and to MMD guidance. On a CPU; about 12 minutes on 2 free cores. Writes DIGITS.md and digits.png beside it."""


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=ABOUT, add_help=False)
    add = parser.add_argument
    add("--seeds", type=int, default=3, metavar="N", help="trainings of each kind (default: 3)")
    add("--first-seed", type=int, default=7100, metavar="N", help="the first (default: 7100)")
    add("--jobs", type=int, default=2, metavar="N", help="processes, one thread each (default: 2)")
    add(
        "--quick",
        action="store_true",
        help="one tuning seed, a fifth of the updates; only in --out",
    )
    add(
        "--out",
        type=Path,
        default=Path("quality_output/finetuning"),
        metavar="FOLDER",
        help="for figures as JSON and the trained LoRAs",
    )
    return parser
