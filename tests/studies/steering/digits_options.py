"""The command line of the study on digits; standard library only."""

import argparse
from pathlib import Path

ABOUT = """Steers a learned model of digits in a real ComfyUI to one class and to the witness of the 3/8/1 references,
by TRI-TSMC and by other methods with as many model calls. On a CPU; a few seconds for each seed, and two minutes
for the truth, once."""


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=ABOUT, add_help=False)
    add = parser.add_argument
    add("--seeds", type=int, default=20, metavar="N", help="how many seeds (default: 20)")
    add("--first-seed", type=int, default=6100, metavar="N", help="the first (default: 6100)")
    add("--quick", action="store_true", help="two seeds, a rough truth")
    add("--steps", type=int, default=20, metavar="N", help="of the sampler (default: 20)")
    add(
        "--settings",
        default="{}",
        metavar="JSON",
        help='other settings of TRITSMCSampler, as {"theta_init": 1}',
    )
    add("--sheet", type=Path, metavar="PNG", help="draw the images of the first seed there")
    add(
        "--out",
        type=Path,
        default=Path("quality_output/steering"),
        metavar="FOLDER",
        help="for results",
    )
    return parser
