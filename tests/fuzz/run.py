"""Fuzzes the readers of this pack on a real ComfyUI, with all the set-up that takes."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

FUZZ = Path(__file__).absolute().parent
if __package__:
    from ..engine import FETCHED, EngineError, get_engine
else:  # a script
    sys.path.insert(0, str(FUZZ.parent))
    from engine import FETCHED, EngineError, get_engine

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
    parser.add_argument(
        "--comfyui",
        choices=FETCHED,
        metavar="VERSION",
        help=f"fetch this version whatever else is there: {', '.join(FETCHED)}",
    )
    return parser


def main() -> int:
    """Get ComfyUI, run campaign.py with its Python, and return its exit code."""
    options = make_parser().parse_args()
    try:
        engine = get_engine(options.comfyui, NEEDS)
    except (EngineError, OSError) as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit("Stopped; the next run takes up the set-up again.")
    sys.stderr.write(f"ComfyUI {engine.version} in {engine.path}, Python {engine.python}\n")
    env = {**os.environ, "COMFYUI_PATH": str(engine.path)}
    env.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    command = [engine.python, str(FUZZ / "campaign.py"), *sys.argv[1:]]
    try:
        code = subprocess.run(command, env=env, check=False).returncode
    except KeyboardInterrupt:
        return 130
    if code not in (0, 1):
        sys.stderr.write(f"The process died ({code}) of the file in {options.out / 'last'}.\n")
    return code


if __name__ == "__main__":
    sys.exit(main())
